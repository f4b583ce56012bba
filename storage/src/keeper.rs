//! The background thread: seals and merges frozen layers, flushes for computes that start, removes
//! files.
//!
//! It works one data file at a time, which paces it; whoever cannot wait does the rest at once
//! (see [`Layer::make_durable`]). Nothing it does is needed for correctness: what it has not done
//! when the store ends is done again after the next start.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::compaction;
use crate::holdings::Holdings;
use crate::id::LayerId;
use crate::layer::{Layer, Sealed};
use crate::load;
use crate::locks;
use crate::merge::{self, Pair};
use crate::running::Running;

/// How often data files without a name are looked for. They are no use to anybody, so the only
/// cost of waiting is space, and each look may cost a journal sync.
const TIDY_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) enum Job {
    /// Make a frozen layer durable and write its manifest.
    Seal(Arc<Layer>),
    /// Flush a layer whose compute is about to start.
    Flush(Arc<Layer>),
    /// Remove the directories of layers that nothing stands on.
    Remove(Vec<LayerId>),
    /// Look after this layer's data files without a name from now on.
    Tidy(Weak<Layer>),
    /// Run something while nothing is sealed, merged or removed.
    Pause(Box<dyn FnOnce() + Send>),
    /// Say when all jobs before are done and nothing is left to merge.
    #[cfg(test)]
    Report(Sender<()>),
    Stop,
}

/// Frozen layers that may wait to be sealed. A fork past that waits, so that forks in a loop on a
/// slow disk cannot pile up layers; it holds up nobody else. A layer of tens of thousands of new
/// files takes a second to be sealed, in which fifty forks may come.
const UNSEALED_MAX: usize = 128;

/// Layers that may lie on each other, mergeable, as long as merges keep their pace. Past it each
/// seal is followed by a merge, so that forks go at the pace of merges.
const RUN_BUSY_MAX: usize = 128;

/// How many times as long as a merge took there is none after it. Its reads, writes and syncs, and
/// the blocks it gives back, are what whoever forks or commits meanwhile waits for.
const MERGE_PAUSE: u32 = 4;

/// A handle to the thread.
pub(crate) struct Keeper {
    jobs: Sender<Job>,
    backlog: Arc<Backlog>,
    stopping: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread; without `run_max` it takes jobs and does none of them. No more than that
    /// many layers that could be merged lie on each other for long, see [`RUN_BUSY_MAX`].
    pub(crate) fn start(holdings: Arc<Holdings>, running: Running) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let Some(run_max) = running.run_max else {
            let hold = move || loop {
                match queue.recv() {
                    Ok(Job::Pause(job)) => job(),
                    Ok(Job::Stop) | Err(_) => return,
                    Ok(_) => {}
                }
            };
            let thread = std::thread::Builder::new().spawn(hold)?;
            let backlog = Arc::new(Backlog { unsealed: Mutex::new(None), fewer: Condvar::new() });
            let stopping = Arc::default();
            return Ok(Self { jobs, backlog, stopping, thread: Mutex::new(Some(thread)) });
        };
        let stopping = Arc::<AtomicBool>::default();
        let backlog = Arc::new(Backlog { unsealed: Mutex::new(Some(0)), fewer: Condvar::new() });
        let mut worker = Worker {
            holdings,
            run_max,
            running,
            backlog: backlog.clone(),
            stopping: stopping.clone(),
            tops: Vec::new(),
            postponed: Vec::new(),
            unmerged: HashSet::new(),
            merge_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || worker.run(&queue))?;
        Ok(Self { jobs, backlog, stopping, thread: Mutex::new(Some(thread)) })
    }

    /// Waits until few layers wait to be sealed.
    pub(crate) fn wait_for_room(&self) {
        let full = |unsealed: &mut Option<usize>| unsealed.is_some_and(|n| n >= UNSEALED_MAX);
        drop(self.backlog.fewer.wait_while(self.backlog.count(), full));
    }

    /// Puts a job at the end of the queue. The queue is as long as the forks, starts and deletions
    /// that the disk has not kept up with.
    pub(crate) fn push(&self, job: Job) {
        if matches!(job, Job::Seal(_))
            && let Some(unsealed) = &mut *self.backlog.count()
        {
            *unsealed += 1;
        }
        if self.jobs.send(job).is_err() {
            tracing::error!("the keeper thread is gone; layers are no longer sealed");
        }
    }

    /// Runs `work` on the thread and waits for what it says; nothing is sealed, merged or removed
    /// meanwhile. None if the store is stopping.
    pub(crate) fn paused<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, wait) = channel();
        self.push(Job::Pause(Box::new(move || {
            // Nobody waits only if the caller panicked.
            drop(done.send(work()));
        })));
        wait.recv().ok()
    }

    /// Ends the thread after the file it works on. Jobs that are queued are left to the next start,
    /// which finds them by itself: a stop must not wait for the disk to catch up.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            self.push(Job::Stop);
            if thread.join().is_err() {
                tracing::error!("the keeper thread panicked");
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Layers that wait to be sealed; none if no thread seals any.
struct Backlog {
    unsealed: Mutex<Option<usize>>,
    fewer: Condvar,
}

impl Backlog {
    /// A layer was sealed.
    fn one_less(&self) {
        if let Some(unsealed) = &mut *self.count() {
            *unsealed = unsealed.saturating_sub(1);
        }
        self.fewer.notify_all();
    }

    /// A number cannot be left half changed.
    fn count(&self) -> MutexGuard<'_, Option<usize>> {
        self.unsealed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    backlog: Arc<Backlog>,
    stopping: Arc<AtomicBool>,
    holdings: Arc<Holdings>,
    run_max: usize,
    running: Running,
    tops: Vec<Weak<Layer>>,
    /// Layers whose manifest could not be written; tried again at the next tidying.
    postponed: Vec<Weak<Layer>>,
    /// Upper layers of merges that could not be done; they are tried again at the next tidying.
    unmerged: HashSet<LayerId>,
    /// When to look for the next merge; none if there was nothing to merge.
    merge_at: Option<Instant>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Also after a panic: nobody must wait for a thread that is gone.
        *self.backlog.count() = None;
        self.backlog.fewer.notify_all();
    }
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        let mut tidy_at = Instant::now() + TIDY_INTERVAL;
        loop {
            let wake_at = self.merge_at.map_or(tidy_at, |at| at.min(tidy_at));
            match queue.recv_timeout(wake_at.saturating_duration_since(Instant::now())) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.tidy();
                    return;
                }
                Ok(_) if self.is_stopping() => {}
                Ok(Job::Seal(layer)) => {
                    self.seal(&layer);
                    self.backlog.one_less();
                    self.merge_next(self.run_max.max(RUN_BUSY_MAX));
                    self.merge_soon();
                }
                Ok(Job::Flush(layer)) => {
                    // The layer remembers a failure; the next fsync reports it.
                    if let Err(error) = layer.sync_promised() {
                        tracing::warn!(layer = %layer.id, %error, "flush before a start");
                    }
                }
                Ok(Job::Remove(layers)) => {
                    layers.into_iter().for_each(|layer| self.holdings.remove_layer(layer));
                    self.merge_soon();
                }
                Ok(Job::Tidy(layer)) => self.tops.push(layer),
                Ok(Job::Pause(job)) => job(),
                #[cfg(test)]
                Ok(Job::Report(done)) => {
                    self.seal_postponed();
                    while self.merge_next(self.run_max) {}
                    self.compact();
                    self.tidy();
                    drop(done);
                }
                Err(RecvTimeoutError::Timeout) => self.merge_if_due(),
            }
            if Instant::now() >= tidy_at {
                self.tidy();
                self.holdings.media.room.ask();
                self.seal_postponed();
                self.compact();
                self.unmerged.clear();
                self.merge_soon();
                tidy_at = Instant::now() + TIDY_INTERVAL;
            }
        }
    }

    fn seal_postponed(&mut self) {
        for layer in std::mem::take(&mut self.postponed) {
            if let Some(layer) = layer.upgrade() {
                self.seal(&layer);
            }
        }
    }

    fn seal(&mut self, layer: &Arc<Layer>) {
        let wanted = !layer.is_abandoned() && !layer.is_sealed();
        let Some(tree) = layer.frozen().filter(|_| wanted) else { return };
        let sealed = self.flush_slowly(layer).and_then(|()| {
            layer.make_durable()?;
            layer.remove_retired()?;
            layer.sync_freeze()?;
            load::seal(layer, &tree, |inode| self.holdings.any_orphan(&[inode]))
        });
        match sealed {
            Ok(sealed) => {
                self.account_seal(layer, sealed);
                // A merge asks the upper layer only, and the lowest is never that.
                if self.is_lowest(layer.id) {
                    layer.forget_frozen();
                }
            }
            Err(_) if layer.is_abandoned() || self.is_stopping() => {}
            Err(error) => {
                tracing::warn!(layer = %layer.id, %error, "layer stays unsealed");
                // A failed sync is never tried again.
                if layer.failure().is_none() {
                    self.postponed.push(Arc::downgrade(layer));
                }
            }
        }
    }

    fn compact(&self) {
        if let Err(error) = compaction::compact_branches(&self.holdings, self.running.records_max) {
            tracing::warn!(%error, "branches.journal stays as long as it is");
        }
        for layer in self.tops.iter().filter_map(Weak::upgrade).filter(|layer| layer.is_top()) {
            let least = self.running.top_records_max;
            if let Err(error) = compaction::compact_top(&self.holdings, &layer, least) {
                tracing::warn!(layer = %layer.id, %error, "a journal stays as long as it is");
            }
        }
    }

    fn account_seal(&self, layer: &Layer, sealed: Sealed) {
        let mut shape = locks::lock(&self.holdings.shape);
        let before = layer.bytes();
        layer.set_sealed(sealed);
        if let Ok(shape) = &mut shape {
            shape.resized(layer, before);
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn flush_slowly(&self, layer: &Layer) -> io::Result<()> {
        for (name, file) in layer.dirty_files() {
            if self.is_stopping() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            layer.sync_file(name, &file)?;
        }
        Ok(())
    }

    fn tidy(&mut self) {
        self.tops.retain(|layer| {
            let Some(layer) = layer.upgrade().filter(|layer| !layer.is_abandoned()) else {
                return false;
            };
            if layer.has_retired()
                && let Err(error) = layer.remove_retired()
            {
                tracing::warn!(layer = %layer.id, %error, "remove data files");
            }
            layer.is_top()
        });
    }

    fn is_lowest(&self, layer: LayerId) -> bool {
        locks::lock(&self.holdings.shape).is_ok_and(|shape| shape.graph.base(layer).is_none())
    }

    /// There may be something to merge.
    fn merge_soon(&mut self) {
        self.merge_at.get_or_insert_with(Instant::now);
    }

    /// Merges two layers if it is time, one at a time between jobs, so that nothing waits long.
    fn merge_if_due(&mut self) {
        let started = Instant::now();
        if self.merge_at.is_some_and(|at| at <= started) {
            let more = self.merge_next(self.run_max);
            self.merge_at = more.then(|| Instant::now() + started.elapsed() * MERGE_PAUSE);
        }
    }

    /// Merges two layers of a run of more than `run_max`. Whether there may be more.
    fn merge_next(&mut self, run_max: usize) -> bool {
        let Some(pair) = merge::pick(&self.holdings, run_max, &self.unmerged) else {
            return false;
        };
        if !self.merge(&pair) {
            self.unmerged.insert(pair.upper.id);
        }
        true
    }

    fn merge(&self, pair: &Pair) -> bool {
        merge::merge(&self.holdings, pair).unwrap_or_else(|error| {
            tracing::warn!(layer = %pair.upper.id, %error, "layer stays unmerged");
            false
        })
    }
}
