//! The claim on a store directory: a lock that one process at a time holds until it ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::error::Error;

/// Held until it is dropped, or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Claim {
    _file: File,
}

impl Claim {
    /// Claims a directory; `make` says whether that may be one that never held a store.
    pub(crate) fn take(store_dir: &Path, make: bool) -> Result<Self, Error> {
        let path = store_dir.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(make)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::Io { doing: "open", path, source })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(_) => Err(Error::InUse { dir: store_dir.to_path_buf() }),
        }
    }
}
