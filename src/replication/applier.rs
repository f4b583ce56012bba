//! Applies changes to the trunk, whole source transactions at a time, each exactly once.
//!
//! A trunk transaction holds one or more whole source transactions and moves the progress row to
//! the end of the last. A source transaction too large for one plan is applied in several rounds
//! inside one trunk transaction, so memory is bounded by twice [`PLAN_CHANGES_MAX`] and
//! [`PLAN_BYTES_MAX`] (plus one row) and as much again for what is sent, however large it is.
//!
//! A round is sent as one pipeline under a savepoint, and the next one is planned while the trunk
//! works on it. If anything in it fails, the round is rolled back and repeated step by step, then
//! row by row; a row that still fails quarantines its table, and the rest goes on.

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
use super::change::{Change, Commit, Event, Old, Shape, Tuple};
use super::commit::flush_before;
use super::ddl::{Capture, Held, Replay};
use super::error::{Error, at_trunk};
use super::flight::Flight;
use super::link::{Link, TrunkAccess};
use super::message::{Body, MessageKey};
use super::plan::{Mapped, Plan};
use super::progress::{self, Progress};
use super::resync::Resyncs;
use super::shared::{Shared, position};
use super::status::{Position, Quarantined};
use super::{quarantine, sequences};

/// A round of statements covers this many changes at most.
pub(super) const PLAN_CHANGES_MAX: usize = 10_000;
/// And about this much memory.
pub(super) const PLAN_BYTES_MAX: usize = 8 << 20;
/// A trunk transaction takes on source transactions for this long.
const GROUP_AGE_MAX: Duration = Duration::from_millis(100);
/// Plans must not depend on the size of a batch: the generic plan finds rows by index. What the
/// tables look like to the planner while they are loaded would mislead it.
const SESSION_OPTIONS: &str = "-c plan_cache_mode=force_generic_plan -c enable_hashjoin=off \
    -c enable_mergejoin=off -c enable_seqscan=off -c jit=off -c synchronous_commit=on \
    -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c check_function_bodies=off";
/// Why rows of an unknown table are not followed.
pub(super) const MISSING: &str = "the trunk lacks the table";
/// Any number will do as long as nothing else in a trunk uses it: "ardent" in ASCII.
pub(super) const APPLIER_LOCK: i64 = 0x6172_6465_6e74;

pub(super) struct Applier {
    /// Shared with the round under way, which has it to itself.
    pub(super) session: Arc<Session>,
    pub(super) flight: Flight,
    pub(super) shared: Arc<Shared>,
    key: MessageKey,
    pub(super) durable: watch::Sender<Lsn>,
    pub(super) cache: Cache,
    /// Moves the progress row.
    pub(super) moving: Option<Statement>,
    pub(super) quarantined: HashSet<TableName>,
    /// Found while planning; written with the next round.
    pub(super) discovered: Vec<Quarantined>,
    pub(super) plan: Plan,
    pub(super) sequences: Vec<Sequence>,
    pub(super) tokens: Vec<String>,
    /// Number of the last message of ours that was taken in.
    pub(super) heard: u64,
    /// Number of the last one that is committed.
    pub(super) heard_in_trunk: u64,
    /// A trunk transaction is open.
    pub(super) is_open: bool,
    /// The last whole source transaction that is not committed in the trunk.
    pub(super) pending: Option<Commit>,
    pub(super) transactions: u64,
    group_since: Instant,
    pub(super) written_at: Instant,
    /// When all was durable last.
    pub(super) flushed_at: Instant,
    /// Changes of a source transaction whose commit has not come yet.
    is_inside: bool,
    pub(super) progress: Progress,
    pub(super) replay: Replay,
    pub(super) held: Held,
    pub(super) resyncs: Resyncs,
    /// Taken into the open trunk transaction.
    pub(super) polls: Vec<String>,
}

/// What an applier works for.
#[derive(Clone, Copy)]
pub(super) struct Ends<'a> {
    pub(super) link: &'a Link,
    pub(super) trunk: &'a TrunkAccess,
    pub(super) capture: &'a Capture,
}

impl Applier {
    /// Connects, takes the applier's lock and reads where the trunk stands.
    pub(super) async fn open(
        Ends { link, trunk, capture }: Ends<'_>,
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
        flush_before(&session).await.map_err(at_trunk)?;
        let progress = progress::load(&session).await?;
        let quarantined = quarantine::load(&session).await.map_err(at_trunk)?;
        let resyncs = Resyncs::load(&session, &quarantined).await?;
        durable.send_replace(progress.start());
        shared.update(|status| {
            status.is_uneven = resyncs.is_uneven();
            status.applied_lsn = progress.start();
            status.commit_time = position(progress.lsn, progress.commit_time_us).commit_time;
            status.quarantined.clone_from(&quarantined);
        });
        let now = Instant::now();
        Ok(Self {
            session: Arc::new(session),
            flight: Flight::default(),
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
            heard: shared.heard(),
            heard_in_trunk: shared.heard(),
            is_open: false,
            pending: None,
            transactions: 0,
            group_since: now,
            written_at: now,
            flushed_at: now,
            is_inside: false,
            progress,
            replay: Replay::new(link, trunk, capture),
            held: Held::default(),
            resyncs,
            polls: Vec::new(),
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
            Event::Begin(commit) => self.resyncs.begin(commit),
            Event::Change(change) => {
                self.is_inside = true;
                self.take_change(change).await?;
                if self.plan.changes >= PLAN_CHANGES_MAX || self.plan.bytes >= PLAN_BYTES_MAX {
                    self.depart(None).await?;
                }
            }
            Event::Commit(commit) => self.take_commit(commit).await?,
            Event::Idle(lsn) => {
                self.commit_all().await?;
                self.write_idle(lsn).await?;
                self.tend_resyncs(lsn).await?;
            }
        }
        Ok(())
    }

    async fn take_commit(&mut self, commit: Commit) -> Result<(), Error> {
        if self.pending.is_none() {
            self.group_since = Instant::now();
        }
        self.is_inside = false;
        self.give_up_held();
        self.give_up_unsealed();
        self.pending = Some(commit);
        self.transactions += 1;
        self.resyncs.commit(commit);
        if std::mem::take(&mut self.replay.has_replayed) {
            self.settle().await?;
            self.tend_publications().await?;
            self.commit_all().await?;
        } else if self.is_group_full() {
            match self.has_rows_only() && !self.plan.is_empty() && !self.cache.is_full() {
                true => self.commit_behind().await?,
                false => self.commit().await?,
            }
        }
        if self.resyncs.is_busy() {
            self.tend_resyncs(commit.end).await?;
        }
        Ok(())
    }

    /// A group ends well before its plan is full: what is left of a full one would be a round of
    /// its own.
    fn is_group_full(&self) -> bool {
        self.is_open
            || self.plan.changes >= PLAN_CHANGES_MAX / 2
            || self.plan.bytes >= PLAN_BYTES_MAX / 2
            || self.group_since.elapsed() >= GROUP_AGE_MAX
    }

    pub(super) async fn take_change(&mut self, change: Change) -> Result<(), Error> {
        let Some(change) = self.resyncs.spool(change) else { return Ok(()) };
        match change {
            Change::Insert { new } => self.insert(new).await?,
            Change::Update { new, old } => self.update(new, old).await?,
            Change::Delete { old } => {
                let Some(mapping) = self.mapping(&old.shape).await? else { return Ok(()) };
                self.plan.add(Mapped::Delete((mapping, old)));
            }
            Change::Truncate { tables } => self.truncate(&tables).await?,
            Change::Message { content, lsn } if Replay::is_addressed(&content) => {
                self.take_schema_change(&content, lsn).await?;
            }
            Change::Message { content, .. } => {
                let Some(body) = self.take_message(content.as_str()) else { return Ok(()) };
                if body.has_new_roles {
                    self.settle().await?;
                    self.refresh_roles().await?;
                }
                // The barrier comes with the message that tells the schema at its position.
                let is_whole = body.poll.is_empty() || self.take_poll(&body.poll).await?;
                if is_whole && !body.token.is_empty() {
                    self.tokens.push(body.token);
                }
            }
            Change::Lost { table: Some(table), said } => self.lose(&table, &said).await?,
            Change::Lost { table: None, said } => self.shared.warn(said),
        }
        Ok(())
    }

    pub(super) async fn insert(&mut self, new: Tuple) -> Result<(), Error> {
        let Some(mapping) = self.mapping(&new.shape).await? else {
            self.held.hold(new);
            return Ok(());
        };
        if !mapping.is_complete {
            let is_resync_due = !self.replay.is_capturing();
            self.divert(
                &mapping.table.name,
                "a column of it is gone from the source",
                is_resync_due,
            );
            return Ok(());
        }
        self.plan.add(Mapped::Insert((mapping, new)));
        Ok(())
    }

    async fn update(&mut self, new: Tuple, old: Old) -> Result<(), Error> {
        let Some(mapping) = self.mapping(&new.shape).await? else { return Ok(()) };
        let Some(old_mapping) = self.mapping(old.shape()).await? else { return Ok(()) };
        let has_key = mapping.key.is_some() && old_mapping.key.is_some();
        self.plan.add(match old {
            Old::Kept(_) if has_key => Mapped::Update((mapping, new)),
            old => Mapped::UpdateOf { old: (old_mapping, old.into_row(&new)), new: (mapping, new) },
        });
        Ok(())
    }

    /// A message of an earlier run of this server, or forged: says nothing to us. Nor does one that
    /// somebody who may read the log said again.
    fn take_message(&mut self, content: &str) -> Option<Body> {
        let opened = self.key.open(content).filter(|body| body.number > self.heard);
        let Some(body) = opened else {
            tracing::debug!("message without our signature or said again ignored");
            return None;
        };
        self.heard = body.number;
        self.sequences.extend(body.sequences.iter().cloned());
        Some(body)
    }

    /// How a row goes into the trunk; none if it does not.
    async fn mapping(&mut self, shape: &Arc<Shape>) -> Result<Option<Arc<Mapping>>, Error> {
        let table = &shape.table;
        if self.quarantined.contains(table) {
            return Ok(None);
        }
        let known = match self.cache.known_mapping(shape) {
            Some(known) => known,
            None => {
                self.settle().await?;
                self.cache.mapping(&self.session, shape).await?
            }
        };
        match known {
            Known::Yes(mapping) => Ok(Some(mapping)),
            Known::Derived => Ok(None),
            Known::Missing if self.replay.is_capturing() => {
                self.held.expect(table);
                Ok(None)
            }
            Known::Missing => {
                self.divert(table, MISSING, true);
                Ok(None)
            }
            Known::No(reason) => {
                // Without capture, its shape is learnt by copying it again.
                self.divert(table, &reason, !self.replay.is_capturing());
                Ok(None)
            }
        }
    }

    pub(super) fn warn(&self, text: String) {
        self.shared.warn(text);
    }

    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        if !self.is_open {
            self.session.batch_execute(BEGIN_SQL).await.map_err(at_trunk)?;
            self.is_open = true;
        }
        Ok(())
    }

    /// Runs what is planned, and then what belongs after it. The session is free afterwards.
    pub(super) async fn run_round(&mut self) -> Result<(), Error> {
        self.depart(None).await?;
        self.settle().await?;
        for sequence in std::mem::take(&mut self.sequences).chunks(SEQUENCES_MAX) {
            self.begin().await?;
            let outcome = self.guarded(sequences::set(&self.session, sequence)).await?;
            if let Err(said) = outcome {
                self.shared.warn(format!("sequences are behind the source: {said}"));
            }
        }
        self.note_discovered().await
    }

    /// Writes down what is quarantined, in the transaction that leaves it out.
    pub(super) async fn note_discovered(&mut self) -> Result<(), Error> {
        for entry in std::mem::take(&mut self.discovered) {
            self.begin().await?;
            quarantine::add(&self.session, &entry).await.map_err(at_trunk)?;
            self.shared.quarantine(entry);
        }
        Ok(())
    }

    /// Ends the session and waits until it has ended.
    pub(super) async fn close(self) {
        // A round under way has it too; there is none after a commit.
        if let Some(session) = Arc::into_inner(self.session) {
            session.close().await;
        }
    }
}

const BEGIN_SQL: &str = "BEGIN; SET CONSTRAINTS ALL DEFERRED";
const SEQUENCES_MAX: usize = 1_000;
