//! What materialized views of the source hold is no part of a dump of its schema, nor of its log:
//! the trunk makes it anew from the tables it has copied.

use proxy::client::Session;

use super::super::error::{Error, at_source, at_trunk};
use super::Setup;

/// Fills those that are filled on the source. Returns what stays empty.
pub(super) async fn refresh(setup: &Setup<'_>) -> Result<Vec<String>, Error> {
    let source = &setup.snapshot.session;
    let rows = source.query(POPULATED_SQL, &[&setup.link.schemas]).await.map_err(at_source)?;
    let trunk = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    let mut warnings = Vec::new();
    for row in rows {
        let view: String = row.try_get(0).map_err(at_source)?;
        let sql = format!("REFRESH MATERIALIZED VIEW {view}");
        let Err(error) = trunk.batch_execute(&sql).await else { continue };
        match error.as_db_error() {
            Some(refusal) => {
                let reason = refusal.message();
                warnings.push(format!("materialized view {view} stays empty: {reason}"));
            }
            None => return Err(at_trunk(error)),
        }
    }
    trunk.close().await;
    Ok(warnings)
}

// One that reads another was made after it.
const POPULATED_SQL: &str = "\
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname <> 'ardent'
   AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY c.oid";
