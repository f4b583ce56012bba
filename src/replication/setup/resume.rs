//! Going on with a first copy that was cut short.
//!
//! Tables that are whole stay as they are, at the position X of the first snapshot. The others are
//! copied at another snapshot, at Y. The stream begins at X, from where the first slot keeps the
//! log, and leaves out of these tables what lies before Y (`resync/uneven.rs`).
//!
//! What is copied at Y goes into the trunk's table as X made it, and the stream brings the schema
//! changes between the two. So a table is copied only if it is unchanged; any other waits in
//! quarantine until the stream has copied it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proxy::client::{ReplicationConnection, Session};

use crate::lsn::Lsn;
use crate::source::{Facts, Table, TableName};

use super::super::error::{Action, Error, at_source, at_trunk};
use super::super::ledger::{self, Entry, Ledger};
use super::super::link::{Link, TrunkAccess};
use super::super::progress;
use super::super::quarantine;
use super::super::start;
use super::super::status::Quarantined;
use super::roles;
use super::schema::Dump;
use super::snapshot::Snapshot;
use super::{Begun, Setup, SetupProgress, Stage};

/// What an earlier setup left.
pub(super) enum Earlier {
    /// A whole copy, which stands there.
    Finished(Lsn),
    /// Some tables, and the moment to copy the others at.
    CutShort(Box<(Ledger, Snapshot)>),
}

/// None is said with the reason, if there is something that cannot be gone on with: that another
/// build wrote it is one.
pub(super) async fn find(link: &Link, trunk: &TrunkAccess) -> Result<Option<Earlier>, Error> {
    match look(link, trunk).await {
        Err(error) if error.action() == Action::Stop => {
            tracing::warn!(slot = link.slot(), reason = error.chain(), "first copy begins anew");
            Ok(None)
        }
        found => found,
    }
}

async fn look(link: &Link, trunk: &TrunkAccess) -> Result<Option<Earlier>, Error> {
    if let Some(lsn) = progress::finished(link, trunk).await? {
        return Ok(Some(Earlier::Finished(lsn)));
    }
    let Some(ledger) = Ledger::find(trunk).await? else { return Ok(None) };
    check(link, &ledger).await?;
    let snapshot = Snapshot::take_another(link).await?;
    Ok(Some(Earlier::CutShort(Box::new((ledger, snapshot)))))
}

/// Refuses if the stream could not begin where the first snapshot was.
async fn check(link: &Link, ledger: &Ledger) -> Result<(), Error> {
    if ledger.terms != ledger::terms(link) {
        return Err(Error::Unsafe("what is to be followed was changed".to_owned()));
    }
    let mut connection =
        ReplicationConnection::open(&link.source_target("")).await.map_err(at_source)?;
    let checked = start::check(&mut connection, link, &ledger.origin).await;
    connection.close().await;
    checked.map(drop)
}

/// Sets the trunk up for the tables that are left.
pub(super) async fn go_on(
    setup: &Setup<'_>,
    ledger: Ledger,
    (facts, tables): (&Facts, &[Table]),
    state: &mut SetupProgress,
) -> Result<Begun, Error> {
    setup.enter(state, Stage::Roles);
    let system = setup.open_system().await?;
    // Warnings of it have been noted.
    roles::mirror(&system, facts).await?;
    roles::begin_restore(&system, &setup.trunk.database).await?;
    setup.enter(state, Stage::Schema);
    let dump = Dump::unpack(setup, &ledger.dump).await?;
    let rest = rest(setup, &ledger, tables).await?;
    count(&ledger, tables, state);
    let (whole, left) = (state.tables_done, rest.len());
    tracing::info!(slot = ledger.origin.slot, whole, left, "first copy goes on");
    Ok(Begun { system, ledger, dump, tables: rest })
}

/// Tables that were not whole, emptied. Those that are not what they were go into quarantine.
async fn rest(setup: &Setup<'_>, ledger: &Ledger, tables: &[Table]) -> Result<Vec<Table>, Error> {
    let shapes = shapes(setup).await?;
    let apply = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    // Whoever was in it is tried once more.
    apply.batch_execute("DELETE FROM ardent.quarantine").await.map_err(at_trunk)?;
    let mut rest = Vec::new();
    for Entry { table, shape, .. } in ledger.tables.iter().filter(|e| e.copied.is_none()) {
        let is_unchanged = shapes.get(table) == Some(shape);
        let found = tables.iter().find(|other| other.name == *table).filter(|_| is_unchanged);
        match found {
            Some(found) if is_emptied(&apply, table).await? => rest.push(found.clone()),
            _ => {
                let entry = Quarantined {
                    table: table.clone(),
                    reason: "it changed while its copy was interrupted".to_owned(),
                    lsn: ledger.origin.lsn,
                    since: SystemTime::now(),
                    is_resync_due: true,
                };
                quarantine::add(&apply, &entry).await.map_err(at_trunk)?;
            }
        }
    }
    apply.close().await;
    Ok(rest)
}

/// Takes out what parts of the table were copied.
async fn is_emptied(apply: &Session, table: &TableName) -> Result<bool, Error> {
    match apply.batch_execute(&format!("TRUNCATE ONLY {}", table.quoted())).await {
        Ok(()) => Ok(true),
        Err(error) if error.as_db_error().is_some() => Ok(false),
        Err(error) => Err(at_trunk(error)),
    }
}

fn count(ledger: &Ledger, tables: &[Table], state: &mut SetupProgress) {
    let is_whole = |name: &TableName| {
        ledger.tables.iter().any(|entry| entry.table == *name && entry.copied.is_some())
    };
    let whole = ledger.tables.iter().filter(|entry| entry.copied.is_some()).count();
    state.tables_total = u64::try_from(ledger.tables.len()).unwrap_or(u64::MAX);
    state.tables_done = u64::try_from(whole).unwrap_or(u64::MAX);
    state.bytes_done = tables.iter().filter(|t| is_whole(&t.name)).map(|t| t.bytes).sum();
}

/// A word for each table that is another after whatever could make its rows mean something else.
pub(super) async fn shapes(setup: &Setup<'_>) -> Result<BTreeMap<TableName, String>, Error> {
    let rows = setup.snapshot.session.query(SHAPES_SQL, &[&setup.link.schemas]).await;
    let shape = |row: &tokio_postgres::Row| {
        let table = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
        Ok((table, row.try_get(2)?))
    };
    let shapes: Result<_, tokio_postgres::Error> =
        rows.map_err(at_source)?.iter().map(shape).collect();
    shapes.map_err(at_source)
}

// Any change of a catalog row leaves it with another `xmin`, one that was taken back too. Types of
// the source's own are looked at together: what a label or a part of one is called is in the rows.
const SHAPES_SQL: &str = "\
SELECT n.nspname::text, c.relname::text,
       pg_catalog.md5(pg_catalog.concat_ws(' ', c.oid, c.xmin, c.relfilenode, n.xmin, a.columns,
                                           CASE WHEN a.has_own THEN own.types END))
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
       SELECT pg_catalog.string_agg(pg_catalog.concat(a.attnum, ':', a.xmin), ' '
                                    ORDER BY a.attnum) AS columns,
              bool_or(a.atttypid >= 16384) AS has_own
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) a
 CROSS JOIN (
       SELECT pg_catalog.concat_ws(' ',
         (SELECT pg_catalog.concat(count(*), ' ', sum(e.xmin::text::bigint))
            FROM pg_catalog.pg_enum e),
         (SELECT pg_catalog.concat(count(*), ' ', sum(t.xmin::text::bigint))
            FROM pg_catalog.pg_type t WHERE t.oid >= 16384 AND t.typtype IN ('d', 'e', 'r', 'm')),
         (SELECT pg_catalog.concat(count(*), ' ', sum(a.xmin::text::bigint))
            FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class k ON k.oid = a.attrelid
           WHERE k.relkind = 'c')) AS types) own
 WHERE c.relkind = 'r'
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))";
