//! One table copied again while all others go on, and followed again from the same commit.
//!
//! ```text
//!   due --start--> copying --copied at Y, stream past Y--> followed
//!    ^                |
//!    +----------------+   schema change of the table, failure
//! ```
//! * start: the applier stands between two transactions. From here on it keeps the table's changes
//!   in a [`spool::Spool`] instead of dropping them, and a task copies the table at a snapshot of
//!   its own, whose position is Y.
//! * end: changes of transactions up to Y are in the copy and are forgotten; the later ones are
//!   applied, and the table leaves quarantine, in one trunk transaction between two others.
//!
//! Until the end the table is in quarantine, in every branch too, where it may hold some of its
//! rows. A pause of the trunk only interrupts: the copy goes on with the part that was at work. All
//! else that ends the stream lets it begin again, from the row in `ardent.quarantine` that says it
//! is due.

mod copier;
mod spool;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::applier::Applier;
use super::change::{Change, Commit};
use super::error::{Action, Error, at_trunk};
use super::link::TrunkAccess;
use super::quarantine;
use spool::Spool;

/// Pause after a copy that failed for reasons that may pass.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Tables to copy again, one at a time.
#[derive(Default)]
pub(super) struct Resyncs {
    due: VecDeque<TableName>,
    current: Option<Resync>,
    not_before: Option<Instant>,
}

struct Resync {
    table: TableName,
    spool: Spool,
    /// Tells the copy where the trunk is; none while it is stopped.
    trunk: watch::Sender<Option<TrunkAccess>>,
    /// Ends with the position of its snapshot.
    copying: JoinHandle<Result<Lsn, Error>>,
    copied_at: Option<Lsn>,
}

impl Drop for Resync {
    fn drop(&mut self) {
        self.copying.abort();
    }
}

impl Resyncs {
    pub(super) fn add(&mut self, table: &TableName) {
        let is_known = self.due.contains(table);
        if !is_known {
            self.due.push_back(table.clone());
        }
    }

    /// Gives up a table that is gone.
    pub(super) fn forget(&mut self, table: &TableName) {
        self.due.retain(|other| other != table);
        drop(self.current.take_if(|current| current.table == *table));
    }

    /// Begins again with a table that changed under its copy.
    pub(super) fn restart(&mut self, table: &TableName) {
        if self.current.take_if(|current| current.table == *table).is_some() {
            self.add(table);
        }
    }

    /// Takes a change of the table at work; gives any other back.
    pub(super) fn spool(&mut self, change: Change) -> Option<Change> {
        let Some(current) = &mut self.current else { return Some(change) };
        current.spool.take(&current.table, change)
    }

    pub(super) fn commit(&mut self, commit: Commit) {
        if let Some(current) = &mut self.current {
            current.spool.commit(commit);
        }
    }

    /// To be called when the trunk is about to stop. What is kept goes into the next applier.
    pub(super) fn suspend(self) -> Self {
        if let Some(current) = &self.current {
            current.trunk.send_replace(None);
        }
        self
    }

    /// Goes on with the copy that a pause interrupted.
    fn adopt(&mut self, mut kept: Self, trunk: &TrunkAccess) {
        let Some(current) = kept.current.take() else { return };
        self.due.retain(|table| *table != current.table);
        current.trunk.send_replace(Some(trunk.clone()));
        self.current = Some(current);
    }

    /// There is something to do between two transactions.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some() || !self.due.is_empty()
    }
}

impl Applier {
    /// To be called after a pause, at the very position it began at.
    pub(super) fn resume_resyncs(&mut self, kept: Resyncs) {
        self.resyncs.adopt(kept, &self.replay.trunk);
    }

    /// To be called between two source transactions. `passed` is how far the stream is.
    pub(super) async fn tend_resyncs(&mut self, passed: Lsn) -> Result<(), Error> {
        if let Some(copied_at) = self.copied().await?
            && passed >= copied_at
        {
            self.finish_resync(copied_at).await?;
        }
        let may_start = self.resyncs.not_before.is_none_or(|at| Instant::now() >= at);
        if self.resyncs.current.is_none()
            && may_start
            && let Some(table) = self.resyncs.due.pop_front()
        {
            self.start_resync(table).await?;
        }
        Ok(())
    }

    /// Where the copy at work was made, once it is whole. A spool that is full waits for it here:
    /// memory is bounded, and the source's log keeps what is not read yet.
    async fn copied(&mut self) -> Result<Option<Lsn>, Error> {
        let Some(current) = &mut self.resyncs.current else { return Ok(None) };
        if current.copied_at.is_some() {
            return Ok(current.copied_at);
        }
        if !current.copying.is_finished() && !current.spool.is_full() {
            return Ok(None);
        }
        let outcome = (&mut current.copying).await.unwrap_or(Err(Error::Ended));
        match outcome {
            Ok(position) => current.copied_at = Some(position),
            Err(error) => {
                let table = current.table.clone();
                self.resyncs.current = None;
                self.resync_failed(&table, &error).await?;
                return Ok(None);
            }
        }
        Ok(current.copied_at)
    }

    async fn start_resync(&mut self, table: TableName) -> Result<(), Error> {
        self.commit_all().await?;
        if !self.replay.is_capturing() && !self.has_table(&table).await? {
            return self.await_poll(table).await;
        }
        if !self.repair(&table).await? {
            // Gone or renamed. Where changes are captured, the stream will say which.
            if !self.replay.is_capturing() {
                self.pardon(&table).await?;
                self.commit_aside().await?;
            }
            return Ok(());
        }
        tracing::info!(%table, "copying table again");
        let (trunk, whereabouts) = watch::channel(Some(self.replay.trunk.clone()));
        let work = copier::copy(self.replay.link.clone(), whereabouts, table.clone());
        self.resyncs.current = Some(Resync {
            table,
            spool: Spool::default(),
            trunk,
            copying: tokio::spawn(work),
            copied_at: None,
        });
        Ok(())
    }

    /// A table that only a look at the source's schema can make, with all that it needs. One that
    /// is not there either is gone.
    async fn await_poll(&mut self, table: TableName) -> Result<(), Error> {
        if self.is_on_source(&table).await? {
            self.resyncs.add(&table);
            return Ok(());
        }
        self.pardon(&table).await?;
        self.commit_aside().await
    }

    async fn finish_resync(&mut self, copied_at: Lsn) -> Result<(), Error> {
        let Some(mut current) = self.resyncs.current.take() else { return Ok(()) };
        self.commit_all().await?;
        self.pardon(&current.table).await?;
        for change in current.spool.after(copied_at) {
            self.take_change(change).await?;
        }
        self.retry_unequal().await?;
        self.commit_aside().await?;
        tracing::info!(table = %current.table, "table is followed again");
        Ok(())
    }

    async fn resync_failed(&mut self, table: &TableName, error: &Error) -> Result<(), Error> {
        let reason = error.chain();
        tracing::warn!(%table, reason, "table was not copied again");
        if error.action() == Action::Retry {
            self.resyncs.not_before = Some(Instant::now() + RETRY_PAUSE);
            self.resyncs.add(table);
            return Ok(());
        }
        self.commit_all().await?;
        self.pardon(table).await?;
        self.discover(table, &reason);
        self.commit_aside().await
    }

    /// Schedules a table in quarantine; false if it is in none.
    pub(super) async fn release(&mut self, table: &TableName) -> Result<bool, Error> {
        if !self.quarantined.contains(table) {
            return Ok(false);
        }
        self.commit_all().await?;
        quarantine::schedule(&self.session, table).await.map_err(at_trunk)?;
        self.shared.schedule_resync(table);
        self.resyncs.not_before = None;
        self.resyncs.add(table);
        Ok(true)
    }
}
