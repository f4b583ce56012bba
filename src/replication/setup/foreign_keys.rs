//! Foreign keys that cannot hold in the trunk as its rows come: because they point to a table that
//! is left out, or to one that was copied at another moment.

use proxy::client::Session;

use super::super::error::{Error, at_trunk};
use super::super::ledger::{ForeignKey, Unmet};
use super::Setup;

/// All foreign keys.
pub(super) async fn read(
    session: &Session,
    schemas: &[String],
) -> Result<Vec<ForeignKey>, tokio_postgres::Error> {
    let rows = session.query(FOREIGN_KEYS_SQL, &[&schemas]).await?;
    let read = |row: &tokio_postgres::Row| {
        Ok(ForeignKey {
            schema: row.try_get(0)?,
            table: row.try_get(1)?,
            name: row.try_get(2)?,
            definition: row.try_get(3)?,
        })
    };
    rows.iter().map(read).collect()
}

/// Makes what validation refused without it.
pub(super) async fn add_unvalidated(
    setup: &Setup<'_>,
    wanted: &[ForeignKey],
) -> Result<Unmet, Error> {
    let trunk = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    let present = read(&trunk, &setup.link.schemas).await.map_err(at_trunk)?;
    let mut unmet = Unmet::default();
    for key in wanted {
        let present = present.iter().find(|other| other.is_same(key));
        let is_added = match present {
            Some(present) if present.is_validated() || !key.is_validated() => continue,
            Some(_) => true,
            None => trunk.batch_execute(&key.add_unvalidated()).await.is_ok(),
        };
        let list = if is_added { &mut unmet.unvalidated } else { &mut unmet.missing };
        list.push(key.clone());
    }
    trunk.close().await;
    Ok(unmet)
}

const FOREIGN_KEYS_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid)
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname <> 'ardent'
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY 1, 2, 3";
