//! One branch's place for a compute: the lock that makes starting it single-flight, the count of
//! those who use it, and the memory of a start that failed.
//!
//! | phase | lock held | compute |
//! |---|---|---|
//! | `Stopped` | no | none, or one that died |
//! | `Starting` | by the start | none yet |
//! | `Running` | no | there |
//! | `Stopping` | by the stop | still there |

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{ComputeError, ComputeTarget};
use crate::postgres::Compute;

/// A failed start is not repeated for this long; doubled with each failure in a row.
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A compute that dies again sooner is left alone until somebody needs it.
const REVIVED_AGAIN_AFTER: Duration = Duration::from_secs(60);

pub(super) type Guard = OwnedMutexGuard<Option<Arc<Compute>>>;

pub(super) struct Slot {
    pub(super) target: ComputeTarget,
    /// The compute, if one was started and not stopped; held across every start and stop.
    pub(super) compute: Arc<Mutex<Option<Arc<Compute>>>>,
    phase: AtomicU8,
    usage: Arc<Usage>,
    failure: StdMutex<Option<Failure>>,
    /// When it was last started again because it had died.
    revived: StdMutex<Option<Instant>>,
    /// Set under the lock when the branch goes away: who waits for the lock must not start it.
    retired: AtomicBool,
    /// The branch is a fork that has not been made durable yet.
    tentative: AtomicBool,
}

/// What is happening to a slot's compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputePhase {
    /// Nothing runs.
    Stopped,
    /// It is on its way up.
    Starting,
    /// It accepts connections.
    Running,
    /// It is on its way down.
    Stopping,
}

impl ComputePhase {
    /// The word in the `state` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

struct Usage {
    leases: AtomicUsize,
    last_used: StdMutex<Instant>,
}

struct Failure {
    at: Instant,
    pause: Duration,
    reason: String,
}

/// Keeps a compute from being suspended while it is held. Does not keep it from dying.
pub struct Lease {
    compute: Arc<Compute>,
    usage: Arc<Usage>,
}

impl Slot {
    pub(super) fn new(target: ComputeTarget) -> Self {
        Self {
            target,
            compute: Arc::default(),
            phase: AtomicU8::new(ComputePhase::Stopped as u8),
            usage: Arc::new(Usage {
                leases: AtomicUsize::new(0),
                last_used: StdMutex::new(Instant::now()),
            }),
            failure: StdMutex::new(None),
            revived: StdMutex::new(None),
            retired: AtomicBool::new(false),
            tentative: AtomicBool::new(false),
        }
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn set_tentative(&self, is_tentative: bool) {
        self.tentative.store(is_tentative, Ordering::Release);
    }

    pub(super) fn is_tentative(&self) -> bool {
        self.tentative.load(Ordering::Acquire)
    }

    /// Called with the lock held.
    pub(super) fn enter(&self, phase: ComputePhase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(super) fn phase(&self) -> ComputePhase {
        let code = self.phase.load(Ordering::Acquire);
        let phases = [ComputePhase::Starting, ComputePhase::Running, ComputePhase::Stopping];
        let found = phases.into_iter().find(|phase| *phase as u8 == code);
        found.unwrap_or(ComputePhase::Stopped)
    }

    /// Whether a compute that died is to be started again now; once in a while only.
    pub(super) fn may_revive(&self) -> bool {
        let mut revived = self.revived.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = revived.is_none_or(|last| last.elapsed() >= REVIVED_AGAIN_AFTER);
        if is_due {
            *revived = Some(Instant::now());
        }
        is_due
    }

    pub(super) fn lease(&self, compute: Arc<Compute>) -> Lease {
        self.usage.leases.fetch_add(1, Ordering::AcqRel);
        Lease { compute, usage: self.usage.clone() }
    }

    pub(super) fn leases(&self) -> usize {
        self.usage.leases.load(Ordering::Acquire)
    }

    /// Time since the last lease ended; zero while one is out.
    pub(super) fn idle_for(&self) -> Duration {
        if self.leases() > 0 { Duration::ZERO } else { self.usage.last_used().elapsed() }
    }

    /// Why the last start failed, while it is too early to try again.
    pub(super) fn recent_failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = failure.as_ref().filter(|failure| failure.at.elapsed() < failure.pause)?;
        Some(recent.reason.clone())
    }

    /// Remembers how a start went.
    pub(super) fn note_start(&self, started: &Result<Compute, ComputeError>) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let doubled = failure.as_ref().map_or(BACK_OFF_MIN, |last| last.pause * 2);
        *failure = started.as_ref().err().map(|error| Failure {
            at: Instant::now(),
            pause: doubled.min(BACK_OFF_MAX),
            reason: error.to_string(),
        });
    }
}

impl Usage {
    fn last_used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The compute.
    pub fn compute(&self) -> &Arc<Compute> {
        &self.compute
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.usage.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.usage.leases.fetch_sub(1, Ordering::AcqRel);
    }
}
