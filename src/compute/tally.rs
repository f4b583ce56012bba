//! What has happened to computes, in numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Tally {
    starts: AtomicU64,
    start_failures: AtomicU64,
    suspends: AtomicU64,
    deaths: AtomicU64,
}

/// Events since this server started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeTally {
    /// Computes that came up.
    pub starts: u64,
    /// Starts that failed.
    pub start_failures: u64,
    /// Branches suspended for being idle.
    pub suspends: u64,
    /// Computes that ended unasked.
    pub deaths: u64,
}

impl Tally {
    pub(super) fn note_start(&self, is_up: bool) {
        let counter = if is_up { &self.starts } else { &self.start_failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_suspend(&self) {
        self.suspends.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_death(&self) {
        self.deaths.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ComputeTally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ComputeTally {
            starts: read(&self.starts),
            start_failures: read(&self.start_failures),
            suspends: read(&self.suspends),
            deaths: read(&self.deaths),
        }
    }
}
