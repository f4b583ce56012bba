//! When a branch says that something is durable.
//!
//! No fsync and no fsyncdir returns before (1) the branch's top layer is durably known, (2) all
//! layers below it are durable to the last byte, (3) everything the branch held when its compute
//! started, or when the store was restarted, is durable. Only then come (4) the data file, (5) its
//! name and (6) the journal up to the last record about the inode. Recovery skips pages that are
//! already current and never syncs them, which is why (2) and (3) are not per file.
//!
//! The lock file of a running Postgres is excepted: it says nothing that could outlive a crash. So
//! is everything in a *tentative* branch: nobody relies on it yet, and whoever made it removes it
//! after a crash. All it holds becomes durable at once when it is confirmed.
//!
//! A sync that fails is never tried again: the branch accepts no more changes or syncs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::Branch;
use crate::filter::is_lock_file;
use crate::id::FileId;
use crate::layer::Layer;
use crate::locks::{self, FsResult};

impl Branch {
    /// Makes the contents and all attributes of a file durable.
    pub(crate) fn fsync(&self, file: FileId) -> FsResult<()> {
        let top = self.top_to_sync()?;
        if self.is_tentative() || is_lock_file(&*locks::read(&self.tree)?, file) {
            return Ok(());
        }
        let cell = self.find(file)?;
        let (record, data) = {
            let inode = locks::read(&cell.inode)?;
            let own = cell.layer == top.id;
            let body = inode.file().filter(|_| own);
            let data = body.and_then(|body| Some((body.data_name(file), body.data?)));
            (if own { inode.record } else { 0 }, data)
        };
        if data.is_some() {
            top.write_out();
        }
        let synced = top.sync_promised().and_then(|()| {
            if let Some((name, made)) = data {
                match top.data(name) {
                    Ok(data) => top.sync_file(name, &data)?,
                    // Emptied and removed since we looked; the new contents are another sync's.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                top.sync_names(made)?;
            }
            top.sync_record(record)
        });
        self.settle(&synced)
    }

    /// Makes all names durable.
    pub(crate) fn fsync_dir(&self) -> FsResult<()> {
        let top = self.top_to_sync()?;
        if self.is_tentative() {
            return Ok(());
        }
        let record = top.journal.appended();
        let synced = top.sync_promised().and_then(|()| top.sync_record(record));
        self.settle(&synced)
    }

    /// A compute is about to start: everything the branch holds must be durable before its first
    /// fsync returns. Returns the layer to flush, which may begin at once.
    pub(crate) fn begin_compute(&self) -> FsResult<Arc<Layer>> {
        let top = self.top_to_sync()?;
        top.promise_flush();
        Ok(top)
    }

    /// Nobody relies on the branch yet.
    pub(crate) fn begin_tentative(&self) {
        self.tentative.store(true, Ordering::Release);
    }

    /// Whether syncs of the branch do nothing yet.
    pub(crate) fn is_tentative(&self) -> bool {
        self.tentative.load(Ordering::Acquire)
    }

    /// Makes everything that the branch holds durable, and from here on what it is asked to sync.
    pub(crate) fn confirm(&self) -> FsResult<()> {
        // First: a sync that finds it confirmed already is one like any other.
        self.tentative.store(false, Ordering::Release);
        let top = self.begin_compute()?;
        top.write_out();
        self.settle(&top.sync_promised())
    }

    fn top_to_sync(&self) -> FsResult<Arc<Layer>> {
        if self.failure().is_some() {
            return Err(Errno::IO);
        }
        self.top()
    }

    fn settle(&self, synced: &io::Result<()>) -> FsResult<()> {
        match synced {
            Ok(()) if self.failure().is_none() => Ok(()),
            Ok(()) => Err(Errno::IO),
            Err(error) => {
                self.fail(format!("sync: {error}"));
                Err(Errno::IO)
            }
        }
    }
}
