//! The rows: COPY out of the source, COPY into the trunk, the bytes between them not looked at.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use proxy::client::{Session, quote_identifier};
use tokio_postgres::CopyInSink;

use crate::source::{Table, TableName};

use super::super::error::{Error, at_source, at_trunk};
use super::super::quarantine;
use super::super::status::Quarantined;
use super::{Setup, SetupProgress};

/// Rows are sent on in pieces of this size; one message per row would cost more than the row.
const PIECE_BYTES: usize = 64 * 1024;
/// Progress is told once per this many bytes.
const REPORT_BYTES: u64 = 8 << 20;

/// Copies all tables, one after another, largest first.
pub(super) async fn copy_tables(
    setup: &Setup<'_>,
    tables: &[Table],
    state: &mut SetupProgress,
) -> Result<Vec<String>, Error> {
    let source = setup.snapshot.open_session(setup.link).await?;
    let trunk = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    let mut warnings = Vec::new();
    for table in tables {
        state.table = Some(table.name.clone());
        (setup.report)(state);
        let before = state.bytes_done;
        if let Err(failure) = copy_table(setup, (&source, &trunk), table, state).await {
            let reason = failure.into_reason()?;
            trunk.batch_execute("ROLLBACK").await.map_err(at_trunk)?;
            let entry = Quarantined {
                table: table.name.clone(),
                reason: reason.clone(),
                lsn: setup.snapshot.lsn,
                is_resync_due: false,
                since: SystemTime::now(),
            };
            quarantine::add(&trunk, &entry).await.map_err(at_trunk)?;
            warnings.push(format!("{} is not followed: {reason}", table.name));
        }
        state.bytes_done = before + table.bytes;
        state.tables_done += 1;
    }
    source.close().await;
    trunk.close().await;
    state.table = None;
    (setup.report)(state);
    Ok(warnings)
}

/// Why one table could not be copied.
enum Failure {
    Source(tokio_postgres::Error),
    Trunk(tokio_postgres::Error),
}

impl Failure {
    /// What the trunk has against this table; anything else fails the setup.
    fn into_reason(self) -> Result<String, Error> {
        match self {
            Self::Source(error) => Err(at_source(error)),
            Self::Trunk(error) => match error.as_db_error() {
                Some(db) if quarantine::is_about_the_row(db.code()) => Ok(db.message().to_owned()),
                _ => Err(at_trunk(error)),
            },
        }
    }
}

async fn copy_table(
    setup: &Setup<'_>,
    (source, trunk): (&Session, &Session),
    table: &Table,
    state: &mut SetupProgress,
) -> Result<(), Failure> {
    let name = table.name.quoted();
    let columns = column_list(&table.columns);
    // Truncated in the same transaction, the rows are written frozen and, under wal_level minimal,
    // without log.
    trunk.batch_execute(&format!("BEGIN; TRUNCATE ONLY {name}")).await.map_err(Failure::Trunk)?;
    if columns.is_empty() {
        return trunk.batch_execute("COMMIT").await.map_err(Failure::Trunk);
    }
    let rows = source
        .copy_out(&format!("COPY {name} {columns} TO STDOUT"))
        .await
        .map_err(Failure::Source)?;
    let sink: CopyInSink<Bytes> = trunk
        .copy_in(&format!("COPY {name} {columns} FROM STDIN (FREEZE)"))
        .await
        .map_err(Failure::Trunk)?;
    let mut rows = std::pin::pin!(rows);
    let mut sink = std::pin::pin!(sink);
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    let (before, mut copied, mut told) = (state.bytes_done, 0_u64, 0_u64);
    while let Some(row) = rows.next().await {
        let row = row.map_err(Failure::Source)?;
        state.rows += 1;
        piece.extend_from_slice(&row);
        if piece.len() < PIECE_BYTES {
            continue;
        }
        copied += u64::try_from(piece.len()).unwrap_or(0);
        sink.send(piece.split().freeze()).await.map_err(Failure::Trunk)?;
        piece.reserve(PIECE_BYTES);
        if copied - told >= REPORT_BYTES {
            told = copied;
            // Text is not heap, but close enough for a bar that must not pass its end.
            state.bytes_done = before + copied.min(table.bytes);
            (setup.report)(state);
        }
    }
    sink.send(piece.freeze()).await.map_err(Failure::Trunk)?;
    sink.finish().await.map_err(Failure::Trunk)?;
    trunk.batch_execute("COMMIT").await.map_err(Failure::Trunk)
}

fn column_list(columns: &[String]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let names: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
    format!("({})", names.join(", "))
}

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
