//! What of a layer is on the medium, and how the rest gets there.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Layer, held};
use crate::files::{DataFile, layer_dir};
use crate::id::DataName;
use crate::inode::Names;

/// Syncs that follow each other this closely are taken for those of one checkpoint.
const WRITE_OUT_INTERVAL: Duration = Duration::from_millis(200);

impl Layer {
    /// Everything the layer holds now must be durable before [`Layer::sync_promised`] returns.
    pub(crate) fn promise_flush(&self) {
        self.flushes_wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// Data files an earlier process left, not known to be durable.
    pub(crate) fn inherit(&self, names: Vec<DataName>) {
        *held(&self.inherited) = names;
    }

    /// Makes durable what must be before any fsync above may return: this layer's being known, all
    /// layers below, and what was promised.
    pub(crate) fn sync_promised(&self) -> io::Result<()> {
        self.media.branches.sync_to(self.birth)?;
        self.sync_base()?;
        if self.flushes_done.load(Ordering::Acquire) < self.flushes_wanted.load(Ordering::Acquire) {
            self.flush()?;
        }
        self.check()
    }

    /// Begins to write everything that waits for a sync, once in a while. A checkpoint syncs one
    /// file after the other: what it finds written, in blocks that the file system has recorded,
    /// it need not wait for each time.
    pub(crate) fn write_out(&self) {
        {
            let mut last = held(&self.written_out);
            if last.is_some_and(|last| last.elapsed() < WRITE_OUT_INTERVAL) {
                return;
            }
            *last = Some(Instant::now());
        }
        for (_, file) in self.dirty_files() {
            file.medium.write_out();
        }
    }

    /// Makes the first `made` names in the directory durable.
    pub(crate) fn sync_names(&self, made: Names) -> io::Result<()> {
        if self.created_durable.load(Ordering::Acquire) >= made.0 {
            return Ok(());
        }
        let _guard = held(&self.names);
        let durable = self.created_durable.load(Ordering::Acquire);
        if durable >= made.0 {
            return self.check();
        }
        let created = self.created.load(Ordering::Acquire);
        let mut synced = self.media.disk.sync_dir(&layer_dir(self.id));
        if durable == 0 {
            synced = synced.and_then(|()| self.media.disk.sync_dir(Path::new("layers")));
        }
        synced.map_err(|error| self.fail("sync a layer directory", error))?;
        self.created_durable.store(created, Ordering::Release);
        Ok(())
    }

    /// Makes journal records up to `record` durable, and with them the journal itself.
    pub(crate) fn sync_record(&self, record: u64) -> io::Result<()> {
        if record > 0 {
            self.sync_names(Names::FIRST)?;
        }
        self.journal.sync_to(record).map_err(|error| self.fail("sync a layer journal", error))
    }

    /// Makes everything the layer holds at this moment durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let _guard = held(&self.flushing);
        let wanted = self.flushes_wanted.load(Ordering::Acquire);
        for (name, file) in self.dirty_files() {
            self.sync_file(name, &file)?;
        }
        // The list is emptied last: a flush that fails must find it again.
        let inherited = held(&self.inherited).clone();
        for name in &inherited {
            self.sync_inherited(*name)?;
        }
        held(&self.inherited).clear();
        self.sync_names(Names(self.created.load(Ordering::Acquire)))?;
        self.sync_record(self.journal.appended())?;
        self.flushes_done.fetch_max(wanted, Ordering::AcqRel);
        self.check()
    }

    /// Data files that need a sync now.
    pub(crate) fn dirty_files(&self) -> Vec<(DataName, Arc<DataFile>)> {
        held(&self.dirty).iter().map(|(name, file)| (*name, file.clone())).collect()
    }

    fn sync_inherited(&self, name: DataName) -> io::Result<()> {
        match self.data(name) {
            Ok(file) => file.medium.sync().map_err(|error| self.fail("sync a data file", error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.fail("open a data file", error)),
        }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// The layer and all below are durable already: its manifest was found.
    pub(crate) fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
        *held(&self.base) = None;
    }

    fn base(&self) -> Option<Arc<Self>> {
        held(&self.base).clone()
    }

    fn sync_base(&self) -> io::Result<()> {
        let Some(base) = self.base() else { return Ok(()) };
        base.make_durable().map_err(|error| self.fail("sync a lower layer", error))?;
        *held(&self.base) = None;
        Ok(())
    }

    /// Makes this frozen layer and all below it durable, the lowest first.
    pub(crate) fn make_durable(self: &Arc<Self>) -> io::Result<()> {
        let mut chain = vec![self.clone()];
        while let Some(below) = chain.last().and_then(|layer| layer.base()) {
            chain.push(below);
        }
        while let Some(layer) = chain.pop() {
            if !layer.is_durable() {
                layer.media.branches.sync_to(layer.birth)?;
                layer.flush()?;
                layer.set_durable();
            }
        }
        Ok(())
    }
}
