//! A trunk from which branches are being cut keeps its log short: a branch recovers from what the
//! trunk has logged since its last checkpoint, and a checkpoint that has to come before a cut is
//! what a create waits for longest. Where none has been cut for a while, checkpoints come when
//! Postgres thinks fit.
//!
//! Bounds: one checkpoint at a time, none more often than every [`LOOK`], for
//! [`WARM_FOR`] after the last cut; none while the branch that was cut last starts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cause::Causes;
use crate::postgres::{Compute, PostgresError, Session};

/// Branches of a test run or a team come in bursts; between two of a burst lies less.
const WARM_FOR: Duration = Duration::from_secs(20);
/// As long a branch takes to start on a busy host; both want the disk.
const START: Duration = Duration::from_millis(300);
/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What a branch recovers in some milliseconds.
const LOG_BYTES_MAX: u64 = 512 << 10;

/// Keeps the log of one trunk short while it is told to; ends when dropped.
pub(super) struct Warm {
    trunk: Arc<Compute>,
    cut_at: Arc<Mutex<Instant>>,
    keeping: Option<JoinHandle<()>>,
}

impl Warm {
    /// Of this trunk. Does nothing yet.
    pub(super) fn new(trunk: Arc<Compute>) -> Self {
        Self { trunk, cut_at: Arc::new(Mutex::new(Instant::now())), keeping: None }
    }

    /// Keeps the log short from now on, for a while.
    pub(super) fn keep(&mut self) {
        *self.cut_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if self.keeping.as_ref().is_some_and(|keeping| !keeping.is_finished()) {
            return;
        }
        let (trunk, cut_at) = (self.trunk.clone(), self.cut_at.clone());
        self.keeping = Some(tokio::spawn(async move {
            if let Err(error) = keep_short(&trunk, &cut_at).await {
                // The next cut begins again; without it a cut only takes longer.
                tracing::debug!(error = %Causes(&error), "the trunk's log is not kept short");
            }
        }));
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        if let Some(keeping) = &self.keeping {
            keeping.abort();
        }
    }
}

async fn keep_short(trunk: &Compute, cut_at: &Mutex<Instant>) -> Result<(), PostgresError> {
    loop {
        let since = cut_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if since > WARM_FOR {
            return Ok(());
        }
        if since > START && trunk.wants_checkpoint(LOG_BYTES_MAX).await? {
            Session::system(trunk.socket_dir()).await?.checkpoint().await?;
        }
        sleep(LOOK).await;
    }
}
