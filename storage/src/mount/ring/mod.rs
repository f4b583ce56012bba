//! Requests over `io_uring`: the kernel hands each to a thread on the processor of the process that
//! asks, and a reply fetches the next one in the same system call.
//!
//! Over `/dev/fuse` a request wakes a thread that may be on another processor, and the reply wakes
//! the process there again; on virtual machines that costs several times what the request does.
//! Only the long reads that the kernel sends ahead of a scan are answered elsewhere: they take as
//! long as the scan needs for what it has, and nobody waits for them yet.
//!
//! Every processor has a queue in the kernel, every thread here an `io_uring` of its own with one
//! entry in one queue, in which it answers one request at a time. A queue always has one thread
//! more than it has requests in hand, up to a bound, so a slow disk leaves one for every other
//! request. What does not go through rings (FORGET and INTERRUPT) still comes over `/dev/fuse`, and
//! so does everything where there are none: before Linux 6.14, and where the parameter
//! `enable_uring` of the kernel's module `fuse` cannot be set.
//!
//! A thread ends with its entry: when the file system is unmounted, or if it could not register.
//! Until each queue has an entry the kernel uses `/dev/fuse`, and goes on so if a registration
//! failed. A request that a thread has in hand is always answered, if need be with EIO: nobody else
//! could end the wait for it.

mod call;
mod entry;
mod reply;
mod serve;

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::answer::caught;
use super::requests::Requests;
use entry::Entry;

/// Most threads that a queue comes to have, and so requests that wait for the disk at a time. Each
/// keeps up to 256 KiB, once it had a request as large as that.
const THREADS_MAX: usize = 128;

/// Whether file systems may use rings.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// The threads that answer, as long as the mount is there.
pub(super) struct Rings {
    shared: Arc<Shared>,
}

struct Shared {
    device: OwnedFd,
    requests: Requests,
    queues: Vec<Queue>,
    /// The processors that this process may use.
    allowed: CpuSet,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The queue of one processor.
#[derive(Default)]
struct Queue {
    threads: AtomicUsize,
    /// How many of them have a request in hand.
    busy: AtomicUsize,
}

/// Whether the kernel offers rings to file systems, and lets this process have them. It does not by
/// itself: the offer is made to every file system of this kind, so the administrator decides.
pub(super) fn are_there() -> bool {
    let native = cfg!(all(target_endian = "little", target_pointer_width = "64"));
    native && Entry::probe().is_ok() && offer().is_ok()
}

fn offer() -> io::Result<()> {
    if fs::read_to_string(PARAMETER)?.trim_end() == "Y" {
        return Ok(());
    }
    fs::write(PARAMETER, "Y")?;
    tracing::info!(parameter = PARAMETER, "the kernel offers io_uring to file systems from now on");
    Ok(())
}

impl Rings {
    /// Serves what comes through `device`, on which the kernel was promised rings.
    pub(super) fn start(device: OwnedFd, requests: Requests) -> io::Result<Self> {
        let queues = (0..processors()?).map(|_| Queue::default()).collect();
        let (allowed, threads) = (sched_getaffinity(None)?, Mutex::default());
        let shared = Arc::new(Shared { device, requests, queues, allowed, threads });
        for queue in 0..shared.queues.len() {
            add_thread(&shared, queue)?;
        }
        Ok(Self { shared })
    }

    /// Waits for the threads, which the end of the mount ended.
    pub(super) fn join(self) {
        let threads = std::mem::take(
            &mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of a ring panicked");
            }
        }
    }
}

impl Shared {
    fn queue(&self, queue: usize) -> &Queue {
        &self.queues[queue]
    }
}

/// A request in hand, for which its queue has a thread less.
struct InHand<'a>(&'a Queue);

impl<'a> InHand<'a> {
    fn take(shared: &'a Arc<Shared>, queue: usize) -> Self {
        let at = shared.queue(queue);
        let busy = at.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let threads = at.threads.load(Ordering::Relaxed);
        if busy >= threads
            && threads < THREADS_MAX
            && let Err(error) = add_thread(shared, queue)
        {
            tracing::warn!(%error, "no more threads for requests");
        }
        Self(at)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

fn add_thread(shared: &Arc<Shared>, queue: usize) -> io::Result<()> {
    let of_thread = shared.clone();
    let thread = std::thread::Builder::new().name(format!("ring-{queue}"));
    let thread = thread.spawn(move || work(&of_thread, queue))?;
    shared.queue(queue).threads.fetch_add(1, Ordering::Relaxed);
    shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    Ok(())
}

fn work(shared: &Arc<Shared>, queue: usize) {
    let place = Place::new(queue, &shared.allowed);
    let served = Entry::register(&shared.device, queue).and_then(|entry| {
        entry.run(|call, payload| {
            let _in_hand = InHand::take(shared, queue);
            place.suit(serve::is_long_read(call));
            caught(|| serve::answer(&shared.requests, call, payload))
        })
    });
    shared.queue(queue).threads.fetch_sub(1, Ordering::Relaxed);
    if let Err(error) = served {
        match Errno::from_io_error(&error) {
            Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED) => {}
            _ => tracing::warn!(%error, queue, "a ring ended"),
        }
    }
}

/// Where a thread answers.
struct Place {
    /// The processor of its queue.
    home: CpuSet,
    /// All others that this process may use.
    away: CpuSet,
    is_home: Cell<bool>,
}

impl Place {
    fn new(queue: usize, allowed: &CpuSet) -> Self {
        let (mut home, mut away) = (CpuSet::new(), *allowed);
        if queue < CpuSet::MAX_CPU {
            home.set(queue);
            away.unset(queue);
        }
        keep_to(&home);
        Self { home, away, is_home: Cell::new(true) }
    }

    /// At home the thread runs when whoever asked waits for it, at no cost for a wake. A long read
    /// is better made elsewhere: who scans a table works on what was read before.
    fn suit(&self, is_long_read: bool) {
        let is_home = !is_long_read || self.away.count() == 0;
        if self.is_home.replace(is_home) != is_home {
            keep_to(if is_home { &self.home } else { &self.away });
        }
    }
}

/// A processor that is off, or not for this process, has its queue served from another.
fn keep_to(processors: &CpuSet) {
    if let Err(error) = sched_setaffinity(None, processors) {
        tracing::debug!(%error, "a thread stays where it is");
    }
}

/// How many processors the kernel may come to have; each has a queue.
fn processors() -> io::Result<usize> {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = possible.trim_end().rsplit([',', '-']).next().and_then(|last| last.parse().ok());
    let last: usize = last.ok_or_else(|| io::Error::other("processors cannot be counted"))?;
    Ok(last + 1)
}
