//! The thread that the reader lives on: a runtime that does nothing else.
//!
//! A walsender sends every change by itself. On the shared runtime each wakes a thread, and waking
//! costs more than reading: of a million inserts every second one did. Here nobody waits for the
//! socket while the reader rests, so what arrives meanwhile wakes nobody and is read at once.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends with all that runs on it when this is dropped.
pub(in super::super) struct Thread {
    runtime: Handle,
    #[expect(dead_code, reason = "held until the thread may end")]
    end: DropGuard,
}

impl Thread {
    pub(in super::super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let end = CancellationToken::new();
        let ended = end.clone();
        let run = move || runtime.block_on(ended.cancelled());
        std::thread::Builder::new().name("reader".to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, end: end.drop_guard() })
    }

    /// Sockets that the task opens are the thread's.
    pub(in super::super) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(task)
    }
}
