//! Open data files of all layers, at most a fixed number of idle ones.
//!
//! A file that may hold writes not yet on the medium is never closed: an error of its write-back
//! is reported to descriptors that were open when it happened, and only to them for certain. Such
//! files are held by their layer's list of dirty files, so the cache, which closes only what nobody
//! else holds, cannot lose one. What an earlier process wrote is synced through a fresh descriptor;
//! that is the first fsync after the restart, before anything is acknowledged again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::disk::{Disk, Medium, Open};
use crate::id::{DataName, LayerId};

const SHARDS: usize = 16;

/// One open data file.
pub(crate) struct DataFile {
    pub(crate) medium: Arc<dyn Medium>,
    /// Written since the last sync began. Set after a write, before its reply.
    pub(crate) dirty: AtomicBool,
    /// Serialises syncs, so that a second caller cannot reply before the first one's ends.
    pub(crate) syncing: Mutex<()>,
    /// Used since the cache last looked for idle files.
    recent: AtomicBool,
}

type Shard = HashMap<(LayerId, DataName), Arc<DataFile>>;

/// The cache.
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    /// Layers merged into another since the start, by which page maps still go.
    merged: RwLock<HashMap<LayerId, LayerId>>,
    shards: [Mutex<Shard>; SHARDS],
    shard_max: usize,
}

/// Directory of a layer, relative to the store directory.
pub(crate) fn layer_dir(layer: LayerId) -> PathBuf {
    Path::new("layers").join(layer.to_string())
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, open_max: usize) -> Self {
        let shard_max = (open_max / SHARDS).max(8);
        Self { disk, merged: RwLock::default(), shards: Default::default(), shard_max }
    }

    /// The layer that holds the pages of `layer` now.
    pub(crate) fn resolve(&self, layer: LayerId) -> LayerId {
        let merged = self.merged.read().unwrap_or_else(PoisonError::into_inner);
        merged.get(&layer).copied().unwrap_or(layer)
    }

    /// All pages of `upper` are in the data files of `lower` too.
    pub(crate) fn merge(&self, lower: LayerId, upper: LayerId) {
        let mut merged = self.merged.write().unwrap_or_else(PoisonError::into_inner);
        merged.values_mut().filter(|into| **into == upper).for_each(|into| *into = lower);
        merged.insert(upper, lower);
    }

    /// The data file `name` of `layer`, or of the one that it was merged into, opened if need be.
    pub(crate) fn open(
        &self,
        layer: LayerId,
        name: DataName,
        how: Open,
    ) -> io::Result<Arc<DataFile>> {
        let holder = self.resolve(layer);
        match self.open_in(holder, name, how) {
            // It was merged, and its files removed, since we looked.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && self.resolve(layer) != holder =>
            {
                self.open(layer, name, how)
            }
            other => other,
        }
    }

    fn open_in(&self, layer: LayerId, name: DataName, how: Open) -> io::Result<Arc<DataFile>> {
        let key = (layer, name);
        if let Some(file) = self.shard(&key).get(&key) {
            file.recent.store(true, Ordering::Relaxed);
            return Ok(file.clone());
        }
        let medium = self.disk.open(&layer_dir(layer).join(name.to_string()), how)?;
        let mut shard = self.shard(&key);
        if shard.len() >= self.shard_max {
            shard.retain(|_, file| {
                Arc::strong_count(file) > 1 || file.recent.swap(false, Ordering::Relaxed)
            });
        }
        if shard.len() >= self.shard_max {
            shard.retain(|_, file| Arc::strong_count(file) > 1);
        }
        let file = shard.entry(key).or_insert_with(|| {
            Arc::new(DataFile {
                medium,
                dirty: AtomicBool::new(false),
                syncing: Mutex::new(()),
                recent: AtomicBool::new(true),
            })
        });
        Ok(file.clone())
    }

    /// Lets go of `name`, which is about to be removed.
    pub(crate) fn forget(&self, layer: LayerId, name: DataName) {
        let key = (layer, name);
        self.shard(&key).remove(&key);
    }

    /// Lets go of all files of `layer`.
    pub(crate) fn forget_layer(&self, layer: LayerId) {
        for shard in &self.shards {
            shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|(owner, _), _| *owner != layer);
        }
    }

    fn shard(&self, (layer, name): &(LayerId, DataName)) -> MutexGuard<'_, Shard> {
        let mix = u64::from(layer.get()).wrapping_mul(31).wrapping_add(name.inode.get());
        let index = usize::try_from(mix % SHARDS as u64).unwrap_or(0);
        // A panic cannot leave a map of handles half changed.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
