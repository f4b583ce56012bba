//! The only way to media: every system call on the store directory passes these two traits.
//!
//! They are thin so that tests can record the calls, inject faults and replay any prefix. Paths are
//! relative to the store directory. Nothing here is cached or retried.

mod real;
mod rehearsal;

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use real::RealDisk;
pub(crate) use rehearsal::Rehearsal;

/// How a file is opened: for reading and writing, but for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// It must exist.
    Existing,
    /// It is made if it does not exist.
    OrCreate,
    /// It must exist and is only read.
    Reading,
}

/// Space of the file system under the store, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) total: u64,
    pub(crate) available: u64,
}

/// An entry of a directory: itself, not what it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) name: OsString,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) modified: SystemTime,
    pub(crate) kind: FoundKind,
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundKind {
    File {
        size: u64,
        /// How many names it has.
        links: u64,
    },
    Directory,
    /// A symbolic link, a socket or the like.
    Special,
}

/// A directory tree that holds a store.
pub(crate) trait Disk: Send + Sync {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The entries of `dir`, looked at one by one.
    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes everything durable that was done here before, by whomever (syncfs).
    fn sync_all(&self) -> io::Result<()>;
    fn space(&self) -> io::Result<Space>;
}

/// One open file.
pub(crate) trait Medium: Send + Sync {
    /// Reads up to the length of `buffer`; 0 at or past the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Begins to read what is not in memory yet. Only a hint, which a medium may ignore.
    fn prefetch(&self, _range: Range<u64>) {}
    /// Writes a prefix of `data` and says how long it is.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// Begins to write what a sync would have to. Only a hint, which a medium may ignore.
    fn write_out(&self) {}
    /// Makes data and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// The first run of bytes at or after `from` that was written, if any.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;
    /// Reserves space, which reads as zeros and counts as not written.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives whole pages back: they read as zeros and count as not written.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    fn modified(&self) -> io::Result<SystemTime>;
}

/// Fills as much of `buffer` as the file has, zeros after that.
pub(crate) fn read_padded(medium: &dyn Medium, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut rest = buffer;
    let mut at = offset;
    while !rest.is_empty() {
        let count = medium.read_at(rest, at)?;
        if count == 0 {
            rest.fill(0);
            break;
        }
        rest = rest.split_at_mut(count).1;
        at += count as u64;
    }
    Ok(())
}

/// Writes all of `data`; on an error some prefix of it may be written.
pub(crate) fn write_all(medium: &dyn Medium, data: &[u8], offset: u64) -> io::Result<()> {
    let mut rest = data;
    let mut at = offset;
    while !rest.is_empty() {
        let count = medium.write_at(rest, at)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        rest = rest.split_at(count).1;
        at += count as u64;
    }
    Ok(())
}

/// The whole file.
pub(crate) fn read_all(medium: &dyn Medium) -> io::Result<Vec<u8>> {
    let len = usize::try_from(medium.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    read_padded(medium, &mut bytes, 0)?;
    Ok(bytes)
}
