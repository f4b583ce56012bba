//! Triggers that the trunk has switched off, since they fire even while replicating, are on again
//! in every branch: there the application's own writes are to fire them.

use proxy::client::Session;

use super::error::{Error, at_trunk};
use super::link::TrunkAccess;

/// True if a branch cut now has some to switch on.
pub(super) async fn are_disabled(trunk: &Session) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT FROM ardent.disabled_trigger)";
    let row = trunk.query_one(sql, &[]).await.map_err(at_trunk)?;
    row.try_get(0).map_err(at_trunk)
}

/// Switches them on in a fresh branch, each as it is on the source.
pub async fn enable_triggers(branch: &TrunkAccess) -> Result<(), Error> {
    let apply = Session::open(&branch.as_apply("")).await.map_err(at_trunk)?;
    let rows = apply.query(ENABLE_SQL, &[]).await.map_err(at_trunk)?;
    let mut sql = String::from("BEGIN;");
    for row in rows {
        sql.push_str(&row.try_get::<_, String>(0).map_err(at_trunk)?);
    }
    sql.push_str("DELETE FROM ardent.disabled_trigger; COMMIT");
    apply.batch_execute(&sql).await.map_err(at_trunk)?;
    apply.close().await;
    Ok(())
}

// Those that were dropped since are left out.
const ENABLE_SQL: &str = "\
SELECT pg_catalog.format('ALTER TABLE %I.%I ENABLE %s TRIGGER %I;', n.nspname, c.relname,
                         CASE d.mode WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, t.tgname)
  FROM ardent.disabled_trigger d
  JOIN pg_catalog.pg_namespace n ON n.nspname = d.schema_name
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = d.table_name
  JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid AND t.tgname = d.trigger_name";
