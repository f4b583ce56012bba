//! Can schema changes be captured? Never fails preflight: without event triggers the schema is
//! polled.

use proxy::client::Session;

use super::error::Error;
use super::report::Row;

/// A row only where something is to be said.
pub(super) async fn row(session: &Session) -> Result<Option<Row>, Error> {
    let Some(reason) = obstacle(session).await? else { return Ok(None) };
    Ok(Some(Row::warn(
        "ddl capture",
        format!("Schema changes are polled, not captured in order: {reason}"),
        "Use a role that may create event triggers and schemas, if schema changes must arrive at once.",
    )))
}

/// What stands in the way. Asked by making an event trigger in a transaction that is rolled back.
async fn obstacle(session: &Session) -> Result<Option<String>, Error> {
    let row = session.query_one(PRIVILEGES_SQL, &[]).await?;
    if row.try_get("is_foreign")? {
        return Ok(Some("a schema \"ardent\" is there already".to_owned()));
    }
    if !row.try_get::<_, bool>("may_create")? {
        return Ok(Some("no permission to create a schema in the database".to_owned()));
    }
    let outcome = session.batch_execute(PROBE_SQL).await;
    session.batch_execute("ROLLBACK").await?;
    match outcome {
        Ok(()) => Ok(None),
        Err(error) => match error.as_db_error() {
            Some(db) => Ok(Some(db.message().to_owned())),
            None => Err(error.into()),
        },
    }
}

const PRIVILEGES_SQL: &str = "\
SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') AS may_create,
       EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'ardent'
                  AND coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '')
                      NOT LIKE 'Ardent: %') AS is_foreign";

const PROBE_SQL: &str = "\
BEGIN;
CREATE FUNCTION pg_temp.ardent_probe() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER ardent_probe ON ddl_command_end EXECUTE FUNCTION pg_temp.ardent_probe();
ROLLBACK";
