//! A disk of which one call fails, or every call from one on, until it is mended.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::io::Errno;

use crate::disk::{Disk, Found, Medium, Open, RealDisk, Space};

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// How many calls succeed before.
    pub(super) after: u64,
    pub(super) error: Errno,
    /// Not only that call, but all from it on that could fail so.
    pub(super) lasts: bool,
    /// Whether syncs fail too, or only what needs space.
    pub(super) syncs: bool,
}

struct Plan {
    fault: Fault,
    calls: AtomicU64,
    mended: AtomicBool,
    struck: AtomicBool,
}

#[derive(Clone)]
pub(super) struct FaultyDisk {
    inner: Arc<RealDisk>,
    plan: Arc<Plan>,
}

struct FaultyFile {
    inner: Arc<dyn Medium>,
    plan: Arc<Plan>,
}

impl Plan {
    fn pass(&self, is_sync: bool) -> io::Result<()> {
        if is_sync && !self.fault.syncs {
            return Ok(());
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let hit =
            if self.fault.lasts { call >= self.fault.after } else { call == self.fault.after };
        if hit && !self.mended.load(Ordering::Relaxed) {
            self.struck.store(true, Ordering::Relaxed);
            return Err(self.fault.error.into());
        }
        Ok(())
    }
}

impl FaultyDisk {
    pub(super) fn new(root: &Path, fault: Fault) -> Self {
        let plan = Plan {
            fault,
            calls: AtomicU64::new(0),
            mended: AtomicBool::new(false),
            struck: AtomicBool::new(false),
        };
        Self { inner: Arc::new(RealDisk::new(root)), plan: Arc::new(plan) }
    }

    /// From here on nothing fails. Whether anything did before.
    pub(super) fn mend(&self) -> bool {
        self.plan.mended.store(true, Ordering::Relaxed);
        self.plan.struck.load(Ordering::Relaxed)
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>> {
        if how == Open::OrCreate && self.inner.open(path, Open::Reading).is_err() {
            self.plan.pass(false)?;
        }
        let inner = self.inner.open(path, how)?;
        Ok(Arc::new(FaultyFile { inner, plan: self.plan.clone() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.pass(false)?;
        self.inner.create_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.plan.pass(false)?;
        self.inner.rename(from, to)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>> {
        self.inner.survey(dir)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.plan.pass(true)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.plan.pass(true)?;
        self.inner.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl Medium for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    /// Long writes are cut in two anywhere, so that the second half can fail.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.plan.pass(false)?;
        let some = if data.len() > 64 { data.len() * 5 / 8 } else { data.len() };
        self.inner.write_at(&data[..some], offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.inner.len()? {
            self.plan.pass(false)?;
        }
        self.inner.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.pass(true)?;
        self.inner.sync()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(from)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.plan.pass(false)?;
        self.inner.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.punch(offset, len)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.inner.modified()
    }
}
