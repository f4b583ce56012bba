//! The record of a running compute, `<run>/<n>.compute`: how a new server finds what an old one
//! started.
//!
//! Written before the process exists (without `process`) and again when it does; removed once
//! every process of the compute was seen gone. So while a process lives there is a record, and a
//! record without one is stale. Replaced by rename, so it is whole or absent; not synced, since
//! nothing it names survives a loss of power, which `boot` tells.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::process::start_ticks;
use crate::data_dir::boot_id;

/// What is written about a compute.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    boot: String,
    data_dir: PathBuf,
    process: Option<RecordedProcess>,
}

/// Names one process of one boot for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedProcess {
    pub(super) pid: u32,
    start_ticks: u64,
    started_at_ms: u64,
}

impl RecordedProcess {
    /// Describes a process that was just started; `None` when it has ended already.
    pub(super) fn of(pid: u32, started_at: SystemTime) -> Option<Self> {
        let since_epoch = started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_at_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        Some(Self { pid, start_ticks: start_ticks(pid)?, started_at_ms })
    }

    /// True while exactly this process runs, not another one under its pid.
    pub(super) fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    pub(super) fn started_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.started_at_ms)
    }
}

/// Writes the record, replacing an older one.
pub(super) fn write(
    path: &Path,
    data_dir: &Path,
    process: Option<RecordedProcess>,
) -> io::Result<()> {
    let record = Record { boot: boot_id()?, data_dir: data_dir.to_owned(), process };
    let fresh = path.with_extension("compute.new");
    fs::write(&fresh, serde_json::to_vec(&record)?)?;
    fs::rename(fresh, path)
}

/// The process on record, if it is of this boot and served this directory. A record that cannot
/// be read names no process.
pub(super) fn read(path: &Path, data_dir: &Path) -> Option<RecordedProcess> {
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let same = record.data_dir == data_dir && boot_id().ok()? == record.boot;
    record.process.filter(|_| same)
}

/// Removes the record; it may be absent.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_one_process_of_one_directory() {
        let dir = std::env::temp_dir().join(format!("compute-state-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("7.compute");
        let own = RecordedProcess::of(std::process::id(), SystemTime::now()).unwrap();

        write(&path, Path::new("/data"), None).unwrap();
        assert_eq!(read(&path, Path::new("/data")), None);
        write(&path, Path::new("/data"), Some(own.clone())).unwrap();
        assert_eq!(read(&path, Path::new("/data")), Some(own.clone()));
        assert!(own.is_alive());
        assert_eq!(read(&path, Path::new("/other")), None);

        let reused = RecordedProcess { start_ticks: own.start_ticks + 1, ..own };
        assert!(!reused.is_alive());
        fs::write(&path, "garbage").unwrap();
        assert_eq!(read(&path, Path::new("/data")), None);
        remove(&path).unwrap();
        remove(&path).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
