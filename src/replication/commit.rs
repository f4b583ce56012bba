//! The end of trunk transactions: the position moves with the changes, and is told once durable.

use std::time::Duration;

use tokio::time::Instant;

use crate::lsn::Lsn;

use super::applier::Applier;
use super::change::Commit;
use super::error::{Error, at_trunk};

/// How often a position reached without changes is written down.
const EMPTY_INTERVAL: Duration = Duration::from_secs(10);

impl Applier {
    /// Commits what is pending. A position reached without any change is written now and then
    /// only, so that a flood of empty transactions costs nothing.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let is_empty = !self.is_open
            && self.plan.is_empty()
            && self.discovered.is_empty()
            && self.sequences.is_empty()
            && self.tokens.is_empty();
        if is_empty && self.written_at.elapsed() < EMPTY_INTERVAL {
            return Ok(());
        }
        self.commit_all().await
    }

    /// Commits what is pending, be it an empty transaction.
    pub(super) async fn commit_all(&mut self) -> Result<(), Error> {
        let Some(commit) = self.pending else { return Ok(()) };
        self.run_round().await?;
        self.begin().await?;
        let sql = "UPDATE ardent.progress SET lsn = $1::text::pg_lsn, commit_time = \
                   coalesce('epoch'::timestamptz + $2::bigint * interval '1 microsecond', commit_time)";
        let statement = match &self.moving {
            Some(statement) => statement.clone(),
            None => self.session.prepare(sql).await.map_err(at_trunk)?,
        };
        self.moving = Some(statement.clone());
        let moved = self
            .session
            .execute(&statement, &[&commit.end.to_string(), &commit.time_us])
            .await
            .map_err(at_trunk)?;
        if moved != 1 {
            return Err(Error::Unsafe("trunk's progress row is gone".to_owned()));
        }
        self.session.batch_execute("COMMIT").await.map_err(at_trunk)?;
        self.is_open = false;
        self.committed(commit);
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

    /// From here on the commit is durable, and may be told.
    fn committed(&mut self, commit: Commit) {
        self.pending = None;
        self.written_at = Instant::now();
        self.progress.lsn = commit.end;
        if commit.time_us.is_some() {
            self.progress.commit_time_us = commit.time_us;
        }
        self.durable.send_replace(self.progress.start());
        let position = self.position();
        let transactions = std::mem::take(&mut self.transactions);
        self.shared.update(|status| {
            status.applied_lsn = self.progress.start();
            status.commit_time = position.commit_time;
            status.transactions += transactions;
        });
        self.polls_are_durable();
        self.shared.hear(self.heard);
        self.cache.trim();
        for token in self.tokens.drain(..) {
            self.shared.reach_barrier(&token, position);
        }
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
