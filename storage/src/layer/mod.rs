//! One layer on disk: its data files, its journal, and what of them is durable.
//!
//! A layer is the top of one branch until that branch is forked; then it is frozen and shared.
//! `layers/<number>/` holds `journal`, one sparse data file per changed file at identity offsets,
//! and, once the layer is sealed, `manifest`.
//!
//! Invariants:
//! * `durable` is set only after every byte, name and journal record of the layer and of all layers
//!   below it is on the medium. Only frozen layers are ever durable.
//! * A data file is removed only after the journal record that dropped it is durable.
//! * After a failed sync the layer has failed for good; every branch above it learns by its next
//!   fsync.
//!
//! Locks, innermost of the store, in order: `flushing`, a file's `syncing`, `written_out`, `dirty`,
//! `names`.

mod durability;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use crate::disk::{Disk, Open};
use crate::files::{DataFile, Files, layer_dir};
use crate::id::{DataName, LayerId};
use crate::inode::Names;
use crate::journal::{Edit, Log};
use crate::locks::{FsResult, errno};
use crate::pages::PAGE;
use crate::room::Room;
use crate::tree::Tree;

/// Files of one layer that may be dirty, and thus open, at a time. Past it a writer syncs one.
const DIRTY_MAX: usize = 4096;

/// What all layers share.
pub(crate) struct Media {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) files: Files,
    pub(crate) room: Room,
    /// `branches.journal`.
    pub(crate) branches: Log,
}

/// What a layer has on disk once its manifest is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) pages: u64,
    pub(crate) manifest_bytes: u64,
}

pub(crate) struct Layer {
    pub(crate) id: LayerId,
    media: Arc<Media>,
    pub(crate) journal: Log,
    /// How many records of the journal were needed when that was last found out.
    pub(crate) records_needed: AtomicU64,
    /// The record of `branches.journal` that made this layer known.
    birth: u64,
    /// The record that froze it; 0 while it is a top, or if that is durable already.
    frozen_by: AtomicU64,
    /// The layer below, as long as it may not be durable.
    base: Mutex<Option<Arc<Self>>>,
    dirty: Mutex<BTreeMap<DataName, Arc<DataFile>>>,
    /// Data files of an earlier process, whose bytes may not be durable.
    inherited: Mutex<Vec<DataName>>,
    names: Mutex<()>,
    created: AtomicU64,
    created_durable: AtomicU64,
    touched: AtomicBool,
    /// Pages in the data files.
    pages: AtomicU64,
    /// Data files without a name any more, and the record that says so.
    retired: Mutex<Vec<(u64, DataName)>>,
    flushing: Mutex<()>,
    /// When what waited for a sync was last begun to be written.
    written_out: Mutex<Option<Instant>>,
    flushes_wanted: AtomicU64,
    flushes_done: AtomicU64,
    durable: AtomicBool,
    /// It is durable and its manifest is published.
    sealed: AtomicBool,
    /// The namespace at the freeze, as long as a seal or a merge may ask for it.
    frozen: Mutex<Option<Tree>>,
    manifest_bytes: AtomicU64,
    /// Nothing stands on it any more; its files may vanish.
    abandoned: AtomicBool,
    failed: OnceLock<String>,
}

impl Layer {
    /// A layer whose directory and journal exist. `base` is the layer below unless that is durable.
    pub(crate) fn new(
        id: LayerId,
        media: Arc<Media>,
        journal: Log,
        birth: u64,
        base: Option<Arc<Self>>,
    ) -> Self {
        Self {
            id,
            media,
            journal,
            records_needed: AtomicU64::new(0),
            birth,
            frozen_by: AtomicU64::new(0),
            base: Mutex::new(base),
            dirty: Mutex::default(),
            inherited: Mutex::default(),
            names: Mutex::default(),
            created: AtomicU64::new(1),
            created_durable: AtomicU64::new(0),
            touched: AtomicBool::new(false),
            pages: AtomicU64::new(0),
            retired: Mutex::default(),
            flushing: Mutex::default(),
            written_out: Mutex::default(),
            flushes_wanted: AtomicU64::new(0),
            flushes_done: AtomicU64::new(0),
            durable: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            frozen: Mutex::default(),
            manifest_bytes: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            failed: OnceLock::new(),
        }
    }

    pub(crate) fn media(&self) -> &Arc<Media> {
        &self.media
    }

    /// Writes an edit to the journal. The caller applies it next, under the same locks.
    pub(crate) fn record(&self, edit: &Edit) -> FsResult<u64> {
        let (kind, payload) = edit.encode();
        self.journal.append(kind, &payload).map_err(|error| errno(&error))
    }

    /// A namespace holds cells of this layer from now on.
    pub(crate) fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// Whether no namespace holds a cell of it: then a fork can pass it by.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched.load(Ordering::Acquire)
    }

    // --- data files ---

    /// The data file of `name`, which exists.
    pub(crate) fn data(&self, name: DataName) -> io::Result<Arc<DataFile>> {
        self.media.files.open(self.id, name, Open::Existing)
    }

    /// Makes the data file of `name`, as long as the file is now. Writes inside that length cannot
    /// make the file system below preallocate, and so report as written, what was not.
    pub(crate) fn create_data(
        &self,
        name: DataName,
        len: u64,
    ) -> io::Result<(Arc<DataFile>, Names)> {
        let file = self.media.files.open(self.id, name, Open::OrCreate)?;
        file.medium.set_len(len)?;
        let before = self.created.fetch_add(1, Ordering::AcqRel);
        Ok((file, Names(before + 1)))
    }

    /// To be called after a write to `file` and before the reply to it.
    pub(crate) fn wrote(&self, name: DataName, file: &Arc<DataFile>) -> io::Result<()> {
        if file.dirty.load(Ordering::Acquire) {
            return Ok(());
        }
        let surplus = {
            let mut dirty = held(&self.dirty);
            file.dirty.store(true, Ordering::Release);
            dirty.insert(name, file.clone());
            if dirty.len() > DIRTY_MAX {
                dirty.iter().map(|(name, file)| (*name, file.clone())).find(|(at, _)| *at != name)
            } else {
                None
            }
        };
        surplus.map_or(Ok(()), |(name, file)| self.sync_file(name, &file))
    }

    /// Makes the bytes of one data file durable.
    pub(crate) fn sync_file(&self, name: DataName, file: &DataFile) -> io::Result<()> {
        let _guard = held(&file.syncing);
        if !file.dirty.swap(false, Ordering::AcqRel) {
            return self.check();
        }
        file.medium.sync().map_err(|error| self.fail("sync a data file", error))?;
        // It stays on the list while it is being synced, so that a flush waits for it.
        let mut dirty = held(&self.dirty);
        if !file.dirty.load(Ordering::Acquire) {
            dirty.remove(&name);
        }
        drop(dirty);
        self.check()
    }

    /// Pages gained and lost by the data files.
    pub(crate) fn count_pages(&self, gained: u64, lost: u64) {
        self.pages.fetch_add(gained, Ordering::Relaxed);
        self.pages.fetch_sub(lost, Ordering::Relaxed);
        if gained > 0 {
            self.media.room.used(gained * PAGE);
        }
    }

    /// Pages in the data files.
    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Bytes on disk: pages and metadata.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages() * PAGE + self.metadata_bytes()
    }

    /// Bytes on disk that are not pages.
    pub(crate) fn metadata_bytes(&self) -> u64 {
        self.journal.bytes() + self.manifest_bytes.load(Ordering::Relaxed)
    }

    /// Its manifest is published; the journal gets no more records.
    pub(crate) fn set_sealed(&self, sealed: Sealed) {
        self.pages.store(sealed.pages, Ordering::Relaxed);
        self.manifest_bytes.store(sealed.manifest_bytes, Ordering::Relaxed);
        self.journal.close();
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether a branch writes to it.
    pub(crate) fn is_top(&self) -> bool {
        !self.is_sealed() && self.frozen().is_none() && !self.is_abandoned()
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The layer above is part of this one now; the journal of both has so many bytes and records.
    pub(crate) fn absorb(&self, upper: &Self, (bytes, last): (u64, u64), sealed: Sealed) {
        self.pages.store(sealed.pages, Ordering::Relaxed);
        self.journal.replaced(bytes, last);
        self.manifest_bytes.store(sealed.manifest_bytes, Ordering::Relaxed);
        *held(&self.frozen) = upper.frozen();
    }

    /// The data file `name` belongs to nothing since journal record `record`.
    pub(crate) fn retire(&self, name: DataName, record: u64) {
        held(&self.dirty).remove(&name);
        held(&self.retired).push((record, name));
    }

    /// Whether data files wait to be removed.
    pub(crate) fn has_retired(&self) -> bool {
        !held(&self.retired).is_empty()
    }

    /// Whether `name` is among them.
    pub(crate) fn is_retired(&self, name: DataName) -> bool {
        held(&self.retired).iter().any(|(_, retired)| *retired == name)
    }

    /// Removes data files that belong to nothing, durably so.
    pub(crate) fn remove_retired(&self) -> io::Result<()> {
        self.sync_record(self.journal.appended())?;
        let durable = self.journal.synced();
        let ready: Vec<_> = {
            let mut retired = held(&self.retired);
            let ready = retired.iter().filter(|(record, _)| *record <= durable).copied().collect();
            retired.retain(|(record, _)| *record > durable);
            ready
        };
        for (_, name) in ready {
            self.media.files.forget(self.id, name);
            self.remove_data(name)?;
        }
        Ok(())
    }

    /// Removes a data file, if it is there.
    pub(crate) fn remove_data(&self, name: DataName) -> io::Result<()> {
        match self.media.disk.remove_file(&layer_dir(self.id).join(name.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    // --- freezing ---

    /// The layer got its last edit, says record `record` of `branches.journal`; `tree` is what the
    /// branch held then.
    pub(crate) fn freeze(&self, tree: Tree, record: u64) {
        self.frozen_by.store(record, Ordering::Release);
        *held(&self.frozen) = Some(tree);
    }

    /// Makes it durable that the layer is frozen. A manifest before that would outlive a power cut
    /// that made the layer a top again, and speak for pages that are written later.
    pub(crate) fn sync_freeze(&self) -> io::Result<()> {
        self.media.branches.sync_to(self.frozen_by.load(Ordering::Acquire))
    }

    /// The namespace at the freeze, until [`Layer::forget_frozen`].
    pub(crate) fn frozen(&self) -> Option<Tree> {
        held(&self.frozen).clone()
    }

    pub(crate) fn forget_frozen(&self) {
        *held(&self.frozen) = None;
    }

    /// Nothing stands on the layer any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Why nothing of the layer is known to be durable any more, if so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    fn check(&self) -> io::Result<()> {
        match self.failure() {
            Some(reason) => Err(io::Error::other(reason.to_owned())),
            None => Ok(()),
        }
    }

    fn fail(&self, doing: &'static str, error: io::Error) -> io::Error {
        if self.failed.set(format!("{doing}: {error}")).is_ok() && !self.is_abandoned() {
            tracing::error!(layer = %self.id, %error, "layer failed: {doing}");
        }
        error
    }
}

/// None of these mutexes guards a state that a panic could leave half changed.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
