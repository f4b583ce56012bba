//! The rows: several parts of tables at once, all at the one snapshot.
//!
//! ```text
//!   parts, largest table first --> job --> COPY out of the source --> COPY into the trunk
//!                              --> job     the bytes between them are not looked at
//!        ^--- given up for a while by the lock watch, for someone who waits behind the part
//! ```
//!
//! A part holds ACCESS SHARE on its table while it is copied, and nothing else does: whoever wants
//! the table exclusively waits for seconds, not for the copy. The price: a table that was rewritten
//! or truncated after the snapshot shows no rows at it, without an error. Every part asks for that
//! under its lock, and such a table is quarantined instead, until the stream has copied it again.
//!
//! Bounds: [`Setup::jobs`] sessions on each side plus one, and per job a thread and a few pieces of
//! about [`pump::PIECE_BYTES`], or of one row that is longer, plus what the two sockets hold.

mod ends;
mod lock_watch;
mod part;
mod pipe;
mod pump;
mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::source::Table;
use futures_util::future::try_join_all;
use proxy::client::{self, Session};
use tokio_postgres::error::SqlState;

use super::super::error::{Error, at_source, at_trunk};
use super::super::ledger;
use super::super::quarantine;
use super::super::status::Quarantined;
use super::{Setup, SetupProgress};
use ends::Ends;
use lock_watch::LockWatch;
use part::Part;
use pipe::{Outcome, Pipe};
use tally::Tally;

/// After it gave way, a part is tried again; a table wanted by others this often is given up.
const ATTEMPTS_MAX: u32 = 50;
/// Pause after giving way, so that whoever waited comes first.
const GIVE_WAY_PAUSE: Duration = Duration::from_secs(1);

/// Copies all tables. Returns what is not followed, with the reason.
pub(super) async fn copy_tables(
    setup: &Setup<'_>,
    tables: &[Table],
    version: u32,
    state: &mut SetupProgress,
) -> Result<Vec<String>, Error> {
    let parts = part::split(tables, version);
    let jobs = setup.jobs.clamp(1, parts.len().max(1));
    let tally = Tally::new(setup.report, state.clone());
    let work = Mutex::new(Work::new(tables, parts));
    let copy = Copy { setup, tables, tally: &tally, work };
    let watch = LockWatch::default();
    let working = async { try_join_all((0..jobs).map(|_| copy.run_job(&watch))).await.map(|_| ()) };
    tokio::select! {
        done = working => done?,
        error = watch.run(setup) => return Err(error),
    }
    let failed = std::mem::take(&mut copy.lock().failed);
    drop(copy);
    *state = tally.into_state();
    give_up(setup, tables, failed).await
}

/// Empties tables that could not be copied, and notes them.
async fn give_up(
    setup: &Setup<'_>,
    tables: &[Table],
    failed: BTreeMap<usize, Failed>,
) -> Result<Vec<String>, Error> {
    let mut warnings = Vec::new();
    let trunk = Session::open(&setup.trunk.as_apply("")).await.map_err(at_trunk)?;
    for (index, Failed { reason, is_resync_due }) in failed {
        let Some(table) = tables.get(index) else { continue };
        let fate = if is_resync_due { "is copied again" } else { "is not followed" };
        let truncate = format!("TRUNCATE ONLY {}", table.name.quoted());
        match trunk.batch_execute(&truncate).await {
            // That it could not be made may be the very reason.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            emptied => emptied.map_err(at_trunk)?,
        }
        warnings.push(format!("{} {fate}: {reason}", table.name));
        let entry = Quarantined {
            table: table.name.clone(),
            reason,
            lsn: setup.snapshot.lsn,
            since: SystemTime::now(),
            is_resync_due,
        };
        quarantine::add(&trunk, &entry).await.map_err(at_trunk)?;
    }
    trunk.close().await;
    Ok(warnings)
}

struct Copy<'a> {
    setup: &'a Setup<'a>,
    tables: &'a [Table],
    tally: &'a Tally<'a>,
    /// Held for a look or a note, never across an await.
    work: Mutex<Work>,
}

struct Work {
    parts: VecDeque<Part>,
    /// Parts of each table that are not done.
    left: Vec<usize>,
    /// Tables that cannot be copied.
    failed: BTreeMap<usize, Failed>,
}

struct Failed {
    reason: String,
    /// What was in the way will have passed when the stream runs.
    is_resync_due: bool,
}

impl Work {
    fn new(tables: &[Table], parts: VecDeque<Part>) -> Self {
        let mut left = vec![0; tables.len()];
        for part in &parts {
            if let Some(left) = left.get_mut(part.table) {
                *left += 1;
            }
        }
        Self { parts, left, failed: BTreeMap::new() }
    }

    /// The next part of a table that is not given up.
    fn next(&mut self) -> Option<Part> {
        loop {
            let part = self.parts.pop_front()?;
            if !self.failed.contains_key(&part.table) {
                return Some(part);
            }
        }
    }

    /// True if that was the table's last part.
    fn finish(&mut self, part: &Part) -> bool {
        self.left.get_mut(part.table).is_none_or(|left| {
            *left = left.saturating_sub(1);
            *left == 0
        })
    }
}

impl Copy<'_> {
    async fn run_job(&self, watch: &LockWatch) -> Result<(), Error> {
        let ends = Ends::open(self.setup).await?;
        let watched = watch.watch(&mut *ends.source.lock().await).await?;
        loop {
            let next = self.lock().next();
            let Some(part) = next else { break };
            let Some(table) = self.tables.get(part.table) else { continue };
            let passed = self.tally.begin(table);
            let pipe = Pipe { ends: &ends, table, part: &part, watched: &watched };
            let outcome = pipe.run(&passed).await?;
            match outcome {
                Outcome::Copied => {
                    if self.lock().finish(&part) {
                        let at = self.setup.snapshot.lsn;
                        let mark = ledger::mark_sql(&table.name, at);
                        ends.trunk.lock().await.execute(&mark).await.map_err(at_trunk)?;
                        self.tally.close(table);
                    }
                }
                Outcome::GaveWay if part.attempts < ATTEMPTS_MAX => {
                    tracing::info!(table = %table.name, "copy gives way to a waiting lock");
                    tokio::time::sleep(GIVE_WAY_PAUSE).await;
                    self.lock().parts.push_back(part.again());
                }
                Outcome::GaveWay => {
                    self.fail(&part, table, "others wanted it all the time".to_owned(), true);
                }
                Outcome::Moved(reason) => self.fail(&part, table, reason, true),
                // The trunk's table is of an earlier moment then, and its types may be older.
                Outcome::Refused(reason) => {
                    self.fail(&part, table, reason, self.setup.is_resumed);
                }
            }
        }
        drop(watched);
        ends.close().await;
        Ok(())
    }

    fn fail(&self, part: &Part, table: &Table, reason: String, is_resync_due: bool) {
        let failed = Failed { reason, is_resync_due };
        self.lock().failed.entry(part.table).or_insert(failed);
        self.tally.close(table);
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // A panic while holding it leaves counts behind, never half of one.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorts errors of the source: about this table, or about the source as a whole.
fn source_reason(error: client::Error) -> Result<String, Error> {
    reason(error).map_err(at_source)
}

/// Sorts errors of the trunk alike.
fn trunk_reason(error: client::Error) -> Result<String, Error> {
    reason(error).map_err(at_trunk)
}

fn reason(error: client::Error) -> Result<String, client::Error> {
    match error.server_message() {
        Some(said) if quarantine::is_about_the_row(&SqlState::from_code(&said.code)) => {
            Ok(said.message.clone())
        }
        _ => Err(error),
    }
}
