//! Applies changes to the trunk, whole source transactions at a time, each exactly once.
//!
//! A trunk transaction holds one or more whole source transactions and moves the progress row to
//! the end of the last. A source transaction too large for one plan is applied in several rounds
//! inside one trunk transaction, so memory is bounded by [`PLAN_CHANGES_MAX`] and
//! [`PLAN_BYTES_MAX`] (plus one row), however large it is.
//!
//! A round is sent as one pipeline under a savepoint. If anything in it fails, the round is rolled
//! back and repeated step by step, then row by row; a row that still fails quarantines its table,
//! and the rest goes on.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proxy::client::Session;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Statement;

use crate::lsn::Lsn;
use crate::source::{Sequence, TableName};

use super::cache::{Cache, Known};
use super::catalog::Mapping;
use super::change::{Change, Commit, Event, Tuple};
use super::error::{Error, at_trunk};
use super::link::TrunkAccess;
use super::message::MessageKey;
use super::plan::{Mapped, Plan, Step};
use super::progress::{self, Progress};
use super::round::{Failure, Round};
use super::shared::{Shared, position};
use super::status::{Position, Quarantined};
use super::{quarantine, sequences};

/// A round of statements covers this many changes at most.
pub(super) const PLAN_CHANGES_MAX: usize = 10_000;
/// And about this much memory.
pub(super) const PLAN_BYTES_MAX: usize = 8 << 20;
/// A trunk transaction takes on source transactions for this long.
const GROUP_AGE_MAX: Duration = Duration::from_millis(100);
/// How often a position reached without changes is written down.
const EMPTY_INTERVAL: Duration = Duration::from_secs(10);
/// Plans must not depend on the size of a batch: the generic plan finds rows by index. What the
/// tables look like to the planner while they are loaded would mislead it.
const SESSION_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c enable_hashjoin=off \
    -c enable_mergejoin=off -c enable_seqscan=off -c jit=off -c synchronous_commit=on \
    -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0";
/// Any number will do as long as nothing else in a trunk uses it: "ardent" in ASCII.
const APPLIER_LOCK: i64 = 0x6172_6465_6e74;

pub(super) struct Applier {
    pub(super) session: Session,
    shared: Arc<Shared>,
    key: MessageKey,
    durable: watch::Sender<Lsn>,
    pub(super) cache: Cache,
    /// Moves the progress row.
    moving: Option<Statement>,
    pub(super) quarantined: HashSet<TableName>,
    /// Found while planning; written with the next round.
    discovered: Vec<Quarantined>,
    plan: Plan,
    sequences: Vec<Sequence>,
    tokens: Vec<String>,
    /// A trunk transaction is open.
    pub(super) is_open: bool,
    /// The last whole source transaction that is not committed in the trunk.
    pending: Option<Commit>,
    transactions: u64,
    group_since: Instant,
    written_at: Instant,
    /// Changes of a source transaction whose commit has not come yet.
    is_inside: bool,
    progress: Progress,
}

impl Applier {
    /// Connects, takes the applier's lock and reads where the trunk stands.
    pub(super) async fn open(
        trunk: &TrunkAccess,
        shared: &Arc<Shared>,
        key: &MessageKey,
        durable: &watch::Sender<Lsn>,
    ) -> Result<Self, Error> {
        let session = Session::open(&trunk.as_apply(SESSION_OPTIONS)).await.map_err(at_trunk)?;
        let row = session
            .query_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[&APPLIER_LOCK])
            .await
            .map_err(at_trunk)?;
        if !row.try_get::<_, bool>(0).map_err(at_trunk)? {
            return Err(Error::Busy);
        }
        let progress = progress::load(&session).await?;
        let quarantined = quarantine::load(&session).await.map_err(at_trunk)?;
        durable.send_replace(progress.start());
        shared.update(|status| {
            status.applied_lsn = progress.start();
            status.commit_time = position(progress.lsn, progress.commit_time_us).commit_time;
            status.quarantined.clone_from(&quarantined);
        });
        let now = Instant::now();
        Ok(Self {
            session,
            shared: Arc::clone(shared),
            key: key.clone(),
            durable: durable.clone(),
            cache: Cache::default(),
            moving: None,
            quarantined: quarantined.into_iter().map(|entry| entry.table).collect(),
            discovered: Vec::new(),
            plan: Plan::default(),
            sequences: Vec::new(),
            tokens: Vec::new(),
            is_open: false,
            pending: None,
            transactions: 0,
            group_since: now,
            written_at: now,
            is_inside: false,
            progress,
        })
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The source commit the trunk stands at.
    pub(super) fn position(&self) -> Position {
        position(self.progress.lsn, self.progress.commit_time_us)
    }

    /// No source transaction is half taken in.
    pub(super) fn is_at_boundary(&self) -> bool {
        !self.is_inside
    }

    /// Takes in one event. Rounds run and groups commit when they are full.
    pub(super) async fn take(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Begin(_) => {}
            Event::Change(change) => {
                self.is_inside = true;
                self.take_change(change).await?;
                if self.plan.changes >= PLAN_CHANGES_MAX || self.plan.bytes >= PLAN_BYTES_MAX {
                    self.run_round().await?;
                }
            }
            Event::Commit(commit) => {
                if self.pending.is_none() {
                    self.group_since = Instant::now();
                }
                self.is_inside = false;
                self.pending = Some(commit);
                self.transactions += 1;
                if self.is_open || self.group_since.elapsed() >= GROUP_AGE_MAX {
                    self.commit().await?;
                }
            }
            Event::Idle(lsn) => {
                self.commit_all().await?;
                self.write_idle(lsn).await?;
            }
        }
        Ok(())
    }

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
        self.cache.trim();
        for token in self.tokens.drain(..) {
            self.shared.reach_barrier(&token, position);
        }
    }

    /// Written before it is told, or a restart would take the slot for one that skipped.
    async fn write_idle(&mut self, lsn: Lsn) -> Result<(), Error> {
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

    async fn take_change(&mut self, change: Change) -> Result<(), Error> {
        match change {
            Change::Insert { new } => {
                let Some(mapping) = self.mapping(&new).await? else { return Ok(()) };
                if !mapping.is_complete {
                    self.discover(&mapping.table.name, "a column of it is gone from the source");
                    return Ok(());
                }
                self.plan.add(Mapped { new: Some((mapping, new)), old: None });
            }
            Change::Update { new, old } => {
                let Some(mapping) = self.mapping(&new).await? else { return Ok(()) };
                // A plugin that leaves the old row out says that its key did not change.
                let Some(old) = old else {
                    self.discover(&mapping.table.name, "an update came without its old key");
                    return Ok(());
                };
                let Some(old_mapping) = self.mapping(&old).await? else { return Ok(()) };
                let new = Some((mapping, new));
                self.plan.add(Mapped { new, old: Some((old_mapping, old)) });
            }
            Change::Delete { old } => {
                let Some(mapping) = self.mapping(&old).await? else { return Ok(()) };
                self.plan.add(Mapped { new: None, old: Some((mapping, old)) });
            }
            Change::Truncate { tables } => self.truncate(&tables).await?,
            Change::Message { content, .. } => self.take_message(&content),
            Change::Lost { table: Some(table), said } => self.discover(&table, &said),
            Change::Lost { table: None, said } => self.shared.warn(said),
        }
        Ok(())
    }

    /// A message of an earlier run of this server, or forged: says nothing to us.
    fn take_message(&mut self, content: &str) {
        let Some(body) = self.key.open(content) else {
            tracing::debug!("message without our signature ignored");
            return;
        };
        self.sequences.extend(body.sequences);
        if !body.token.is_empty() {
            self.tokens.push(body.token);
        }
    }

    /// How a row goes into the trunk; none if it does not.
    async fn mapping(&mut self, tuple: &Tuple) -> Result<Option<Arc<Mapping>>, Error> {
        let table = &tuple.shape.table;
        if self.quarantined.contains(table) {
            return Ok(None);
        }
        match self.cache.mapping(&self.session, &tuple.shape).await? {
            Known::Yes(mapping) => Ok(Some(mapping)),
            Known::Derived => Ok(None),
            Known::No(reason) => {
                self.discover(table, &reason);
                Ok(None)
            }
        }
    }

    /// Quarantines a table from the last commit on.
    pub(super) fn discover(&mut self, table: &TableName, reason: &str) {
        if self.quarantined.insert(table.clone()) {
            let lsn = self.progress.lsn;
            let reason = reason.to_owned();
            self.discovered.push(Quarantined { table: table.clone(), reason, lsn });
        }
    }

    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        if !self.is_open {
            self.session.batch_execute(BEGIN_SQL).await.map_err(at_trunk)?;
            self.is_open = true;
        }
        Ok(())
    }

    /// Runs what is planned, and then what belongs after it.
    pub(super) async fn run_round(&mut self) -> Result<(), Error> {
        let steps = std::mem::take(&mut self.plan).into_steps();
        if !steps.is_empty() {
            self.run_steps(&steps).await?;
        }
        for sequence in std::mem::take(&mut self.sequences).chunks(SEQUENCES_MAX) {
            self.begin().await?;
            let outcome = self.guarded(sequences::set(&self.session, sequence)).await?;
            if let Err(said) = outcome {
                self.shared.warn(format!("sequences are behind the source: {said}"));
            }
        }
        for entry in std::mem::take(&mut self.discovered) {
            self.begin().await?;
            quarantine::add(&self.session, &entry.table, &entry.reason, entry.lsn)
                .await
                .map_err(at_trunk)?;
            self.shared.quarantine(entry);
        }
        Ok(())
    }

    async fn run_steps(&mut self, steps: &[Step]) -> Result<(), Error> {
        let round = Round::prepare(self, steps).await?;
        match round.run_pipelined(&self.session, self.is_open).await {
            Ok(()) => {
                self.is_open = true;
                return Ok(());
            }
            Err(Failure::Fatal(error)) => return Err(error),
            Err(Failure::Rows(said)) => {
                tracing::debug!(said, "round is repeated step by step");
            }
        }
        self.is_open = true;
        self.session.batch_execute("ROLLBACK TO SAVEPOINT round").await.map_err(at_trunk)?;
        let failed = round.run_carefully(&self.session).await?;
        for (table, reason) in failed {
            self.discover(&table, &reason);
        }
        Ok(())
    }

    /// Ends the session and waits until it has ended.
    pub(super) async fn close(self) {
        self.session.close().await;
    }
}

const BEGIN_SQL: &str = "BEGIN; SET CONSTRAINTS ALL DEFERRED";
const SEQUENCES_MAX: usize = 1_000;
