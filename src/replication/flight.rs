//! The round that is under way: while the trunk works on it, the next one is planned and written
//! out.
//!
//! ```text
//!   plan --depart--> under way --settle--> done, or repeated with care
//!                        |  at most one; with an ending, it also moves the position and commits
//! ```
//!
//! Invariants:
//! * while a round is under way, nobody else uses the session: whoever needs it settles first. A
//!   round that fails has failed the transaction for everything sent after it;
//! * a position counts as reached when its round has been settled, never before.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_postgres::Statement;

use super::applier::Applier;
use super::change::Commit;
use super::error::{Error, at_trunk};
use super::round::{Failure, Round};

/// The end of a group of source transactions.
#[derive(Clone)]
pub(super) struct Ending {
    pub(super) commit: Commit,
    pub(super) transactions: u64,
    /// Number of the last message of ours before it.
    pub(super) heard: u64,
    /// The commit waits for the disk.
    pub(super) is_flushed: bool,
    /// Moves the progress row.
    pub(super) moving: Statement,
}

/// Aborted with the applier that is dropped: its transaction is rolled back then.
#[derive(Default)]
pub(super) struct Flight {
    task: JoinSet<Landed>,
}

struct Landed {
    round: Round,
    ending: Option<Ending>,
    outcome: Result<(), Failure>,
}

impl Applier {
    /// Sends what is planned. With an ending, the transaction is over once it is settled.
    pub(super) async fn depart(&mut self, ending: Option<Ending>) -> Result<(), Error> {
        let steps = std::mem::take(&mut self.plan).into_steps();
        // Written out before the trunk is done with the round before, so that it need not wait.
        let mut round = Round::prepare(self, steps).await?;
        self.settle().await?;
        // That one may have given up tables that were planned for already.
        round.leave_out(&self.quarantined);
        if round.is_empty() && ending.is_none() {
            return Ok(());
        }
        if ending.is_some() {
            self.note_discovered().await?;
        }
        let session = Arc::clone(&self.session);
        let is_open = std::mem::replace(&mut self.is_open, ending.is_none());
        self.flight.task.spawn(async move {
            let outcome = round.run_pipelined(&session, is_open, ending.as_ref()).await;
            Landed { round, ending, outcome }
        });
        Ok(())
    }

    /// Waits for the round under way, if any, and repeats it with care if it failed.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        let Some(landed) = self.flight.task.join_next().await else { return Ok(()) };
        // Not joined: it panicked, or the runtime ends. The session's state is unknown.
        let Landed { round, ending, outcome } = landed.map_err(|_| Error::Ended)?;
        match outcome {
            Ok(()) => {}
            Err(Failure::Fatal(error)) => {
                if let Error::CopyRefused { table, .. } = &error {
                    self.shared.avoid_copy(table);
                }
                return Err(error);
            }
            Err(Failure::Rows(said)) => {
                tracing::debug!(said, "round is repeated step by step");
                self.is_open = true;
                self.session
                    .batch_execute("ROLLBACK TO SAVEPOINT round")
                    .await
                    .map_err(at_trunk)?;
                for (table, reason) in round.run_carefully(&self.session).await? {
                    self.discover(&table, &reason);
                }
                self.note_discovered().await?;
                if let Some(ending) = &ending {
                    self.end(ending).await?;
                }
            }
        }
        if let Some(ending) = ending {
            self.committed(&ending);
        }
        Ok(())
    }
}
