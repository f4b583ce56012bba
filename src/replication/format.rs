//! The tables of ours in a trunk, schema `ardent`, and how a trunk of an older build becomes one of
//! this build. The format's number is the schema's comment: everybody may read it, only the
//! superuser may write it.
//!
//! Invariants:
//! * a step that was released is never changed; what is new is a new step;
//! * a step and its number are one transaction, under the applier's lock: whoever applies, applies
//!   to one format;
//! * a branch keeps the format of the moment it was cut at. All that is read in branches is
//!   `disabled_trigger`, which is as the first format made it.

use proxy::client::Session;

use super::applier::APPLIER_LOCK;
use super::error::{Error, at_trunk};
use super::link::TrunkAccess;

/// What each format adds to the one before; a trunk's number is how many of them it has had.
const STEPS: [&str; 3] = [TABLES, COPIED_PARTS, FIRST_COPY];

/// Makes the schema in a trunk without one. The superuser owns it; the applying role may move the
/// progress row and note quarantined tables.
pub(super) async fn create(system: &Session) -> Result<(), Error> {
    add_steps(system, 0).await
}

/// Brings a trunk up to date before anybody reads what is in the schema.
pub(super) async fn bring_up(trunk: &TrunkAccess) -> Result<(), Error> {
    let system = Session::open(&trunk.as_system(&trunk.database)).await.map_err(at_trunk)?;
    let outcome = bring_up_in(&system).await;
    system.close().await;
    outcome
}

/// The same in a session that is there already.
pub(super) async fn bring_up_in(system: &Session) -> Result<(), Error> {
    let found = read(system).await?.ok_or(Error::NotSetUp)?;
    let known = STEPS.len();
    if found > known {
        return Err(Error::NewerTrunk { found, known });
    }
    if found < known {
        add_steps(system, found).await?;
        tracing::info!(from = found, to = known, "trunk brought to this build's format");
    }
    Ok(())
}

/// How many steps the trunk has had; none without the schema.
async fn read(system: &Session) -> Result<Option<usize>, Error> {
    let Some(row) = system.query_opt(READ_SQL, &[]).await.map_err(at_trunk)? else {
        return Ok(None);
    };
    if !row.try_get::<_, bool>("has_known").map_err(at_trunk)? {
        return Err(unsafe_because(
            "trunk was made by a build that did not follow schema changes: delete the connector \
             and create it again",
        ));
    }
    match row.try_get::<_, Option<String>>("comment").map_err(at_trunk)? {
        // Builds that did not count wrote none.
        None => Ok(Some(1)),
        Some(comment) => {
            let number = comment.strip_prefix(COMMENT_PREFIX).and_then(|text| text.parse().ok());
            number.map(Some).ok_or_else(|| unsafe_because("format of the trunk is damaged"))
        }
    }
}

fn unsafe_because(reason: &str) -> Error {
    Error::Unsafe(reason.to_owned())
}

async fn add_steps(system: &Session, found: usize) -> Result<(), Error> {
    for (number, step) in (1..).zip(STEPS).skip(found) {
        system.batch_execute("BEGIN").await.map_err(at_trunk)?;
        let outcome = add_step(system, number, step).await;
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        system.batch_execute(end).await.map_err(at_trunk)?;
        outcome?;
    }
    Ok(())
}

async fn add_step(system: &Session, number: usize, step: &str) -> Result<(), Error> {
    let lock = "SELECT pg_catalog.pg_try_advisory_xact_lock($1)";
    let row = system.query_one(lock, &[&APPLIER_LOCK]).await.map_err(at_trunk)?;
    if !row.try_get::<_, bool>(0).map_err(at_trunk)? {
        return Err(Error::Busy);
    }
    if read(system).await?.unwrap_or(0) + 1 != number {
        // Somebody else took the step before the lock was ours.
        return Err(Error::Busy);
    }
    let script = format!("{step}; COMMENT ON SCHEMA ardent IS '{COMMENT_PREFIX}{number}'");
    system.batch_execute(&script).await.map_err(at_trunk)
}

const COMMENT_PREFIX: &str = "Ardent: format ";

const READ_SQL: &str = "\
SELECT pg_catalog.obj_description(n.oid, 'pg_namespace') AS comment,
       EXISTS (SELECT FROM pg_catalog.pg_class c
                WHERE c.relnamespace = n.oid AND c.relname = 'known') AS has_known
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'ardent'";

// A fill factor of 10 keeps updates of the one row on its page (replication notes, section 3.2).
const TABLES: &str = "\
CREATE SCHEMA ardent;
CREATE TABLE ardent.progress (
  connector text PRIMARY KEY,
  slot text NOT NULL,
  system_identifier text NOT NULL,
  database_oid bigint NOT NULL,
  timeline bigint NOT NULL,
  lsn pg_lsn NOT NULL,
  idle_lsn pg_lsn NOT NULL,
  commit_time timestamptz
) WITH (fillfactor = 10);
CREATE TABLE ardent.quarantine (
  schema_name text, table_name text,
  reason text NOT NULL,
  lsn pg_lsn NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  is_resync_due boolean NOT NULL DEFAULT false,
  PRIMARY KEY (schema_name, table_name)
);
CREATE TABLE ardent.disabled_trigger (
  schema_name text, table_name text, trigger_name text,
  mode \"char\" NOT NULL,
  PRIMARY KEY (schema_name, table_name, trigger_name)
);
CREATE TABLE ardent.known (
  class text, oid bigint,
  namespace bigint NOT NULL,
  name text NOT NULL,
  target text NOT NULL,
  columns jsonb NOT NULL,
  PRIMARY KEY (class, oid)
);
GRANT USAGE ON SCHEMA ardent TO ardent_apply;
GRANT SELECT, INSERT, UPDATE, DELETE ON ardent.known TO ardent_apply;
GRANT SELECT, UPDATE ON ardent.progress TO ardent_apply;
GRANT SELECT, INSERT, UPDATE, DELETE ON ardent.quarantine TO ardent_apply;
GRANT SELECT, INSERT, DELETE ON ardent.disabled_trigger TO ardent_apply";

// The last builds that did not count made the column too.
const COPIED_PARTS: &str = "\
ALTER TABLE ardent.quarantine ADD COLUMN IF NOT EXISTS copied_parts bigint NOT NULL DEFAULT 0";

// Empty but while a first copy is made, and until the stream has evened out one that went on.
const FIRST_COPY: &str = "\
CREATE TABLE ardent.first_copy (
  slot text PRIMARY KEY,
  system_identifier text NOT NULL,
  database_oid bigint NOT NULL,
  timeline bigint NOT NULL,
  lsn pg_lsn NOT NULL,
  terms text NOT NULL,
  dump bytea NOT NULL,
  foreign_keys jsonb NOT NULL,
  warnings text[] NOT NULL,
  unmet jsonb
);
CREATE TABLE ardent.copied (
  schema_name text, table_name text,
  shape text NOT NULL,
  lsn pg_lsn,
  PRIMARY KEY (schema_name, table_name)
);
GRANT SELECT, DELETE ON ardent.first_copy TO ardent_apply;
GRANT SELECT, UPDATE, DELETE ON ardent.copied TO ardent_apply";
