//! Copies one table at a snapshot whose position in the log is known.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use proxy::client::{Session, quote_identifier};
use tokio_postgres::CopyInSink;

use crate::lsn::Lsn;
use crate::source::{self, Plugin, Table, TableName};

use super::super::error::{Error, at_source, at_trunk};
use super::super::link::{Link, TrunkAccess};
use super::super::publication;
use super::super::quarantine;
use super::super::setup::Snapshot;

/// A message that says nothing: it takes the stream past the position of the copy at once.
const NUDGE_SQL: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'ardent.heartbeat', '')";

/// Replaces the trunk's rows. Returns the position they are of.
pub(super) async fn copy(link: Link, trunk: TrunkAccess, table: TableName) -> Result<Lsn, Error> {
    if link.plugin == Plugin::Pgoutput {
        publication::place_by_name(&link, &table).await?;
    }
    let snapshot = Snapshot::take_temporary(&link).await?;
    let position = snapshot.lsn;
    let outcome = copy_at(&snapshot, &trunk, &table).await;
    snapshot.release().await;
    outcome?;
    let session = Session::open(&link.source_target("")).await.map_err(at_source)?;
    session.batch_execute(NUDGE_SQL).await.map_err(at_source)?;
    session.close().await;
    Ok(position)
}

async fn copy_at(snapshot: &Snapshot, trunk: &TrunkAccess, name: &TableName) -> Result<(), Error> {
    let schemas = [name.schema.clone()];
    let mut tables = source::tables(&snapshot.session, &schemas).await?;
    tables.retain(|table| table.name == *name);
    // Gone by now, which the stream will say.
    let Some(table) = tables.pop() else { return Ok(()) };
    snapshot.lock(std::slice::from_ref(&table)).await?;
    let session = Session::open(&trunk.as_apply("")).await.map_err(at_trunk)?;
    let outcome = match replace_rows(&snapshot.session, &session, &table).await {
        Ok(()) => session.batch_execute("COMMIT").await.map_err(at_trunk),
        Err(error) => Err(error),
    };
    session.close().await;
    outcome
}

async fn replace_rows(source: &Session, trunk: &Session, table: &Table) -> Result<(), Error> {
    let name = table.name.quoted();
    let columns: Vec<String> = table.columns.iter().map(|name| quote_identifier(name)).collect();
    let columns = columns.join(", ");
    let refused = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(db) if quarantine::is_about_the_row(db.code()) => {
            Error::Refused(db.message().to_owned())
        }
        _ => at_trunk(error),
    };
    trunk.batch_execute("BEGIN; SAVEPOINT emptied").await.map_err(at_trunk)?;
    // A table that another refers to cannot be truncated; deleting asks no foreign key here.
    if trunk.batch_execute(&format!("TRUNCATE ONLY {name}")).await.is_err() {
        let sql = format!("ROLLBACK TO SAVEPOINT emptied; DELETE FROM ONLY {name}");
        trunk.batch_execute(&sql).await.map_err(refused)?;
    }
    if columns.is_empty() {
        return Ok(());
    }
    let rows =
        source.copy_out(&format!("COPY {name} ({columns}) TO STDOUT")).await.map_err(at_source)?;
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
