//! One table copied again while all others go on, and followed again from the same commit.
//!
//! ```text
//!   due --start--> copying --copied at Y, stream past Y--> followed
//!    ^                |                    |
//!    +----------------+                    +--refused twice, no schema change between--> given up
//!       schema change of the table, failure, refused
//! ```
//! * start: the applier stands between two transactions. From here on it keeps the table's changes
//!   in a [`spool::Spool`] instead of dropping them, and a task copies the table at a snapshot of
//!   its own, whose position is Y.
//! * end: changes of transactions up to Y are in the copy and are forgotten; the later ones are
//!   applied, and the table leaves quarantine, in one trunk transaction between two others.
//!
//! The source's table is of the present, and the stream may be behind: what it still brings can
//! make the trunk's table one of the past again, and what came after the trunk's table was made
//! equal can make the rows not fit. So a copy that a schema change broke waits until the stream is
//! past all that it had seen of the source, which also bounds how often one is broken, and rows
//! that did not fit say nothing before the stream is past Y.
//!
//! Until the end the table is in quarantine, in every branch too, where it may hold some of its
//! rows. A pause of the trunk only interrupts: the copy goes on with the part that was at work. All
//! else that ends the stream lets it begin again, from the row in `ardent.quarantine` that says it
//! is due.

mod copier;
mod spool;
mod uneven;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use proxy::client::Session;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::applier::Applier;
use super::change::{Change, Commit};
use super::error::{Action, Error, at_trunk};
use super::ledger;
use super::quarantine;
use super::status::Quarantined;
use copier::Copied;
pub(super) use copier::NUDGE_SQL;
use spool::Spool;
use uneven::Uneven;

/// Pause after a copy that failed for reasons that may pass.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A table that the plugin keeps losing changes of is not copied again and again.
const MEND_PAUSE: Duration = Duration::from_secs(600);

/// Tables to copy again, one at a time.
#[derive(Default)]
pub(super) struct Resyncs {
    due: VecDeque<Due>,
    current: Option<Resync>,
    not_before: Option<Instant>,
    /// Tables of the first copy stand at several positions.
    uneven: Option<Uneven>,
    /// When changes were lost that a copy brings; not for longer than [`MEND_PAUSE`].
    mended: HashMap<TableName, Instant>,
}

/// A table that waits to be copied.
struct Due {
    table: TableName,
    /// Not before the stream is past this.
    after: Lsn,
    /// The trunk refused its rows, and no schema change has come since.
    was_refused: bool,
}

struct Resync {
    due: Due,
    /// All that was seen of the source's table lies before this.
    seen: Lsn,
    /// Some schema change has come since.
    has_changed: bool,
    spool: Spool,
    copying: JoinHandle<()>,
    outcome: oneshot::Receiver<Result<Copied, Error>>,
    copied: Option<Copied>,
}

impl Drop for Resync {
    fn drop(&mut self) {
        self.copying.abort();
    }
}

impl Resync {
    fn is_of(&self, table: &TableName) -> bool {
        self.due.table == *table
    }
}

impl Resyncs {
    /// Of a trunk, from what is noted there.
    pub(super) async fn load(session: &Session, noted: &[Quarantined]) -> Result<Self, Error> {
        let mut resyncs = Self::default();
        noted.iter().filter(|entry| entry.is_resync_due).for_each(|e| resyncs.add(&e.table));
        if let Some(unmet) = ledger::unmet(session).await? {
            let entries = ledger::entries(session).await.map_err(at_trunk)?;
            resyncs.uneven = Some(Uneven::new(entries, unmet));
        }
        Ok(resyncs)
    }

    pub(super) fn is_uneven(&self) -> bool {
        self.uneven.is_some()
    }

    pub(super) fn add(&mut self, table: &TableName) {
        let is_known = self.due.iter().any(|due| due.table == *table)
            || self.current.as_ref().is_some_and(|current| current.is_of(table));
        if !is_known {
            let table = table.clone();
            self.due.push_back(Due { table, after: Lsn::default(), was_refused: false });
        }
    }

    /// A table may be copied because of a change that was lost, unless it just was.
    pub(super) fn may_mend(&mut self, table: &TableName) -> bool {
        self.mended.retain(|_, at| at.elapsed() < MEND_PAUSE);
        self.mended.insert(table.clone(), Instant::now()).is_none()
    }

    /// Gives up a table that is gone.
    pub(super) fn forget(&mut self, table: &TableName) {
        self.due.retain(|due| due.table != *table);
        drop(self.current.take_if(|current| current.is_of(table)));
    }

    /// Begins again with a table that changed under its copy.
    pub(super) fn restart(&mut self, table: &TableName) {
        if let Some(broken) = self.current.take_if(|current| current.is_of(table)) {
            let (table, after) = (table.clone(), broken.seen);
            self.due.push_back(Due { table, after, was_refused: false });
        }
    }

    /// To be called for every schema change: rows that were refused may fit now.
    pub(super) fn note_schema_change(&mut self) {
        if let Some(current) = &mut self.current {
            current.has_changed = true;
        }
        for due in &mut self.due {
            due.was_refused = false;
        }
    }

    /// To be called before the changes of a transaction, with where its commit record begins.
    pub(super) fn begin(&mut self, commit: Lsn) {
        if let Some(uneven) = &mut self.uneven {
            uneven.begin(commit);
        }
    }

    /// Takes a change of the table at work, and what its table holds; gives any other back.
    pub(super) fn spool(&mut self, change: Change) -> Option<Change> {
        let change = match &self.uneven {
            Some(uneven) => uneven.keep(change)?,
            None => change,
        };
        let Some(current) = &mut self.current else { return Some(change) };
        current.spool.take(&current.due.table, change)
    }

    pub(super) fn commit(&mut self, commit: Commit) {
        if let Some(current) = &mut self.current {
            current.spool.commit(commit);
        }
    }

    /// The next table, of those that need not wait for the stream.
    fn next(&mut self, passed: Lsn) -> Option<Due> {
        let is_held_back = self.not_before.is_some_and(|at| Instant::now() < at);
        if self.current.is_some() || is_held_back {
            return None;
        }
        let next = self.due.iter().position(|due| due.after <= passed)?;
        self.due.remove(next)
    }

    /// There is something to do between two transactions.
    pub(super) fn is_busy(&self) -> bool {
        self.current.is_some() || !self.due.is_empty() || self.uneven.is_some()
    }

    /// What is to be made even, once nothing is in the way.
    fn take_passed(&mut self, passed: Lsn) -> Option<Uneven> {
        let is_copying = self.current.is_some() || !self.due.is_empty();
        self.uneven.take_if(|uneven| !is_copying && uneven.is_passed(passed))
    }
}

impl Applier {
    /// To be called between two source transactions. `passed` is how far the stream is.
    pub(super) async fn tend_resyncs(&mut self, passed: Lsn) -> Result<(), Error> {
        if let Some(position) = self.copied().await?
            && passed >= position
        {
            self.finish_resync(position).await?;
        }
        if let Some(due) = self.resyncs.next(passed) {
            self.start_resync(due).await?;
        }
        match self.resyncs.take_passed(passed) {
            Some(uneven) => self.even_out(uneven).await,
            None => Ok(()),
        }
    }

    /// Where the copy at work was made, once it has ended. A spool that is full waits for it here:
    /// memory is bounded, and the source's log keeps what is not read yet.
    async fn copied(&mut self) -> Result<Option<Lsn>, Error> {
        let Some(current) = &mut self.resyncs.current else { return Ok(None) };
        if let Some(copied) = &current.copied {
            return Ok(Some(copied.position));
        }
        if current.outcome.is_empty() && !current.copying.is_finished() && !current.spool.is_full()
        {
            return Ok(None);
        }
        match (&mut current.outcome).await.unwrap_or(Err(Error::Ended)) {
            Ok(copied) => {
                let position = copied.position;
                current.copied = Some(copied);
                Ok(Some(position))
            }
            Err(error) => {
                let table = current.due.table.clone();
                self.resyncs.current = None;
                self.resync_failed(&table, &error).await?;
                Ok(None)
            }
        }
    }

    async fn start_resync(&mut self, due: Due) -> Result<(), Error> {
        self.commit_all().await?;
        if !self.replay.is_capturing() && !self.has_table(&due.table).await? {
            return self.await_poll(due.table).await;
        }
        let Some(seen) = self.repair(&due.table).await? else {
            // Gone or renamed. Where changes are captured, the stream will say which.
            if !self.replay.is_capturing() {
                self.pardon(&due.table).await?;
                self.commit_aside().await?;
            }
            return Ok(());
        };
        tracing::info!(table = %due.table, "copying table again");
        let (told, outcome) = oneshot::channel();
        let (link, trunk) = (self.replay.link.clone(), self.replay.trunk.clone());
        let work = copier::copy(link, trunk, due.table.clone(), told);
        self.resyncs.current = Some(Resync {
            due,
            seen,
            has_changed: false,
            spool: Spool::default(),
            copying: tokio::spawn(work),
            outcome,
            copied: None,
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

    async fn finish_resync(&mut self, position: Lsn) -> Result<(), Error> {
        let Some(mut current) = self.resyncs.current.take() else { return Ok(()) };
        let refused = current.copied.as_mut().and_then(|copied| copied.refused.take());
        if let Some(reason) = refused {
            return self.resync_refused(&current, position, &reason).await;
        }
        self.commit_all().await?;
        self.pardon(&current.due.table).await?;
        for change in current.spool.after(position) {
            self.take_change(change).await?;
        }
        self.retry_unequal().await?;
        self.commit_aside().await?;
        tracing::info!(table = %current.due.table, "table is followed again");
        Ok(())
    }

    /// A schema change between the look at the source and the snapshot makes rows not fit. So what
    /// is refused is tried again, and given up only when it is refused with no change in between.
    async fn resync_refused(
        &mut self,
        resync: &Resync,
        position: Lsn,
        reason: &str,
    ) -> Result<(), Error> {
        let (table, has_changed) = (resync.due.table.clone(), resync.has_changed);
        tracing::warn!(%table, reason, has_changed, "table was refused");
        if resync.due.was_refused && !has_changed {
            let reason = format!("its rows were refused: {reason}");
            return self.give_up_resync(&table, &reason).await;
        }
        self.resyncs.due.push_back(Due { table, after: position, was_refused: !has_changed });
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
        self.give_up_resync(table, &reason).await
    }

    /// Leaves the table in quarantine, until it is released.
    async fn give_up_resync(&mut self, table: &TableName, reason: &str) -> Result<(), Error> {
        self.commit_all().await?;
        self.pardon(table).await?;
        self.discover(table, reason);
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
        self.tend_resyncs(self.progress.start()).await?;
        Ok(true)
    }
}
