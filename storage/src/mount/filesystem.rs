//! One method for each kind of request of the kernel: unpack, ask, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answer::{LONG, attr_valid, file_attr};
use super::requests::{Replied, Requests, Wanted};
use crate::branch::{Attributes, Branch};

/// Largest write, and read, in one request. A longer one saves little, and every thread of a ring
/// has a buffer as large as this.
const WRITE_MAX: u32 = 256 << 10;
/// Requests for readahead and the like that may wait at a time.
const BACKGROUND_MAX: u16 = 64;
/// Node numbers are never reused, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Open files have no state here: everything goes by node number.
const HANDLE: FileHandle = FileHandle(0);
/// Pages outlive an open, and a close has nothing to do.
pub(super) const OPENED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

thread_local! {
    /// What a thread reads into, kept from one request to the next.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Passes on the outcome of a request: its value to `ok`, its error to the kernel.
macro_rules! answer {
    ($reply:ident, $outcome:expr, $value:pat => $ok:expr) => {
        match $outcome {
            Ok($value) => $ok,
            Err(error) => $reply.error(error),
        }
    };
}

fn entry(reply: ReplyEntry, made: Replied<Attributes>) {
    answer!(reply, made, made => {
        let attr = file_attr(&made);
        reply.entry_with_ttls(&attr_valid(&attr), &LONG, &attr, GENERATION);
    });
}

fn attr(reply: ReplyAttr, found: Replied<Attributes>) {
    answer!(reply, found, found => {
        let attr = file_attr(&found);
        reply.attr(&attr_valid(&attr), &attr);
    });
}

fn empty(reply: ReplyEmpty, done: Replied<()>) {
    answer!(reply, done, () => reply.ok());
}

impl Filesystem for Requests {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "the kernel has no such capability");
            }
        }
        if self.holds_back() {
            let both = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
            let offered = config.add_capabilities(both).is_ok();
            tracing::debug!(offered, "writes are held back");
        }
        if self.over_rings() {
            // Only what was offered is promised: otherwise every request would wait for rings.
            let offered = config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok();
            tracing::debug!(offered, "requests over io_uring");
        }
        // Both are below the library's limits, and a smaller value would only be slower.
        let sizes = (config.set_max_write(WRITE_MAX), config.set_max_background(BACKGROUND_MAX));
        tracing::debug!(?sizes, "mount initialised");
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.look_up(parent, name), named => {
            let valid = (&named.attributes_valid, &named.name_valid);
            reply.entry_with_ttls(valid.0, valid.1, &named.attr, GENERATION);
        });
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.attributes(node), (attr, valid) => reply.attr(&valid, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attr(reply, self.change(node, &Wanted { mode, owner: (uid, gid), size, modified }));
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        answer!(reply, self.read_link(node), target => reply.data(&target));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make_node(parent, name, mode));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make_directory(parent, name, mode));
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make_link(parent, name, target));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.on(parent, |branch, file| branch.remove(file, name.as_bytes(), false)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.on(parent, |branch, file| branch.remove(file, name.as_bytes(), true)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        empty(reply, Self::rename(self, (parent, name), (to, new), flags));
    }

    fn link(&self, _: &Request, node: INodeNo, to: INodeNo, new: &OsStr, reply: ReplyEntry) {
        entry(reply, Self::link(self, node, to, new));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // The kernel opens and closes by itself from here on: a file lives until it is forgotten.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // It also keeps listings until it changes them itself; see `Mounted::relist`.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn forget(&self, _: &Request, node: INodeNo, times: u64) {
        Self::forget(self, node, times);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.on(parent, |branch, file| branch.create(file, name.as_bytes(), mode));
        answer!(reply, made, made => {
            let attr = file_attr(&made);
            reply.created(&attr_valid(&attr), &attr, GENERATION, HANDLE, OPENED);
        });
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let len = usize::try_from(size).unwrap_or(usize::MAX);
        BUFFER.with_borrow_mut(|buffer| {
            let read = self.on(node, |branch, file| branch.read(file, offset, len, buffer));
            answer!(reply, read, () => reply.data(buffer));
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_held_back = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let written = Self::write(self, node, offset, data, is_held_back);
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        answer!(reply, written, () => reply.written(len));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // There is nothing to do at close(), and the kernel need not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(node, Branch::fsync, |done| empty(reply, done));
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let add =
            |cookie, name: &OsStr, attr: &FileAttr| reply.add(attr.ino, cookie, attr.kind, name);
        let listed = self.list(node, offset, add);
        answer!(reply, listed, () => reply.ok());
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if node == INodeNo::ROOT {
            return reply.ok();
        }
        self.sync(node, |branch, _| branch.fsync_dir(), |done| empty(reply, done));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        answer!(reply, self.space(), (total, free) => {
            reply.statfs(total, free, free, 0, 0, 4096, 255, 4096);
        });
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        // None anywhere; the kernel need not ask again, least of all before each write.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.allocate(node, offset, len, mode));
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // What is held back may lie in what is a hole here; the kernel says that there are none.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copied = self.copy((from, from_offset), (to, to_offset), len);
        answer!(reply, copied, count => reply.written(count));
    }
}
