//! One line for each operation of the kernel: unpack, ask, reply. Numbers in parentheses are the
//! places of fields in what the operation is given, as `<linux/fuse.h>` lays it out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, INodeNo, RenameFlags, TimeOrNow};

use super::call::Call;
use super::reply::Reply;
use crate::branch::{Attributes, Branch};
use crate::mount::answer::{LONG, attr_valid, file_attr};
use crate::mount::filesystem::OPENED;
use crate::mount::requests::{Named, Replied, Requests, Wanted};

/// In the flags of a write.
const WRITE_CACHE: u32 = 1 << 0;

/// Bytes of a read that is ahead of a scan: as many as the kernel asks for at a time.
const LONG_READ: u32 = 256 << 10;

mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const READDIR: u32 = 28;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const RENAME2: u32 = 45;
    pub(super) const COPY_FILE_RANGE: u32 = 47;
}

/// Whether it is one of those that the kernel sends ahead of a scan.
pub(super) fn is_long_read(call: &Call<'_>) -> bool {
    call.opcode() == opcode::READ && call.u32(16) >= LONG_READ
}

/// Answers a request. The reply is in `payload`; returns how long it is.
pub(super) fn answer(requests: &Requests, call: &Call<'_>, payload: &mut [u8]) -> Replied<usize> {
    let node = call.node();
    match call.opcode() {
        opcode::READ => {
            let len = usize::try_from(call.u32(16)).unwrap_or(usize::MAX).min(payload.len());
            let buffer = &mut payload[..len];
            requests.on(node, |branch, file| branch.read_into(file, call.u64(8), buffer))
        }
        opcode::WRITE => {
            let data = call.payload(payload);
            let is_held_back = call.u32(20) & WRITE_CACHE != 0;
            requests.write(node, call.u64(8), data, is_held_back)?;
            Ok(Reply::new(payload).u32(call.u32(16)).u32(0).len())
        }
        opcode::FSYNC | opcode::FSYNCDIR => sync(requests, call),
        opcode::FORGET => {
            requests.forget(node, call.u64(0));
            Ok(0)
        }
        opcode::READDIR => list(requests, call, payload),
        opcode::FALLOCATE => {
            let mode = call.u32(24).cast_signed();
            requests.allocate(node, call.u64(8), call.u64(16), mode).map(|()| 0)
        }
        opcode::COPY_FILE_RANGE => {
            let to = (INodeNo(call.u64(16)), call.u64(32));
            let count = requests.copy((node, call.u64(8)), to, call.u64(40))?;
            Ok(Reply::new(payload).u32(count).u32(0).len())
        }
        opcode::STATFS => {
            let (total, free) = requests.space()?;
            let mut reply = Reply::new(payload);
            reply.u64(total).u64(free).u64(free).u64(0).u64(0);
            Ok(reply.u32(4096).u32(255).u32(4096).raw(&[0; 28]).len())
        }
        _ => answer_names(requests, call, payload),
    }
}

/// Answers what is about names and attributes.
fn answer_names(requests: &Requests, call: &Call<'_>, payload: &mut [u8]) -> Replied<usize> {
    let node = call.node();
    let made = match call.opcode() {
        opcode::LOOKUP => requests.look_up(node, call.name(payload))?,
        opcode::GETATTR => {
            let (attr, valid) = requests.attributes(node)?;
            return Ok(Reply::new(payload).attributes_valid(&attr, valid).len());
        }
        opcode::SETATTR => {
            let changed = file_attr(&requests.change(node, &wanted(call))?);
            return Ok(Reply::new(payload).attributes_valid(&changed, attr_valid(&changed)).len());
        }
        opcode::READLINK => {
            let target = requests.read_link(node)?;
            return Ok(Reply::new(payload).raw(&target).len());
        }
        opcode::CREATE => {
            let name = call.name(payload).as_bytes();
            let made = requests.on(node, |branch, file| branch.create(file, name, call.u32(4)))?;
            return Ok(Reply::new(payload).name(&named(&made)).open_file(OPENED).len());
        }
        opcode::SYMLINK => {
            let (name, target) = call.names(payload);
            named(&requests.make_link(node, name, Path::new(target))?)
        }
        opcode::MKNOD => named(&requests.make_node(node, call.name(payload), call.u32(0))?),
        opcode::MKDIR => named(&requests.make_directory(node, call.name(payload), call.u32(0))?),
        opcode::LINK => named(&requests.link(INodeNo(call.u64(0)), node, call.name(payload))?),
        opcode::UNLINK | opcode::RMDIR => {
            let (name, directory) = (call.name(payload), call.opcode() == opcode::RMDIR);
            let remove = |branch: &Branch, file| branch.remove(file, name.as_bytes(), directory);
            return requests.on(node, remove).map(|()| 0);
        }
        opcode::RENAME => return rename(requests, call, payload, RenameFlags::empty()),
        opcode::RENAME2 => {
            return rename(requests, call, payload, RenameFlags::from_bits_retain(call.u32(8)));
        }
        // To open, flush, seek, list extended attributes: the kernel need not ask again.
        _ => return Err(Errno::ENOSYS),
    };
    Ok(Reply::new(payload).name(&made).len())
}

fn sync(requests: &Requests, call: &Call<'_>) -> Replied<usize> {
    match call.node() {
        node if call.opcode() == opcode::FSYNC => requests.on(node, Branch::fsync)?,
        INodeNo::ROOT => {}
        node => requests.on(node, |branch, _| branch.fsync_dir())?,
    }
    Ok(0)
}

fn rename(
    requests: &Requests,
    call: &Call<'_>,
    payload: &[u8],
    flags: RenameFlags,
) -> Replied<usize> {
    let (name, new) = call.names(payload);
    Requests::rename(requests, (call.node(), name), (INodeNo(call.u64(0)), new), flags)?;
    Ok(0)
}

fn list(requests: &Requests, call: &Call<'_>, payload: &mut [u8]) -> Replied<usize> {
    let max = usize::try_from(call.u32(16)).unwrap_or(usize::MAX);
    let mut reply = Reply::new(payload);
    let add = |cookie, name: &OsStr, attr: &FileAttr| reply.entry(cookie, name, attr, max);
    requests.list(call.node(), call.u64(8), add)?;
    Ok(reply.len())
}

fn named(made: &Attributes) -> Named {
    let attr: FileAttr = file_attr(made);
    Named { attr, name_valid: LONG, attributes_valid: attr_valid(&attr) }
}

/// `struct fuse_setattr_in`, whose first field says which of the others count.
fn wanted(call: &Call<'_>) -> Wanted {
    let valid = call.u32(0);
    let field = |bit: u32, offset| (valid & bit != 0).then(|| call.u32(offset));
    let modified = match valid & (1 << 5 | 1 << 8) {
        0 => None,
        bits if bits & 1 << 8 != 0 => Some(TimeOrNow::Now),
        _ => Some(TimeOrNow::SpecificTime(time(call.u64(40).cast_signed(), call.u32(60)))),
    };
    Wanted {
        mode: field(1 << 0, 68),
        owner: (field(1 << 1, 76), field(1 << 2, 80)),
        size: (valid & 1 << 3 != 0).then(|| call.u64(16)),
        modified,
    }
}

fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let at =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    at.and_then(|at| at.checked_add(Duration::from_nanos(nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}
