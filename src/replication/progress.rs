//! The progress row: which source, and up to which commit of it, this trunk is a copy of.
//!
//! Invariants: `lsn` moves in the transaction that applies what lies before it. `idle_lsn` is what
//! was reported to the source beyond it while nothing was pending; it is written before it is
//! reported. The start rules compare the slot with the greater of both (replication notes, 3.3).

use proxy::client::Session;

use crate::lsn::Lsn;
use crate::source::Identity;

use super::error::{Error, at_trunk};
use super::format;
use super::link::{Link, TrunkAccess};
use super::setup::maintenance_database;

/// The row as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) identity: Identity,
    pub(super) slot: String,
    /// End of the last applied commit.
    pub(super) lsn: Lsn,
    /// Reported as flushed while idle.
    pub(super) idle_lsn: Lsn,
    /// Of the last applied commit, as microseconds of the Unix epoch.
    pub(super) commit_time_us: Option<i64>,
}

impl Progress {
    /// Where streaming starts again.
    pub(super) fn start(&self) -> Lsn {
        self.lsn.max(self.idle_lsn)
    }
}

/// Where the copy of a finished setup stands; none if there is no finished one for this link.
pub(super) async fn finished(link: &Link, trunk: &TrunkAccess) -> Result<Option<Lsn>, Error> {
    let Some(system) = open_database(trunk).await? else { return Ok(None) };
    let found = load(&system).await;
    system.close().await;
    match found {
        Ok(progress) if progress.slot == link.slot() => Ok(Some(progress.lsn)),
        Ok(_) | Err(Error::NotSetUp) => Ok(None),
        Err(error) => Err(error),
    }
}

/// To this Postgres sets the limit of a database as it begins to drop it: nobody can connect from
/// then on (`DATCONNLIMIT_INVALID_DB`, since 11.21, 12.16, 13.12, 14.9 and 15.4).
const DROPPED_IN_PART: i32 = -2;

/// A session of the superuser in a trunk's database; none if there is no such database, or what is
/// left of one whose end was cut short.
pub(super) async fn open_existing(trunk: &TrunkAccess) -> Result<Option<Session>, Error> {
    let maintenance = maintenance_database(&trunk.database);
    let system = Session::open(&trunk.as_system(maintenance)).await.map_err(at_trunk)?;
    let sql = "SELECT FROM pg_catalog.pg_database WHERE datname = $1 AND datconnlimit <> $2";
    let found = system.query_opt(sql, &[&trunk.database, &DROPPED_IN_PART]).await;
    let exists = found.map_err(at_trunk)?.is_some();
    system.close().await;
    if !exists {
        return Ok(None);
    }
    Session::open(&trunk.as_system(&trunk.database)).await.map(Some).map_err(at_trunk)
}

/// The same, if it has our schema, in this build's format.
pub(super) async fn open_database(trunk: &TrunkAccess) -> Result<Option<Session>, Error> {
    let Some(system) = open_existing(trunk).await? else { return Ok(None) };
    match format::bring_up_in(&system).await {
        Ok(()) => Ok(Some(system)),
        Err(error) => {
            system.close().await;
            if matches!(error, Error::NotSetUp) { Ok(None) } else { Err(error) }
        }
    }
}

/// Writes the row: from here on the trunk counts as a copy.
pub(super) async fn begin(
    system: &Session,
    link: &Link,
    identity: &Identity,
    lsn: Lsn,
) -> Result<(), Error> {
    system
        .execute(
            "INSERT INTO ardent.progress (connector, slot, system_identifier, database_oid,
                                          timeline, lsn, idle_lsn)
             VALUES ($1, $2, $3::text, $4::text::bigint, $5::text::bigint,
                     $6::text::pg_lsn, $6::text::pg_lsn)",
            &[
                &link.connector,
                &link.slot(),
                &identity.system_identifier.to_string(),
                &identity.database_oid.to_string(),
                &identity.timeline.to_string(),
                &lsn.to_string(),
            ],
        )
        .await
        .map_err(at_trunk)?;
    Ok(())
}

/// Reads the row, of a trunk that has been brought to this build's format.
pub(super) async fn load(session: &Session) -> Result<Progress, Error> {
    let row = session.query_opt(LOAD_SQL, &[]).await.map_err(at_trunk)?.ok_or(Error::NotSetUp)?;
    read(&row)
}

/// The row as it was selected, by the names of its columns.
pub(super) fn read(row: &tokio_postgres::Row) -> Result<Progress, Error> {
    let text = |column: &str| row.try_get::<_, String>(column).map_err(at_trunk);
    let damaged = || Error::Unsafe("trunk's progress row is damaged".to_owned());
    Ok(Progress {
        identity: Identity {
            system_identifier: text("system_identifier")?.parse().map_err(|_| damaged())?,
            database_oid: text("database_oid")?.parse().map_err(|_| damaged())?,
            timeline: text("timeline")?.parse().map_err(|_| damaged())?,
        },
        slot: text("slot")?,
        lsn: text("lsn")?.parse().map_err(|_| damaged())?,
        idle_lsn: text("idle_lsn")?.parse().map_err(|_| damaged())?,
        commit_time_us: row.try_get("commit_time_us").map_err(at_trunk)?,
    })
}

/// Triggers that fire even while replicating would do their work a second time here. They are
/// switched off in the trunk and noted, so that a branch can switch them on again.
pub(super) async fn disable_replica_triggers(trunk: &TrunkAccess) -> Result<Vec<String>, Error> {
    let apply = Session::open(&trunk.as_apply("")).await.map_err(at_trunk)?;
    let rows = apply.query(REPLICA_TRIGGERS_SQL, &[]).await.map_err(at_trunk)?;
    let mut warnings = Vec::new();
    for row in rows {
        let statement: String = row.try_get(0).map_err(at_trunk)?;
        let name: String = row.try_get(1).map_err(at_trunk)?;
        warnings.push(match apply.batch_execute(&statement).await {
            Ok(()) => format!("trigger {name} is switched off: it fires while replicating"),
            Err(error) if error.as_db_error().is_some() => {
                format!("trigger {name} fires in the trunk too")
            }
            Err(error) => return Err(at_trunk(error)),
        });
    }
    apply.close().await;
    Ok(warnings)
}

const LOAD_SQL: &str = "\
SELECT slot, system_identifier, database_oid::text, timeline::text, lsn::text, idle_lsn::text,
       (extract(epoch FROM commit_time) * 1000000)::bigint AS commit_time_us
  FROM ardent.progress";

const REPLICA_TRIGGERS_SQL: &str = "\
SELECT pg_catalog.format(
         'ALTER TABLE %I.%I DISABLE TRIGGER %I;
          INSERT INTO ardent.disabled_trigger VALUES (%L, %L, %L, %L)',
         n.nspname, c.relname, t.tgname, n.nspname, c.relname, t.tgname, t.tgenabled),
       pg_catalog.format('%s of %s.%s', t.tgname, n.nspname, c.relname)
  FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND t.tgparentid = 0";
