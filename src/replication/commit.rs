//! The end of trunk transactions: the position moves with the changes, and is told once durable.
//!
//! A commit need not wait for the disk: what a crash of the trunk takes of such commits, it takes
//! from the end and with their positions, and the source still has it. What waits, and makes all
//! before it durable:
//!
//! | commit | waits |
//! |---|---|
//! | that somebody hears of: a barrier, a pause, a schema change | always |
//! | of a full group, with more at hand | once in [`FLUSH_INTERVAL`] |
//! | of the last that is at hand | once in [`QUIET_INTERVAL`] |
//!
//! What nobody waits for is committed once in [`COMMIT_INTERVAL`]: a source that commits faster
//! pays for fewer, larger rounds of the trunk beside it, and one that is slower notices nothing.
//!
//! Where no commit comes any more, the last ones are made durable [`QUIET_INTERVAL`] after the one
//! that waited. So a trunk that keeps up takes little from a source on the same disk.

use std::time::Duration;

use proxy::client::Session;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Statement;

use crate::lsn::Lsn;

use super::applier::Applier;
use super::change::Commit;
use super::error::{Error, at_trunk};
use super::flight::Ending;

/// Little beside the time in which a source tells of a commit, long beside what a round takes.
const COMMIT_INTERVAL: Duration = Duration::from_millis(10);
/// How often a position reached without changes is written down.
const EMPTY_INTERVAL: Duration = Duration::from_secs(10);
/// The source is told as often; what it keeps for us meanwhile is little.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// Short beside the time in which a person looks again, long beside a write to the disk.
const QUIET_INTERVAL: Duration = Duration::from_millis(100);

impl Applier {
    /// Commits what is pending; all is durable once [`Applier::flush_is_due`]. A position reached
    /// without any change is written now and then only, so that a flood of empty transactions costs
    /// nothing.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let is_quiet = self.flushed_at.elapsed() >= QUIET_INTERVAL;
        let is_empty = !self.is_open && self.plan.is_empty() && self.has_rows_only();
        if is_empty && self.written_at.elapsed() < EMPTY_INTERVAL {
            self.settle().await?;
            return if is_quiet { self.flush().await } else { Ok(()) };
        }
        if is_quiet || !self.has_rows_only() {
            return self.commit_all().await;
        }
        self.send_commit(false).await?;
        self.settle().await
    }

    /// It is time to commit what is at hand. While it is not, [`Applier::commit_will_be_due`].
    pub(super) fn commit_is_due(&self) -> bool {
        let is_waited_for = !self.has_rows_only();
        self.pending.is_none() || is_waited_for || self.written_at.elapsed() >= COMMIT_INTERVAL
    }

    /// Returns when it is time to commit what is at hand; never, if nothing waits for that.
    pub(super) async fn commit_will_be_due(&self) {
        if self.commit_is_due() {
            std::future::pending::<()>().await;
        }
        sleep_until(self.written_at + COMMIT_INTERVAL).await;
    }

    /// Commits what is pending, be it an empty transaction. Everything is durable then.
    pub(super) async fn commit_all(&mut self) -> Result<(), Error> {
        if self.pending.is_none() {
            self.settle().await?;
            return self.flush().await;
        }
        if !self.has_rows_only() {
            self.run_round().await?;
        }
        self.send_commit(true).await?;
        self.settle().await?;
        let position = self.position();
        self.polls_are_durable();
        for token in self.tokens.drain(..) {
            self.shared.reach_barrier(&token, position);
        }
        Ok(())
    }

    /// Lets the trunk commit what is pending while the next transactions are taken in.
    pub(super) async fn commit_behind(&mut self) -> Result<(), Error> {
        self.send_commit(self.flushed_at.elapsed() >= FLUSH_INTERVAL).await
    }

    async fn send_commit(&mut self, is_flushed: bool) -> Result<(), Error> {
        let Some(commit) = self.pending.take() else { return self.settle().await };
        let ending = Ending {
            commit,
            transactions: std::mem::take(&mut self.transactions),
            heard: self.heard,
            is_flushed,
            moving: self.moving().await?,
        };
        self.depart(Some(ending)).await
    }

    /// Nothing is pending but rows: what else there is has to be seen to before a commit.
    pub(super) fn has_rows_only(&self) -> bool {
        self.discovered.is_empty() && self.sequences.is_empty() && self.tokens.is_empty()
    }

    /// The statement that moves the progress row.
    async fn moving(&mut self) -> Result<Statement, Error> {
        if let Some(statement) = &self.moving {
            return Ok(statement.clone());
        }
        self.settle().await?;
        let statement = self.session.prepare(MOVE_SQL).await.map_err(at_trunk)?;
        self.moving = Some(statement.clone());
        Ok(statement)
    }

    /// Moves the position and commits.
    pub(super) async fn end(&mut self, ending: &Ending) -> Result<(), Error> {
        is_moved(ending.move_progress(&self.session).await.map_err(at_trunk)?)?;
        self.session.batch_execute("COMMIT").await.map_err(at_trunk)?;
        self.is_open = false;
        Ok(())
    }

    /// Commits what was done between two source transactions; the position stays.
    pub(super) async fn commit_aside(&mut self) -> Result<(), Error> {
        self.run_round().await?;
        if std::mem::take(&mut self.is_open) {
            self.session.batch_execute("COMMIT").await.map_err(at_trunk)?;
        }
        Ok(())
    }

    pub(super) fn committed(&mut self, ending: &Ending) {
        let commit = ending.commit;
        self.written_at = Instant::now();
        self.progress.lsn = commit.end;
        if commit.time_us.is_some() {
            self.progress.commit_time_us = commit.time_us;
        }
        self.shared.update(|status| status.transactions += ending.transactions);
        self.heard_in_trunk = ending.heard;
        if ending.is_flushed {
            self.flushed();
        }
        // Nothing that refers to it is planned: the next group has not begun, or is this one's.
        if self.plan.is_empty() {
            self.cache.trim();
        }
    }

    /// Nothing was committed after what is durable.
    fn is_flushed(&self) -> bool {
        *self.durable.borrow() >= self.progress.start()
    }

    /// From here on every commit so far is durable, and may be told.
    fn flushed(&mut self) {
        self.flushed_at = Instant::now();
        self.durable.send_replace(self.progress.start());
        self.shared.hear(self.heard_in_trunk);
        let position = self.position();
        self.shared.update(|status| {
            status.applied_lsn = self.progress.start();
            status.commit_time = position.commit_time;
        });
    }

    /// Returns when it is time to [`Applier::flush`]; never, if all is durable or will be with what
    /// is at hand.
    pub(super) async fn flush_is_due(&self) {
        if self.is_open || self.is_flushed() || !self.commit_is_due() {
            std::future::pending::<()>().await;
        }
        sleep_until(self.flushed_at + QUIET_INTERVAL).await;
    }

    /// Waits until every commit so far is durable: one that writes and waits for the disk takes
    /// those before it along. Amid a transaction its commit will.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        if self.is_open || self.is_flushed() {
            return Ok(());
        }
        self.session.execute(TOUCH_SQL, &[]).await.map_err(at_trunk)?;
        self.flushed();
        Ok(())
    }

    /// Written before it is told, or a restart would take the slot for one that skipped.
    pub(super) async fn write_idle(&mut self, lsn: Lsn) -> Result<(), Error> {
        if lsn <= self.progress.start() {
            return Ok(());
        }
        let sql = "UPDATE ardent.progress SET idle_lsn = $1::text::pg_lsn";
        self.session.execute(sql, &[&lsn.to_string()]).await.map_err(at_trunk)?;
        self.progress.idle_lsn = lsn;
        self.durable.send_replace(lsn);
        self.shared.update(|status| status.applied_lsn = lsn);
        Ok(())
    }
}

/// Makes durable what an applier before this one may have committed without waiting for the disk:
/// the position that is read next counts as durable.
pub(super) async fn flush_before(session: &Session) -> Result<(), tokio_postgres::Error> {
    let sql = format!("{TOUCH_SQL} WHERE {IS_UNFLUSHED_SQL}");
    session.execute(&sql, &[]).await.map(drop)
}

impl Ending {
    /// The statement that commits.
    pub(super) fn commit_sql(&self) -> &'static str {
        match self.is_flushed {
            true => "COMMIT",
            false => "SET LOCAL synchronous_commit = off; COMMIT",
        }
    }

    /// Returns how many rows were moved, which is one.
    pub(super) async fn move_progress(
        &self,
        session: &Session,
    ) -> Result<u64, tokio_postgres::Error> {
        let Commit { end, time_us } = self.commit;
        session.execute(&self.moving, &[&end.to_string(), &time_us]).await
    }
}

/// A trunk without its progress row must not commit: it would not know where it stands.
pub(super) fn is_moved(rows: u64) -> Result<(), Error> {
    match rows {
        1 => Ok(()),
        _ => Err(Error::Unsafe("trunk's progress row is gone".to_owned())),
    }
}

const TOUCH_SQL: &str = "UPDATE ardent.progress SET lsn = lsn";

const IS_UNFLUSHED_SQL: &str =
    "pg_catalog.pg_current_wal_flush_lsn() < pg_catalog.pg_current_wal_insert_lsn()";

const MOVE_SQL: &str = "\
UPDATE ardent.progress
   SET lsn = $1::text::pg_lsn,
       commit_time = coalesce('epoch'::timestamptz + $2::bigint * interval '1 microsecond',
                              commit_time)";
