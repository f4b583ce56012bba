//! The background thread: seals frozen layers, flushes for computes that start, removes files.
//!
//! It works one data file at a time, which paces it; whoever cannot wait does the rest at once
//! (see [`Layer::make_durable`]). Nothing it does is needed for correctness: what it has not done
//! when the store ends is done again after the next start.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::files::layer_dir;
use crate::id::LayerId;
use crate::layer::{Layer, Media};
use crate::load;

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
    Stop,
}

/// A handle to the thread.
pub(crate) struct Keeper {
    jobs: Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Starts the thread; without `background` it takes jobs and does none of them.
    pub(crate) fn start(media: Arc<Media>, background: bool) -> io::Result<Self> {
        let (jobs, queue) = channel();
        if !background {
            let hold = move || while !matches!(queue.recv(), Ok(Job::Stop) | Err(_)) {};
            let thread = std::thread::Builder::new().spawn(hold)?;
            return Ok(Self { jobs, thread: Mutex::new(Some(thread)) });
        }
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || Worker { media, tops: Vec::new() }.run(&queue))?;
        Ok(Self { jobs, thread: Mutex::new(Some(thread)) })
    }

    /// Puts a job at the end of the queue. The queue is as long as the forks, starts and deletions
    /// that the disk has not kept up with.
    pub(crate) fn push(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the keeper thread is gone; layers are no longer sealed");
        }
    }

    /// Ends the thread after the jobs that are queued now.
    pub(crate) fn stop(&self) {
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

struct Worker {
    media: Arc<Media>,
    tops: Vec<Weak<Layer>>,
}

impl Worker {
    fn run(&mut self, queue: &Receiver<Job>) {
        loop {
            match queue.recv_timeout(TIDY_INTERVAL) {
                Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    self.tidy();
                    return;
                }
                Ok(Job::Seal(layer)) => self.seal(&layer),
                Ok(Job::Flush(layer)) => {
                    // The layer remembers a failure; the next fsync reports it.
                    if let Err(error) = layer.sync_promised() {
                        tracing::warn!(layer = %layer.id, %error, "flush before a start");
                    }
                }
                Ok(Job::Remove(layers)) => layers.into_iter().for_each(|layer| self.remove(layer)),
                Ok(Job::Tidy(layer)) => self.tops.push(layer),
                Err(RecvTimeoutError::Timeout) => self.tidy(),
            }
        }
    }

    fn seal(&self, layer: &Arc<Layer>) {
        let Some(tree) = layer.frozen().filter(|_| !layer.is_abandoned()) else { return };
        let sealed = flush_slowly(layer).and_then(|()| {
            layer.make_durable()?;
            layer.remove_retired()?;
            load::seal(layer, &tree)
        });
        match sealed {
            Ok(bytes) => {
                layer.forget_frozen();
                layer.count_manifest(bytes);
            }
            Err(_) if layer.is_abandoned() => {}
            Err(error) => tracing::warn!(layer = %layer.id, %error, "layer stays unsealed"),
        }
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
            layer.frozen().is_none()
        });
    }

    fn remove(&self, layer: LayerId) {
        self.media.files.forget_layer(layer);
        match self.media.disk.remove_dir_all(&layer_dir(layer)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%layer, %error, "remove the directory of a layer");
            }
            _ => {}
        }
    }
}

fn flush_slowly(layer: &Layer) -> io::Result<()> {
    for (name, file) in layer.dirty_files() {
        layer.sync_file(name, &file)?;
    }
    Ok(())
}
