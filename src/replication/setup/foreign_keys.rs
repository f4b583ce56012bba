//! Foreign keys that cannot hold in the trunk, because they point to a table that is left out.

use proxy::client::{Session, quote_identifier};

use crate::source::TableName;

use super::super::error::{Error, at_source, at_trunk};
use super::Setup;

/// Foreign keys that validation refused, because they point to a table that is left out.
pub(super) async fn add_unvalidated_keys(setup: &Setup<'_>) -> Result<Vec<String>, Error> {
    let wanted = setup
        .snapshot
        .session
        .query(FOREIGN_KEYS_SQL, &[&setup.link.schemas])
        .await
        .map_err(at_source)?;
    let trunk = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    let present = trunk.query(FOREIGN_KEYS_SQL, &[&setup.link.schemas]).await.map_err(at_trunk)?;
    let read = |row: &tokio_postgres::Row| {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        Ok::<_, tokio_postgres::Error>((table, row.try_get::<_, String>(2)?))
    };
    let present = present.iter().map(read).collect::<Result<Vec<_>, _>>().map_err(at_trunk)?;
    let mut warnings = Vec::new();
    for row in &wanted {
        let (table, name) = read(row).map_err(at_source)?;
        if present.contains(&(table.clone(), name.clone())) {
            continue;
        }
        let definition: String = row.try_get(3).map_err(at_source)?;
        let definition = definition.trim_end_matches(" NOT VALID");
        let sql = format!(
            "ALTER TABLE {} ADD CONSTRAINT {} {definition} NOT VALID",
            table.quoted(),
            quote_identifier(&name)
        );
        warnings.push(match trunk.batch_execute(&sql).await {
            Ok(()) => format!("foreign key {name} of {table} is not validated"),
            Err(_) => format!("foreign key {name} of {table} is not carried over"),
        });
    }
    trunk.close().await;
    Ok(warnings)
}

const FOREIGN_KEYS_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid)
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname <> 'ardent'
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY 1, 2, 3";
