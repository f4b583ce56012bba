//! The one place that meets a poisoned lock.
//!
//! A lock is poisoned when a request panicked while it changed what the lock guards. The state may
//! be half changed, so every later request on it fails with EIO instead of building on it.

use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::io::Errno;

/// What a file operation returns: POSIX error numbers are its vocabulary.
pub(crate) type FsResult<T> = Result<T, Errno>;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> FsResult<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| Errno::IO)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> FsResult<RwLockReadGuard<'_, T>> {
    lock.read().map_err(|_| Errno::IO)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> FsResult<RwLockWriteGuard<'_, T>> {
    lock.write().map_err(|_| Errno::IO)
}

/// The error number of an I/O error of the store's own files.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
