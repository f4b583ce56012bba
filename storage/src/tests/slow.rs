//! A disk whose branch tree cannot be synced for as long as a test says.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use crate::disk::{Disk, Found, Medium, Open, RealDisk, Space};

#[derive(Clone)]
pub(super) struct SlowDisk {
    inner: Arc<RealDisk>,
    /// Held shut by the test.
    pub(super) door: Arc<RwLock<()>>,
    /// Somebody stands at the door.
    pub(super) arrived: Arc<AtomicBool>,
}

struct SlowFile(Arc<dyn Medium>, Option<SlowDisk>);

impl SlowDisk {
    pub(super) fn new(root: &Path) -> Self {
        let inner = Arc::new(RealDisk::new(root));
        Self { inner, door: Arc::default(), arrived: Arc::default() }
    }
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>> {
        let slow = path.ends_with("branches.journal").then(|| self.clone());
        Ok(Arc::new(SlowFile(self.inner.open(path, how)?, slow)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>> {
        self.inner.survey(dir)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.inner.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl Medium for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(slow) = &self.1 {
            slow.arrived.store(true, Ordering::Release);
            drop(slow.door.read());
        }
        self.0.sync()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.0.next_data(from)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch(offset, len)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.0.modified()
    }
}
