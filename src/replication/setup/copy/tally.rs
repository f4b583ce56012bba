//! What has been copied so far, for those who watch.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::source::Table;

use super::super::{SetupProgress, TableProgress};

/// Counts for all jobs, and tells after every change.
pub(super) struct Tally<'a> {
    report: &'a (dyn Fn(&SetupProgress) + Send + Sync),
    /// Held for a change and its report, never across an await.
    state: Mutex<SetupProgress>,
    began: Instant,
    /// Copied before it began.
    before: u64,
}

/// What passed of one part.
pub(super) struct Passed<'a> {
    tally: &'a Tally<'a>,
    table: &'a Table,
    counted: Mutex<(u64, u64)>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        report: &'a (dyn Fn(&SetupProgress) + Send + Sync),
        state: SetupProgress,
    ) -> Self {
        let before = state.bytes_done;
        Self { report, state: Mutex::new(state), began: Instant::now(), before }
    }

    /// A part of the table is begun.
    pub(super) fn begin(&'a self, table: &'a Table) -> Passed<'a> {
        let mut state = lock(&self.state);
        if !state.copying.iter().any(|entry| entry.table == table.name) {
            state.copying.push(TableProgress::new(table.name.clone(), table.bytes));
        }
        self.tell(&mut state);
        Passed { tally: self, table, counted: Mutex::default() }
    }

    /// The table is no longer worked on; the bar takes what the estimate was off.
    pub(super) fn close(&self, table: &Table) {
        let mut state = lock(&self.state);
        let Some(at) = state.copying.iter().position(|e| e.table == table.name) else { return };
        let entry = state.copying.remove(at);
        state.bytes_done += entry.bytes_total - entry.bytes_done;
        state.tables_done += 1;
        self.tell(&mut state);
    }

    pub(super) fn into_state(self) -> SetupProgress {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut SetupProgress) {
        let bytes = state.bytes_done.saturating_sub(self.before);
        state.bytes_per_second = per_second(bytes, self.began.elapsed());
        (self.report)(state);
    }
}

impl Passed<'_> {
    pub(super) fn add(&self, bytes: u64, rows: u64) {
        let mut state = lock(&self.tally.state);
        let mut gained = 0;
        if let Some(entry) = state.copying.iter_mut().find(|e| e.table == self.table.name) {
            // What is sent is not heap, but close enough for a bar that must not pass its end.
            gained = bytes.min(entry.bytes_total - entry.bytes_done);
            entry.bytes_done += gained;
            entry.rows += rows;
        }
        state.bytes_done += gained;
        state.rows += rows;
        let mut counted = lock(&self.counted);
        *counted = (counted.0 + gained, counted.1 + rows);
        self.tally.tell(&mut state);
    }

    /// The part was rolled back.
    pub(super) fn take_back(&self) {
        let (bytes, rows) = std::mem::take(&mut *lock(&self.counted));
        let mut state = lock(&self.tally.state);
        if let Some(entry) = state.copying.iter_mut().find(|e| e.table == self.table.name) {
            entry.bytes_done -= bytes;
            entry.rows -= rows;
        }
        state.bytes_done -= bytes;
        state.rows -= rows;
        self.tally.tell(&mut state);
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000) / milliseconds
}

/// A panic while holding one of these locks leaves counts behind, never half of one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rolled_back_is_not_counted() {
        let table = Table { bytes: 100, ..Table::default() };
        let tally = Tally::new(&|_| {}, SetupProgress::default());
        let first = tally.begin(&table);
        first.add(30, 3);
        let second = tally.begin(&table);
        second.add(90, 9);
        assert_eq!(lock(&tally.state).bytes_done, 100);
        second.take_back();
        {
            let state = lock(&tally.state);
            assert_eq!((state.bytes_done, state.rows, state.copying[0].rows), (30, 3, 3));
        }
        tally.close(&table);
        let state = tally.into_state();
        assert_eq!((state.bytes_done, state.tables_done, state.copying.len()), (100, 1, 0));
    }
}
