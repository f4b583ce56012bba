//! Copies one table at a snapshot whose position in the log is known, part by part.
//!
//! A part is a range of the source's blocks and one trunk transaction, which also counts it in
//! `ardent.quarantine`. The source's table is locked for one part at a time, and whoever waits for
//! it comes in between; if that was a rewrite or a truncation, the snapshot shows no rows any more,
//! and another one is taken.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use proxy::client::{Session, quote_identifier};
use tokio::sync::oneshot;
use tokio_postgres::CopyInSink;

use crate::lsn::Lsn;
use crate::source::{self, Plugin, Table, TableName};

use super::super::blocks::Blocks;
use super::super::error::{Error, at_source, at_trunk};
use super::super::link::{Link, TrunkAccess};
use super::super::publication;
use super::super::quarantine;
use super::super::setup::{Snapshot, file_sql};

/// A message that says nothing: it takes the stream past the position of the copy at once.
pub(in super::super) const NUDGE_SQL: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, 'ardent.heartbeat', '')::text";
/// One part takes about a second.
const PART_BYTES: u64 = 64 << 20;
/// A table that is rewritten under its copy this often has to wait for a while.
const SNAPSHOTS_MAX: usize = 5;

/// A copy that came to its end.
#[derive(Debug)]
pub(super) struct Copied {
    /// Of the snapshot.
    pub(super) position: Lsn,
    /// Why its rows did not fit, if they did not.
    pub(super) refused: Option<String>,
}

/// How the copy at one snapshot ended.
enum Outcome {
    Whole,
    Refused(String),
    /// The snapshot shows the table no more.
    Rewritten,
}

/// Replaces the trunk's rows and tells what came of it. Only then the stream is taken past the
/// position, so that whoever sees it there knows already.
pub(super) async fn copy(
    link: Link,
    trunk: TrunkAccess,
    table: TableName,
    told: oneshot::Sender<Result<Copied, Error>>,
) {
    let outcome = copy_whole(&link, &trunk, &table).await;
    // Whoever began this copy may have given it up.
    if told.send(outcome).is_ok()
        && let Err(error) = nudge(&link).await
    {
        tracing::debug!(reason = error.chain(), "the next heartbeat has to do");
    }
}

async fn nudge(link: &Link) -> Result<(), Error> {
    let session = Session::open(&link.source_target("")).await.map_err(at_source)?;
    session.batch_execute(NUDGE_SQL).await.map_err(at_source)?;
    session.close().await;
    Ok(())
}

async fn copy_whole(link: &Link, trunk: &TrunkAccess, table: &TableName) -> Result<Copied, Error> {
    if link.plugin == Plugin::Pgoutput {
        publication::place_by_name(link, table).await?;
    }
    for _ in 0..SNAPSHOTS_MAX {
        let snapshot = Snapshot::take_temporary(link).await?;
        let position = snapshot.lsn;
        let outcome = copy_at(&snapshot, trunk, table).await;
        snapshot.release().await;
        match outcome? {
            Outcome::Rewritten => {}
            Outcome::Whole => return Ok(Copied { position, refused: None }),
            Outcome::Refused(reason) => return Ok(Copied { position, refused: Some(reason) }),
        }
    }
    Err(Error::Moving)
}

async fn copy_at(
    snapshot: &Snapshot,
    trunk: &TrunkAccess,
    name: &TableName,
) -> Result<Outcome, Error> {
    let schemas = [name.schema.clone()];
    let mut tables = source::tables(&snapshot.session, &schemas).await?;
    tables.retain(|table| table.name == *name);
    // Gone by now, which the stream will say.
    let Some(table) = tables.pop() else { return Ok(Outcome::Whole) };
    snapshot.session.batch_execute("SAVEPOINT part").await.map_err(at_source)?;
    for part in parts(&table) {
        let outcome = copy_part(&snapshot.session, trunk, &table, &part).await;
        // Lets go of the lock on the table, and only of that.
        let unlock = "ROLLBACK TO SAVEPOINT part";
        snapshot.session.batch_execute(unlock).await.map_err(at_source)?;
        match outcome? {
            Outcome::Whole => {}
            other => return Ok(other),
        }
    }
    Ok(Outcome::Whole)
}

/// One transaction of the copy.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    number: i64,
    /// What of the source; none is nothing, and empties the trunk's table instead.
    filter: Option<String>,
}

fn parts(table: &Table) -> Vec<Part> {
    let mut filters = vec![None];
    if table.is_heap && table.bytes > PART_BYTES {
        let ranges = Blocks::split(table.bytes, PART_BYTES);
        filters.extend(ranges.map(|blocks| Some(format!(" WHERE {}", blocks.condition()))));
    } else {
        filters.push(Some(String::new()));
    }
    (0..).zip(filters).map(|(number, filter)| Part { number, filter }).collect()
}

async fn copy_part(
    source: &Session,
    trunk: &TrunkAccess,
    table: &Table,
    part: &Part,
) -> Result<Outcome, Error> {
    let session = Session::open(&trunk.as_apply("")).await.map_err(at_trunk)?;
    let outcome = copy_part_with(source, &session, table, part).await;
    session.close().await;
    match outcome {
        Err(Error::Refused(reason)) => Ok(Outcome::Refused(reason)),
        outcome => outcome,
    }
}

async fn copy_part_with(
    source: &Session,
    trunk: &Session,
    table: &Table,
    part: &Part,
) -> Result<Outcome, Error> {
    trunk.batch_execute("BEGIN").await.map_err(at_trunk)?;
    let done = quarantine::parts_done(trunk, &table.name).await.map_err(at_trunk)?;
    match &part.filter {
        None => empty(trunk, &table.name).await?,
        // Its commit was not heard of.
        Some(_) if done > part.number => return Ok(Outcome::Whole),
        Some(filter) => {
            if !lock(source, &table.name).await? {
                return Ok(Outcome::Rewritten);
            }
            copy_rows(source, trunk, table, filter).await?;
        }
    }
    quarantine::count_part(trunk, &table.name, part.number + 1).await.map_err(at_trunk)?;
    trunk.batch_execute("COMMIT").await.map_err(at_trunk)?;
    Ok(Outcome::Whole)
}

/// Keeps the table as it is; false if it is not what the snapshot sees.
async fn lock(source: &Session, table: &TableName) -> Result<bool, Error> {
    let sql = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.quoted());
    source.batch_execute(&sql).await.map_err(stale)?;
    let sql = file_sql("$1", "$2");
    let row = source.query_opt(&sql, &[&table.schema, &table.name]).await.map_err(at_source)?;
    row.map_or(Ok(false), |row| row.try_get(0)).map_err(at_source)
}

async fn empty(trunk: &Session, table: &TableName) -> Result<(), Error> {
    let name = table.quoted();
    trunk.batch_execute("SAVEPOINT emptied").await.map_err(at_trunk)?;
    // A table that another refers to cannot be truncated; deleting asks no foreign key here.
    if trunk.batch_execute(&format!("TRUNCATE ONLY {name}")).await.is_err() {
        let sql = format!("ROLLBACK TO SAVEPOINT emptied; DELETE FROM ONLY {name}");
        trunk.batch_execute(&sql).await.map_err(refused)?;
    }
    Ok(())
}

async fn copy_rows(
    source: &Session,
    trunk: &Session,
    table: &Table,
    filter: &str,
) -> Result<(), Error> {
    if table.columns.is_empty() {
        return Ok(());
    }
    let name = table.name.quoted();
    let columns: Vec<String> = table.columns.iter().map(|name| quote_identifier(name)).collect();
    let columns = columns.join(", ");
    let select = format!("COPY (SELECT {columns} FROM ONLY {name}{filter}) TO STDOUT");
    let rows = source.copy_out(&select).await.map_err(stale)?;
    let sink: CopyInSink<Bytes> =
        trunk.copy_in(&format!("COPY {name} ({columns}) FROM STDIN")).await.map_err(refused)?;
    let mut rows = std::pin::pin!(rows);
    let mut sink = std::pin::pin!(sink);
    while let Some(row) = rows.next().await {
        sink.feed(row.map_err(at_source)?).await.map_err(refused)?;
    }
    sink.finish().await.map_err(refused)?;
    Ok(())
}

/// A name that the snapshot has and the source has no more.
fn stale(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) if quarantine::is_about_the_row(db.code()) => {
            Error::Refused(format!("on the source, {}", db.message()))
        }
        _ => at_source(error),
    }
}

fn refused(error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) if quarantine::is_about_the_row(db.code()) => {
            Error::Refused(db.message().to_owned())
        }
        _ => at_trunk(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_emptied_first() {
        let filters = |bytes, is_heap| -> Vec<Option<String>> {
            let table = Table { bytes, is_heap, ..Table::default() };
            parts(&table).into_iter().map(|part| part.filter).collect()
        };
        for (bytes, is_heap) in [(0, true), (PART_BYTES, true), (PART_BYTES * 9, false)] {
            assert_eq!(filters(bytes, is_heap), [None, Some(String::new())]);
        }
        let split = filters(PART_BYTES * 2 + 1, true);
        assert_eq!(
            split.iter().map(Option::is_some).collect::<Vec<_>>(),
            [false, true, true, true]
        );
        let last = " WHERE ctid >= '(16384,0)'::pg_catalog.tid";
        assert_eq!(split.last(), Some(&Some(last.to_owned())));
    }
}
