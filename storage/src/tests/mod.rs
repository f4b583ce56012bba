//! Tests of the engine as a whole, without a mount.

mod check;
mod crash;
mod decoding;
mod faults;
mod faulty;
mod fork;
mod import;
mod lock_file;
mod marks;
mod merge;
mod model;
mod recording;
mod slow;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::branch::Branch;
use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::id::{BranchId, FileId};
use crate::running::Running;
use crate::store::Store;
use crate::wire::{Finding, Owner};

pub(crate) const OWNER: Owner = Owner { uid: 1, gid: 2 };

/// A directory that goes with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Memory where there is some: these tests are about order, not about media.
        let shm = PathBuf::from("/dev/shm");
        let base = if shm.is_dir() { shm } else { std::env::temp_dir() };
        let path = base.join(format!("ardent-storage-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(crate) fn id(number: u32) -> BranchId {
    BranchId::new(number).unwrap()
}

pub(crate) fn open(dir: &Path) -> Store {
    open_on(Arc::new(RealDisk::new(dir)), true)
}

pub(crate) fn try_open(disk: Arc<dyn Disk>) -> Result<Store, Error> {
    let running = Running {
        open_files: 16,
        run_max: Some(1),
        records_max: 8,
        top_records_max: 8,
        reserve: 0,
    };
    Store::open(disk, Path::new("store"), running)
}

pub(crate) fn open_on(disk: Arc<dyn Disk>, background: bool) -> Store {
    // Few files, so that descriptors are closed and opened again all the time.
    Store::open(
        disk,
        Path::new("store"),
        Running {
            open_files: 16,
            run_max: background.then_some(1),
            records_max: 8,
            top_records_max: 8,
            reserve: 0,
        },
    )
    .unwrap()
}

/// Nothing is wrong in what lies in `dir`, which no store serves.
#[track_caller]
pub(crate) fn assert_sound(dir: &Path, context: &str) {
    // The process that serves a store makes it first of all.
    std::fs::write(dir.join("lock"), "").unwrap();
    assert_none(&crate::offline::check(dir).unwrap(), context);
}

/// Nothing is wrong in an open store.
#[track_caller]
pub(crate) fn assert_sane(store: &Store, context: &str) {
    assert_none(&store.check().unwrap(), context);
}

#[track_caller]
fn assert_none(findings: &[Finding], context: &str) {
    let lines: Vec<_> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{context}: {lines:#?}");
}

/// The file at `path` below `branch`.
pub(crate) fn resolve(branch: &Branch, path: &str) -> Option<FileId> {
    path.split('/').filter(|name| !name.is_empty()).try_fold(FileId::ROOT, |at, name| {
        branch.lookup(at, name.as_bytes()).ok().map(|found| found.node.file)
    })
}

pub(crate) fn contents(branch: &Branch, path: &str) -> Option<Vec<u8>> {
    let file = resolve(branch, path)?;
    let size = usize::try_from(branch.stat(file).unwrap().size).unwrap();
    let mut buffer = Vec::new();
    branch.read(file, 0, size, &mut buffer).unwrap();
    assert_eq!(buffer.len(), size);
    Some(buffer)
}
