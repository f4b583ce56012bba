//! A disk that writes down every system call, and images of what a crash could leave of them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rand::Rng;
use rand::rngs::StdRng;
use rustix::fs::FallocateFlags;

use crate::disk::{Disk, Found, Medium, Open, RealDisk, Space};

/// One call that changed something or made something durable.
#[derive(Clone, Debug)]
pub(super) enum Call {
    CreateFile { file: u64, path: PathBuf },
    CreateDir { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    Write { file: u64, offset: u64, data: Vec<u8> },
    SetLen { file: u64, len: u64 },
    Punch { file: u64, offset: u64, len: u64 },
    Sync { file: u64 },
    SyncDir { path: PathBuf },
    SyncAll,
}

/// What a crash leaves of calls whose effect was not made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crash {
    /// Everything: only the store was killed.
    Killed,
    /// Nothing.
    PowerLost,
    /// A choice by chance; names in the order in which they changed.
    PowerTorn,
}

#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    names: HashMap<PathBuf, u64>,
    files: u64,
}

#[derive(Clone)]
pub(super) struct RecordingDisk {
    inner: Arc<RealDisk>,
    /// Held over each call, so that the record has the order in which they took effect.
    record: Arc<Mutex<Record>>,
}

struct RecordingFile {
    inner: Arc<dyn Medium>,
    file: u64,
    record: Arc<Mutex<Record>>,
}

impl RecordingDisk {
    pub(super) fn new(root: &Path) -> Self {
        Self { inner: Arc::new(RealDisk::new(root)), record: Arc::default() }
    }

    /// How many calls there have been.
    pub(super) fn count(&self) -> usize {
        self.record.lock().unwrap().calls.len()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.record.lock().unwrap().calls.clone()
    }
}

impl Disk for RecordingDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>> {
        let mut record = self.record.lock().unwrap();
        let inner = self.inner.open(path, how)?;
        let file = if let Some(file) = record.names.get(path) {
            *file
        } else {
            record.files += 1;
            let file = record.files;
            record.names.insert(path.to_path_buf(), file);
            record.calls.push(Call::CreateFile { file, path: path.to_path_buf() });
            file
        };
        Ok(Arc::new(RecordingFile { inner, file, record: self.record.clone() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.create_dir(path)?;
        record.calls.push(Call::CreateDir { path: path.to_path_buf() });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.remove_file(path)?;
        record.names.remove(path);
        record.calls.push(Call::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.remove_dir_all(path)?;
        record.names.retain(|name, _| !name.starts_with(path));
        record.calls.push(Call::Remove { path: path.to_path_buf() });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.rename(from, to)?;
        if let Some(file) = record.names.remove(from) {
            record.names.insert(to.to_path_buf(), file);
        }
        record.calls.push(Call::Rename { from: from.to_path_buf(), to: to.to_path_buf() });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>> {
        self.inner.survey(dir)
    }

    fn sync_all(&self) -> io::Result<()> {
        // The real one would wait for all of the machine; an image is made from the record.
        self.record.lock().unwrap().calls.push(Call::SyncAll);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.sync_dir(path)?;
        record.calls.push(Call::SyncDir { path: path.to_path_buf() });
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl Medium for RecordingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut record = self.record.lock().unwrap();
        let count = self.inner.write_at(data, offset)?;
        let data = data[..count].to_vec();
        record.calls.push(Call::Write { file: self.file, offset, data });
        Ok(count)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.set_len(len)?;
        record.calls.push(Call::SetLen { file: self.file, len });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn sync(&self) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.sync()?;
        record.calls.push(Call::Sync { file: self.file });
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.inner.next_data(from)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut record = self.record.lock().unwrap();
        self.inner.punch(offset, len)?;
        record.calls.push(Call::Punch { file: self.file, offset, len });
        Ok(())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.inner.modified()
    }
}

/// Makes at `root` what `crash` after `calls` could leave.
pub(super) fn make_image(calls: &[Call], crash: Crash, random: &mut StdRng, root: &Path) {
    let mut data_synced: HashMap<u64, usize> = HashMap::new();
    let mut names_synced: HashMap<PathBuf, usize> = HashMap::new();
    let all_synced = calls.iter().rposition(|call| matches!(call, Call::SyncAll));
    for (at, call) in calls.iter().enumerate() {
        match call {
            Call::Sync { file } => drop(data_synced.insert(*file, at)),
            Call::SyncDir { path } => drop(names_synced.insert(plain(path), at)),
            _ => {}
        }
    }
    // Changes of names reach a journaling file system's medium in their order.
    let names_until = random.random_range(0..=calls.len());
    let mut files: HashMap<u64, File> = HashMap::new();
    for (at, call) in calls.iter().enumerate() {
        let synced = match call {
            Call::Write { file, .. } | Call::SetLen { file, .. } | Call::Punch { file, .. } => {
                data_synced.get(file).copied()
            }
            Call::CreateFile { path, .. }
            | Call::CreateDir { path }
            | Call::Remove { path }
            | Call::Rename { to: path, .. } => {
                names_synced.get(path.parent().unwrap_or(Path::new(""))).copied()
            }
            Call::Sync { .. } | Call::SyncDir { .. } | Call::SyncAll => continue,
        };
        let is_name =
            !matches!(call, Call::Write { .. } | Call::SetLen { .. } | Call::Punch { .. });
        let survives = synced.max(all_synced).is_some_and(|synced| synced > at)
            || match crash {
                Crash::Killed => true,
                Crash::PowerLost => false,
                Crash::PowerTorn if is_name => at < names_until,
                Crash::PowerTorn => random.random(),
            };
        if survives {
            take_effect(call, root, &mut files);
        }
    }
}

/// `.` as the parent of `x` is spelled like that of `x` itself: empty.
fn plain(path: &Path) -> PathBuf {
    if path == Path::new(".") { PathBuf::new() } else { path.to_path_buf() }
}

/// Does what the call did, if what it was done to is still there.
fn take_effect(call: &Call, root: &Path, files: &mut HashMap<u64, File>) {
    match call {
        Call::CreateFile { file, path } => {
            let mut options = OpenOptions::new();
            if let Ok(made) = options.write(true).create(true).truncate(false).open(root.join(path))
            {
                files.insert(*file, made);
            }
        }
        Call::CreateDir { path } => drop(fs::create_dir(root.join(path))),
        Call::Rename { from, to } => drop(fs::rename(root.join(from), root.join(to))),
        Call::Remove { path } => {
            let path = root.join(path);
            drop(if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
        }
        Call::Write { file, offset, data } => {
            if let Some(file) = files.get(file) {
                file.write_all_at(data, *offset).unwrap();
            }
        }
        Call::SetLen { file, len } => {
            if let Some(file) = files.get(file) {
                file.set_len(*len).unwrap();
            }
        }
        Call::Punch { file, offset, len } => {
            if let Some(file) = files.get(file) {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, how, *offset, *len).unwrap();
            }
        }
        Call::Sync { .. } | Call::SyncDir { .. } | Call::SyncAll => {}
    }
}
