//! One part of a table: COPY out, COPY in, in one transaction of the trunk.

use std::sync::Arc;

use proxy::client::{self, quote_identifier};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::source::{Table, TableName};

use super::super::super::error::{Error, at_source, at_trunk};
use super::super::database::literal;
use super::super::snapshot::file_sql;
use super::ends::Ends;
use super::lock_watch::Watched;
use super::part::Part;
use super::pump::{Count, Pump, PumpError};
use super::tally::Passed;
use super::{source_reason, trunk_reason};

/// Counts that wait to be told: no pump waits for who watches.
const COUNTS_MAX: usize = 16;

/// What became of a part.
pub(super) enum Outcome {
    Copied,
    /// Somebody waits for the table; nothing of the part is in the trunk.
    GaveWay,
    /// The source's table is not the snapshot's any more.
    Moved(String),
    /// The trunk does not take the rows.
    Refused(String),
}

/// A part between two sessions.
pub(super) struct Pipe<'a> {
    pub(super) ends: &'a Ends,
    pub(super) table: &'a Table,
    pub(super) part: &'a Part,
    pub(super) watched: &'a Watched<'a>,
}

enum Failure {
    Source(client::Error),
    Trunk(client::Error),
    Rewritten,
    InTheWay,
    Ended,
}

impl From<PumpError> for Failure {
    fn from(error: PumpError) -> Self {
        match error {
            PumpError::Source(error) => Self::Source(error),
            PumpError::Trunk(error) => Self::Trunk(error),
            PumpError::Rewritten => Self::Rewritten,
        }
    }
}

impl Pipe<'_> {
    /// Copies the part; what passes is counted, and taken back if the part is not copied.
    pub(super) async fn run(&self, passed: &Passed<'_>) -> Result<Outcome, Error> {
        let copied = tokio::select! {
            copied = self.copy(passed) => copied,
            () = self.watched.is_in_the_way() => Err(Failure::InTheWay),
        };
        // The source first: somebody may be waiting there.
        self.release().await?;
        // Never given up half-way: whether it was done would not be known.
        let end = if copied.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = self.ends.trunk.lock().await.execute(end).await;
        let copied = match (copied, ended) {
            (Ok(()), ended) => ended.map_err(Failure::Trunk),
            (failure, ended) => ended.map_err(at_trunk).map(|()| failure)?,
        };
        if copied.is_err() {
            passed.take_back();
        }
        match copied {
            Ok(()) => Ok(Outcome::Copied),
            Err(Failure::InTheWay) => Ok(Outcome::GaveWay),
            Err(Failure::Source(error)) if is_cancelled(&error) => Ok(Outcome::GaveWay),
            Err(Failure::Source(error)) => Ok(Outcome::Moved(source_reason(error)?)),
            Err(Failure::Trunk(error)) => Ok(Outcome::Refused(trunk_reason(error)?)),
            Err(Failure::Rewritten) => {
                let reason = "it was truncated or rewritten on the source while it was copied";
                Ok(Outcome::Moved(reason.to_owned()))
            }
            Err(Failure::Ended) => Err(Error::Ended),
        }
    }

    /// Lets go of the lock on the table, and only of that. A cancellation that was meant for the
    /// COPY may come late and meet this.
    async fn release(&self) -> Result<(), Error> {
        let sql = "ROLLBACK TO SAVEPOINT part";
        let mut source = self.ends.source.lock().await;
        match source.execute(sql).await {
            Err(error) if is_cancelled(&error) => source.execute(sql).await,
            outcome => outcome,
        }
        .map_err(at_source)
    }

    async fn copy(&self, passed: &Passed<'_>) -> Result<(), Failure> {
        let name = self.table.name.quoted();
        // Truncated in the same transaction, the rows are written frozen. Parts of one table
        // cannot be: each would remove what the others brought.
        let begin = match self.part.blocks {
            None => format!("BEGIN; TRUNCATE ONLY {name}"),
            Some(_) => "BEGIN".to_owned(),
        };
        if self.table.columns.is_empty() {
            let mut source = self.ends.source.lock().await;
            let is_there = source.value(&self.lock_sql(&name)).await.map_err(Failure::Source)?;
            if is_there.as_deref() != Some("t") {
                return Err(Failure::Rewritten);
            }
            let mut trunk = self.ends.trunk.lock().await;
            return trunk.execute(&begin).await.map_err(Failure::Trunk);
        }
        self.pump(&name, &begin, passed).await
    }

    /// Keeps the table as it is, and asks whether it is what the snapshot sees.
    fn lock_sql(&self, name: &str) -> String {
        let TableName { schema, name: table } = &self.table.name;
        let asked = file_sql(&literal(schema), &literal(table));
        format!("LOCK TABLE ONLY {name} IN ACCESS SHARE MODE; {asked}")
    }

    /// Everything is asked at once, on either side: a database may have many small tables.
    async fn pump(&self, name: &str, begin: &str, passed: &Passed<'_>) -> Result<(), Failure> {
        let columns: Vec<String> =
            self.table.columns.iter().map(|column| quote_identifier(column)).collect();
        let columns = columns.join(", ");
        let format = if self.table.is_portable { "binary" } else { "text" };
        let (from, freeze) = match self.part.condition() {
            None => (format!("{name} ({columns})"), ", FREEZE"),
            Some(rows) => (format!("(SELECT {columns} FROM ONLY {name} WHERE {rows})"), ""),
        };
        let lock = self.lock_sql(name);
        let (counts, mut counted) = mpsc::channel(COUNTS_MAX);
        let pump = Pump {
            source: Arc::clone(&self.ends.source),
            trunk: Arc::clone(&self.ends.trunk),
            out: format!("{lock}; COPY {from} TO STDOUT (FORMAT {format})"),
            into: format!("{begin}; COPY {name} ({columns}) FROM STDIN (FORMAT {format}{freeze})"),
            counts,
        };
        // Ends with this future: a part that gives way is not copied on.
        let pumping = AbortOnDropHandle::new(self.ends.thread.spawn(pump.run()));
        while let Some(Count { bytes, rows }) = counted.recv().await {
            passed.add(bytes, rows);
        }
        match pumping.await {
            Ok(outcome) => Ok(outcome?),
            // It panicked, or the server ends.
            Err(_) => Err(Failure::Ended),
        }
    }
}

/// By the lock watch, or because the lock was not had in time: somebody else holds the table.
fn is_cancelled(error: &client::Error) -> bool {
    matches!(error.sqlstate(), Some("57014" | "55P03"))
}
