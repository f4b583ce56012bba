//! What the tasks of one stream share: its status, and the barriers that wait for the applier.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{SetOnce, oneshot, watch};

use crate::lsn::Lsn;
use crate::source::TableName;

use super::ddl::{MODE_POLLING, Poll};
use super::status::{Phase, Position, Quarantined, Status};

/// A status lists this many warnings; the oldest go first.
const WARNINGS_MAX: usize = 100;

type Polled = watch::Receiver<Option<Arc<Poll>>>;

#[derive(Default)]
pub(super) struct Shared {
    /// Held for the copy of a few fields only, never across an await.
    status: Mutex<Status>,
    source_end: Mutex<Lsn>,
    /// By token; one a message, each gone once applied.
    polls: Mutex<HashMap<String, Polled>>,
    is_poll_wanted: AtomicBool,
    mode_known: SetOnce<()>,
    /// Number of the last message of ours whose effects are durable in the trunk.
    heard: AtomicU64,
    /// Tables whose rows the trunk takes by INSERT only.
    inserted: Mutex<HashSet<TableName>>,
    /// By token of the message that was emitted on the source.
    barriers: Mutex<HashMap<String, oneshot::Sender<Position>>>,
}

impl Shared {
    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }

    /// Notes how schema changes are learnt of.
    pub(super) fn learn_by(&self, mode: &'static str) {
        lock(&self.status).ddl_mode = mode;
        // Known already in a later life of the stream.
        let _known = self.mode_known.set(());
    }

    pub(super) fn is_mode_known(&self) -> bool {
        self.mode_known.initialized()
    }

    /// Returns once it is known how schema changes are learnt of, and so whether a message of ours
    /// has to look for them. Takes as long as the source cannot be reached.
    pub(super) async fn mode_known(&self) {
        self.mode_known.wait().await;
    }

    pub(super) fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        let end = lock(&self.source_end).max(status.received_lsn);
        status.lag_bytes = end.0.saturating_sub(status.applied_lsn.0);
        status
    }

    /// The end of the source's log, as of the last look.
    pub(super) fn saw_source_end(&self, end: Lsn) {
        *lock(&self.source_end) = end;
    }

    pub(super) fn enter(&self, phase: Phase) {
        lock(&self.status).phase = phase;
    }

    /// A warning, said once however often it comes up.
    pub(super) fn warn(&self, text: String) {
        let mut status = lock(&self.status);
        if status.warnings.contains(&text) {
            return;
        }
        tracing::warn!(slot = status.slot, "{text}");
        if status.warnings.len() >= WARNINGS_MAX {
            status.warnings.remove(0);
        }
        status.warnings.push(text);
    }

    /// Notes that the trunk refuses to COPY into a table.
    pub(super) fn avoid_copy(&self, table: &TableName) {
        lock(&self.inserted).insert(table.clone());
    }

    pub(super) fn avoids_copy(&self, table: &TableName) -> bool {
        lock(&self.inserted).contains(table)
    }

    pub(super) fn quarantine(&self, table: Quarantined) {
        let mut status = lock(&self.status);
        if !status.quarantined.iter().any(|other| other.table == table.table) {
            tracing::warn!(table = %table.table, reason = table.reason, "table quarantined");
            status.quarantined.push(table);
        }
    }

    pub(super) fn schedule_resync(&self, table: &TableName) {
        for entry in &mut lock(&self.status).quarantined {
            entry.is_resync_due |= entry.table == *table;
        }
    }

    pub(super) fn pardon(&self, table: &TableName) {
        lock(&self.status).quarantined.retain(|entry| entry.table != *table);
    }

    /// What a message stands for, to be said once it is known; never, if the sender is dropped.
    pub(super) fn announce_poll(&self, token: String) -> watch::Sender<Option<Arc<Poll>>> {
        let (sender, receiver) = watch::channel(None);
        let mut polls = lock(&self.polls);
        polls.retain(|_, polled| polled.has_changed().is_ok() || polled.borrow().is_some());
        polls.insert(token, receiver);
        sender
    }

    /// Waits for what a message stands for; nothing, if that is what it stands for.
    pub(super) async fn poll(&self, token: &str) -> Option<Arc<Poll>> {
        let mut polled = lock(&self.polls).get(token).cloned()?;
        let poll = polled.wait_for(Option::is_some).await.ok()?;
        poll.clone()
    }

    pub(super) fn forget_poll(&self, token: &str) {
        lock(&self.polls).remove(token);
    }

    /// Something was missed that only a look at the source's schema can mend.
    pub(super) fn want_poll(&self) {
        self.is_poll_wanted.store(true, Ordering::Relaxed);
    }

    /// Takes the wish to look at the source's schema, if there is one or it is always so.
    pub(super) fn take_poll(&self) -> Option<Wanted<'_>> {
        let is_wanted = self.is_poll_wanted.swap(false, Ordering::Relaxed);
        let is_only_way = lock(&self.status).ddl_mode == MODE_POLLING;
        (is_wanted || is_only_way).then(|| Wanted { shared: self, is_done: false, is_only_way })
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    pub(super) fn hear(&self, number: u64) {
        self.heard.store(number, Ordering::Relaxed);
    }

    pub(super) fn expect_barrier(&self, token: String) -> oneshot::Receiver<Position> {
        let (sender, receiver) = oneshot::channel();
        let mut barriers = lock(&self.barriers);
        // Callers that gave up waiting leave theirs behind.
        barriers.retain(|_, waiting| !waiting.is_closed());
        barriers.insert(token, sender);
        receiver
    }

    pub(super) fn reach_barrier(&self, token: &str, position: Position) {
        if let Some(waiting) = lock(&self.barriers).remove(token) {
            // The caller may have given up; the barrier is reached all the same.
            let _told = waiting.send(position);
        }
    }

    /// Wakes every waiting barrier with an error: the stream will not come to them.
    pub(super) fn give_up_barriers(&self) {
        lock(&self.barriers).clear();
    }
}

/// A look that is due. It stays due if this is dropped before it is done.
pub(super) struct Wanted<'a> {
    shared: &'a Shared,
    is_done: bool,
    /// Nothing else tells of changes of the schema.
    pub(super) is_only_way: bool,
}

impl Wanted<'_> {
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.want_poll();
        }
    }
}

/// A panic while holding one of these locks leaves plain values behind, never half of one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The position of a commit, as callers see it.
pub(super) fn position(lsn: Lsn, time_us: Option<i64>) -> Position {
    let since_epoch = time_us.and_then(|time| u64::try_from(time).ok()).map(Duration::from_micros);
    Position { lsn, commit_time: since_epoch.map(|since| UNIX_EPOCH + since) }
}
