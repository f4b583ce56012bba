//! A backend that talks to its client by itself: known by its process alone.
//!
//! It is watched and signalled through a pidfd, so that never another process is meant.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout};

/// What a backend does shows in its title only, and no event tells of a change.
const TITLE_POLL: Duration = Duration::from_millis(20);
/// A backend that was told to end says goodbye to its client and is gone.
const TERMINATED_WITHIN: Duration = Duration::from_secs(2);

/// The process of a backend.
#[derive(Debug)]
pub(crate) struct BackendProcess {
    pidfd: AsyncFd<OwnedFd>,
    title: PathBuf,
}

impl BackendProcess {
    /// Opens a backend that is there.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: an `OwnedFd` is open and returns the same descriptor until it is dropped, and
        // the `AsyncFd` owns it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pidfd, title: format!("/proc/{pid}/cmdline").into() })
    }

    /// Returns when it has ended.
    pub(crate) async fn ended(&self) {
        // An error means that the runtime is going away, and we with it.
        drop(self.pidfd.readable().await);
    }

    /// Ends the session as an administrator would: an idle one at once, another when it is done or
    /// the grace is over. Returns when it has ended, or does not obey.
    pub(crate) async fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        while !self.is_idle() && Instant::now() < deadline {
            if timeout(TITLE_POLL, self.ended()).await.is_ok() {
                return;
            }
        }
        // It may have ended just now.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM);
        if timeout(TERMINATED_WITHIN, self.ended()).await.is_err() {
            tracing::warn!(title = %self.title.display(), "backend does not end");
        }
    }

    /// Whether it waits for its client outside a transaction: Postgres ends its title with that.
    fn is_idle(&self) -> bool {
        let title = std::fs::read(&self.title).unwrap_or_default();
        let end = title.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |at| at + 1);
        title.get(..end).is_some_and(|title| title.ends_with(b" idle"))
    }
}
