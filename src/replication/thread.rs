//! A thread that a stream of rows has to itself: a runtime that does nothing else.
//!
//! On the shared runtime most rows that arrive wake one thread to read and another to use them,
//! and waking costs more than reading. Here whoever reads a socket is on the thread of whoever
//! waits for it.
//!
//! * A walsender sends every change by itself: of a million inserts every second one woke
//!   somebody. While the reader of the stream rests, what arrives wakes nobody and is read at once.
//! * Postgres sends a COPY by 8 KiB. While the thread of a first copy rests or writes, more of it
//!   arrives and wakes nobody either.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends with all that runs on it when this is dropped.
pub(super) struct Thread {
    runtime: Handle,
    #[expect(dead_code, reason = "held until the thread may end")]
    end: DropGuard,
}

impl Thread {
    /// Under this name in lists of the system's.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let end = CancellationToken::new();
        let ended = end.clone();
        let run = move || runtime.block_on(ended.cancelled());
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, end: end.drop_guard() })
    }

    /// Sockets that the task opens are the thread's.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }
}
