//! What a connector installs in its source, and how all of it goes again.
//!
//! Needs the right to make event triggers: a superuser, or what a provider has in its place. Where
//! that is missing, nothing at all is installed, and the reason is told.

use proxy::client::Session;
use sha2::{Digest, Sha256};

use crate::source::SourceUrl;

use super::super::error::{Error, at_source};
use super::super::link::Link;
use super::super::message::MessageKey;

const SESSION_OPTIONS: &str = "-c statement_timeout=30s -c lock_timeout=10s";
const KEY_SQL: &str = include_str!("key.sql");
const CAPTURE_SQL: &str = include_str!("capture.sql");

/// The schema is looked at now and then.
pub(in super::super) const MODE_POLLING: &str = "polling";

/// How schema changes are learnt of.
#[derive(Clone)]
pub(in super::super) enum Capture {
    /// By signed messages of event triggers.
    Triggers(MessageKey),
    /// Not by messages, but by polling; why.
    Unavailable(String),
}

impl Capture {
    /// The word for it in status.
    pub(in super::super) fn mode(&self) -> &'static str {
        match self {
            Self::Triggers(_) => "event triggers",
            Self::Unavailable(_) => MODE_POLLING,
        }
    }
}

/// Installs what is missing, damaged or of another build. The key stays while it is whole: messages
/// that were sealed with it are in the log still.
pub(in super::super) async fn install(link: &Link) -> Result<Capture, Error> {
    let session = Session::open(&link.source_target(SESSION_OPTIONS)).await.map_err(at_source)?;
    let outcome = install_with(&session).await;
    session.close().await;
    outcome
}

async fn install_with(session: &Session) -> Result<Capture, Error> {
    let script = CAPTURE_SQL.replace("{describe}", super::describe::DESCRIBE_SQL);
    let build = format!("{:x}", Sha256::digest(&script));
    let row = session.query_one(STATE_SQL, &[&build]).await.map_err(at_source)?;
    let is_foreign: bool = row.try_get("is_foreign").map_err(at_source)?;
    let triggers: i64 = row.try_get("triggers").map_err(at_source)?;
    let has_key: bool = row.try_get("has_key").map_err(at_source)?;
    if is_foreign {
        let reason = "schema \"ardent\" of the source is not ours";
        return Ok(Capture::Unavailable(reason.to_owned()));
    }
    if triggers != TRIGGERS || !has_key {
        let key = if has_key { "" } else { KEY_SQL };
        let drop = if has_key { DROP_FUNCTIONS_SQL.to_owned() } else { drop_sql() };
        let sql = format!(
            "BEGIN; {drop}; {key}; {script}; COMMENT ON FUNCTION ardent.capture() IS '{build}'; COMMIT"
        );
        if let Err(error) = session.batch_execute(&sql).await {
            let Some(said) = error.as_db_error().map(|db| db.message().to_owned()) else {
                return Err(at_source(error));
            };
            session.batch_execute("ROLLBACK").await.map_err(at_source)?;
            return Ok(Capture::Unavailable(said));
        }
        tracing::info!("event triggers installed on the source");
    }
    let key = match session.query_one("SELECT key FROM ardent.key", &[]).await {
        Ok(row) => row.try_get::<_, Vec<u8>>(0).map_err(at_source)?,
        Err(error) => match error.as_db_error() {
            Some(db) => return Ok(Capture::Unavailable(db.message().to_owned())),
            None => return Err(at_source(error)),
        },
    };
    Ok(match key.try_into() {
        Ok(key) => Capture::Triggers(MessageKey::from_bytes(key)),
        Err(_) => Capture::Unavailable("key of the source's event triggers is damaged".to_owned()),
    })
}

/// Removes what [`install`] made. What is not ours stays, in a schema of our name too, and all of
/// it while another connector, of whichever server, follows the same database.
pub(in super::super) async fn drop_capture(source: &SourceUrl) -> Result<(), Error> {
    let target = source.pinned().with_options(SESSION_OPTIONS);
    let session = Session::open(&target).await.map_err(at_source)?;
    let outcome = drop_with(&session).await.map_err(at_source);
    session.close().await;
    outcome
}

async fn drop_with(session: &Session) -> Result<(), tokio_postgres::Error> {
    if session.query_opt(OTHERS_SQL, &[]).await?.is_some() {
        tracing::info!("event triggers stay on the source: another connector needs them");
        return Ok(());
    }
    session.batch_execute(&drop_sql()).await
}

// The slot of the connector that goes is gone already.
const OTHERS_SQL: &str = "\
SELECT slot_name FROM pg_catalog.pg_replication_slots \
WHERE database = pg_catalog.current_database() AND slot_name ~ '^ardent_c(onn_)?[0-9a-z]+$' LIMIT 1";

const TRIGGERS: i64 = 3;

const STATE_SQL: &str = "\
WITH ours AS (SELECT n.oid, coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '')
                       LIKE 'Ardent: %' AS is_ours
                FROM pg_catalog.pg_namespace n WHERE n.nspname = 'ardent')
SELECT EXISTS (SELECT FROM ours WHERE NOT is_ours) AS is_foreign,
       (SELECT count(*) FROM pg_catalog.pg_event_trigger t
          JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid JOIN ours ON ours.oid = p.pronamespace
         WHERE t.evtenabled = 'A' AND p.proname = 'capture'
           AND pg_catalog.obj_description(p.oid, 'pg_proc') = $1) AS triggers,
       EXISTS (SELECT FROM pg_catalog.pg_class c JOIN ours ON ours.oid = c.relnamespace
                WHERE c.relname = 'key' AND c.relkind = 'm' AND c.relispopulated) AS has_key";

const DROP_FUNCTIONS_SQL: &str = "\
DROP EVENT TRIGGER IF EXISTS ardent_ddl;
DROP EVENT TRIGGER IF EXISTS ardent_drop;
DROP EVENT TRIGGER IF EXISTS ardent_rewrite;
DROP FUNCTION IF EXISTS ardent.capture(), ardent.touched(text), ardent.emit(text),
  ardent.describe(oid[], oid[], oid[], oid[], boolean)";

/// What an operator can run instead, once the slot is gone.
pub(in super::super) fn drop_schema_sql() -> String {
    format!(
        "DO $$ BEGIN IF NOT EXISTS ({OTHERS_SQL}) THEN \
         DROP SCHEMA IF EXISTS ardent CASCADE; END IF; END $$;"
    )
}

/// The schema goes only if nothing else is in it.
fn drop_sql() -> String {
    format!(
        "DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'ardent'
                AND pg_catalog.obj_description(n.oid, 'pg_namespace') LIKE 'Ardent: %') THEN
    {DROP_FUNCTIONS_SQL};
    DROP MATERIALIZED VIEW IF EXISTS ardent.key;
    BEGIN
      DROP SCHEMA ardent;
    EXCEPTION WHEN dependent_objects_still_exist THEN
      COMMENT ON SCHEMA ardent IS NULL;
    END;
  END IF;
END $$"
    )
}
