//! The store's answers in the words of the kernel protocol.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::branch::{Attributes, Kind};
use crate::locks::FsResult;

/// How long the kernel may keep what it learned inside a branch.
pub(super) const LONG: Duration = Duration::from_secs(24 * 3600);
/// How long it may keep attributes that stop it from holding writes back, and names of branches.
pub(super) const SHORT: Duration = Duration::from_secs(1);
/// The set-user-ID bit; see `held_back.rs`.
const WRITTEN_AT_ONCE: u32 = 0o4000;

/// Runs one request. A panic is EIO.
pub(super) fn guarded<T>(request: impl FnOnce() -> FsResult<T>) -> Result<T, fuser::Errno> {
    caught(|| request().map_err(|error| fuser::Errno::from_i32(error.raw_os_error())))
}

/// The same, of one whose error is in the library's words already.
pub(super) fn caught<T>(
    request: impl FnOnce() -> Result<T, fuser::Errno>,
) -> Result<T, fuser::Errno> {
    catch_unwind(AssertUnwindSafe(request)).unwrap_or_else(|_| {
        tracing::error!("a request panicked");
        Err(fuser::Errno::EIO)
    })
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    let modified = time(attributes.modified);
    let is_written_at_once = attributes.kind == Kind::File && !attributes.may_hold_back;
    let mark = if is_written_at_once { WRITTEN_AT_ONCE } else { 0 };
    FileAttr {
        ino: INodeNo(attributes.node.number()),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: time(attributes.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: u16::try_from(attributes.mode & 0o7777 | mark).unwrap_or(0),
        nlink: attributes.links,
        uid: attributes.owner.uid,
        gid: attributes.owner.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// How long the kernel may keep the attributes of something in a branch.
pub(super) fn attr_valid(attr: &FileAttr) -> Duration {
    if u32::from(attr.perm) & WRITTEN_AT_ONCE == 0 { LONG } else { SHORT }
}

/// The directory that lists the branches. Always the same.
pub(super) fn root_attr() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 4096,
        blocks: 8,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let time = if nanoseconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(UNIX_EPOCH)
}
