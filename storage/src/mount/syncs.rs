//! Where syncs run: on the thread that got the request as long as few do, which is quickest, and on
//! threads of their own past that. So a slow disk leaves threads for every other request.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Syncs that run on threads of the mount at a time; see `THREADS` in `session.rs`.
const INLINE_MAX: usize = 8;
/// Threads for the others.
const THREADS: usize = 8;
/// Syncs that may wait for one of them. Each is of another thread of a compute.
const WAITING_MAX: usize = 4096;

type Sync = Box<dyn FnOnce() + Send>;

pub(super) struct Syncs {
    inline: AtomicUsize,
    /// None only while it is dropped.
    queue: Option<SyncSender<Sync>>,
    threads: Vec<JoinHandle<()>>,
}

impl Syncs {
    pub(super) fn start() -> io::Result<Self> {
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let waiting = waiting.clone();
            let thread = std::thread::Builder::new().name("sync".to_owned());
            threads.push(thread.spawn(move || work(&waiting))?);
        }
        Ok(Self { inline: AtomicUsize::new(0), queue: Some(queue), threads })
    }

    /// Runs `sync`, which answers its request itself, now or soon.
    pub(super) fn run(&self, sync: impl FnOnce() + Send + 'static) {
        let sync: Sync = Box::new(sync);
        let busy = self.inline.fetch_add(1, Ordering::Relaxed) >= INLINE_MAX;
        let here = match &self.queue {
            Some(queue) if busy => match queue.try_send(sync) {
                Ok(()) => None,
                Err(TrySendError::Full(sync) | TrySendError::Disconnected(sync)) => Some(sync),
            },
            _ => Some(sync),
        };
        if let Some(sync) = here {
            sync();
        }
        self.inline.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a sync thread panicked");
            }
        }
    }
}

fn work(waiting: &Mutex<Receiver<Sync>>) {
    loop {
        // Nothing can panic under this lock.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(sync) => sync(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn no_more_threads_than_allowed_wait_for_slow_syncs() {
        let syncs = Arc::new(Syncs::start().unwrap());
        let disk = Arc::new(Barrier::new(INLINE_MAX + THREADS + 1));
        let (done, all) = channel();
        let slow = |done: std::sync::mpsc::Sender<()>| {
            let disk = disk.clone();
            move || {
                disk.wait();
                done.send(()).unwrap();
            }
        };
        let held: Vec<_> = (0..INLINE_MAX)
            .map(|_| {
                let (syncs, slow) = (syncs.clone(), slow(done.clone()));
                std::thread::spawn(move || syncs.run(slow))
            })
            .collect();
        while syncs.inline.load(Ordering::Relaxed) < INLINE_MAX {
            std::thread::yield_now();
        }
        // These return though no sync can end.
        for _ in 0..THREADS {
            syncs.run(slow(done.clone()));
        }
        disk.wait();
        drop((done, slow));
        held.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(all.iter().take(INLINE_MAX + THREADS).count(), INLINE_MAX + THREADS);
    }
}
