//! One method for each kind of request: find the branch, ask it, reply.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::answer::{LONG, NEVER, file_attr, guarded, root_attr};
use super::links;
use crate::branch::{Attributes, Branch, NewAttributes, Renaming, Sought};
use crate::id::{BranchId, FileId, NodeId};
use crate::inode::nanoseconds;
use crate::journal::Making;
use crate::locks::{FsResult, errno};
use crate::store::Store;

/// Largest write in one request; the kernel's own limit is the same (`fs.fuse.max_pages_limit`).
const WRITE_MAX: u32 = 1 << 20;
/// Requests for readahead and the like that may wait at a time.
const BACKGROUND_MAX: u16 = 64;
/// Node numbers are never reused, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Open files have no state here: everything goes by node number.
const HANDLE: FileHandle = FileHandle(0);

type Replied<T> = Result<T, fuser::Errno>;

thread_local! {
    /// What a thread reads into, kept from one request to the next.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Requests {
    store: Arc<Store>,
    mount: PathBuf,
}

impl Requests {
    pub(super) fn new(store: Arc<Store>, mount: PathBuf) -> Self {
        Self { store, mount }
    }

    fn on<T>(
        &self,
        node: INodeNo,
        request: impl FnOnce(&Branch, FileId) -> FsResult<T>,
    ) -> Replied<T> {
        guarded(|| {
            if node == INodeNo::ROOT {
                return Err(Errno::PERM);
            }
            let node = NodeId::parse(node.0).ok_or(Errno::NOENT)?;
            let branch = self.store.branch(node.branch).map_err(|_| Errno::IO)?;
            request(&branch, node.file)
        })
    }

    /// The attributes of a branch's directory, by its name in the root.
    fn branch_attr(&self, name: &OsStr) -> Option<FileAttr> {
        let text = name.to_str()?;
        let id = BranchId::new(text.parse().ok()?).ok().filter(|id| id.to_string() == text)?;
        let attributes = self.store.branch(id).ok()?.stat(FileId::ROOT).ok()?;
        Some(file_attr(&attributes))
    }

    /// Entries of the root directory behind cookie `after`.
    fn branches(&self, after: u64) -> Vec<(u64, String, FileAttr)> {
        let list = self.store.list().unwrap_or_default();
        list.into_iter()
            .filter(|summary| u64::from(summary.branch.get()) > after)
            .filter_map(|summary| {
                let name = summary.branch.to_string();
                let attr = self.branch_attr(OsStr::new(&name))?;
                Some((u64::from(summary.branch.get()), name, attr))
            })
            .collect()
    }

    /// Lists a directory; `add` returns true when the reply is full. `.` and `..` come first.
    fn list(
        &self,
        node: INodeNo,
        after: u64,
        mut add: impl FnMut(u64, &OsStr, &FileAttr) -> bool,
    ) -> Replied<()> {
        if node == INodeNo::ROOT {
            for (cookie, name, attr) in self.branches(after) {
                if add(cookie, OsStr::new(&name), &attr) {
                    break;
                }
            }
            return Ok(());
        }
        self.on(node, |branch, file| {
            let dots = [(1, "."), (2, "..")];
            for (cookie, name) in dots.into_iter().filter(|(cookie, _)| *cookie > after) {
                let at = if cookie == 1 { file } else { branch.parent_of(file)? };
                if add(cookie, OsStr::new(name), &file_attr(&branch.stat(at)?)) {
                    return Ok(());
                }
            }
            branch.read_dir(file, after.max(2), |item| {
                !add(item.cookie, OsStr::from_bytes(&item.name), &file_attr(&item.attributes))
            })
        })
    }
}

fn entry(reply: ReplyEntry, made: Replied<Attributes>) {
    match made {
        Ok(attributes) => reply.entry(&LONG, &file_attr(&attributes), GENERATION),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, done: Replied<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Requests {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "the kernel has no such capability");
            }
        }
        // Both are below the library's limits, and a smaller value would only be slower.
        let sizes = (config.set_max_write(WRITE_MAX), config.set_max_background(BACKGROUND_MAX));
        tracing::debug!(?sizes, "mount initialised");
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT {
            return match self.branch_attr(name) {
                Some(attr) => reply.entry_with_ttls(&LONG, &NEVER, &attr, GENERATION),
                None => reply.error(fuser::Errno::ENOENT),
            };
        }
        match self.on(parent, |branch, file| branch.lookup(file, name.as_bytes())) {
            Err(error) if error.code() == fuser::Errno::ENOENT.code() => {
                // Node 0 tells the kernel to remember that there is nothing.
                reply.entry(&LONG, &FileAttr { ino: INodeNo(0), ..root_attr() }, GENERATION);
            }
            found => entry(reply, found),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if node == INodeNo::ROOT {
            return reply.attr(&NEVER, &root_attr());
        }
        match self.on(node, |branch, file| branch.stat(file)) {
            Ok(attributes) => reply.attr(&LONG, &file_attr(&attributes)),
            Err(error) => reply.error(error),
        }
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
        let done = self.on(node, |branch, file| {
            let owner = branch.owner();
            if uid.is_some_and(|uid| uid != owner.uid) || gid.is_some_and(|gid| gid != owner.gid) {
                return Err(Errno::PERM);
            }
            if let Some(size) = size {
                branch.set_size(file, size)?;
            }
            let modified = modified.map(|time| match time {
                TimeOrNow::SpecificTime(time) => nanoseconds(time),
                TimeOrNow::Now => nanoseconds(SystemTime::now()),
            });
            if mode.is_some() || modified.is_some() {
                branch.set_attributes(file, NewAttributes { mode, modified })?;
            }
            branch.stat(file)
        });
        match done {
            Ok(attributes) => reply.attr(&LONG, &file_attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let target = self.on(node, |branch, file| {
            Ok(links::read(&self.mount, branch.id, &branch.read_link(file)?))
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
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
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        entry(
            reply,
            self.on(parent, |branch, file| match kind {
                rustix::fs::FileType::RegularFile => {
                    branch.make(file, name.as_bytes(), Making::File, mode)
                }
                _ => Err(Errno::PERM),
            }),
        );
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
        entry(
            reply,
            self.on(parent, |branch, file| {
                branch.make(file, name.as_bytes(), Making::Directory, mode)
            }),
        );
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = self.on(parent, |branch, file| {
            links::check(&self.mount, branch.id, target)?;
            let making = Making::Symlink(target.as_os_str().as_bytes().into());
            branch.make(file, name.as_bytes(), making, 0o777)
        });
        entry(reply, made);
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
        let done = self.on(parent, |branch, file| {
            let to = NodeId::parse(to.0).ok_or(Errno::PERM)?;
            if to.branch != branch.id {
                return Err(Errno::XDEV);
            }
            let how = match flags {
                flags if flags.is_empty() => Renaming::Replace,
                RenameFlags::RENAME_NOREPLACE => Renaming::NoReplace,
                RenameFlags::RENAME_EXCHANGE => Renaming::Exchange,
                _ => return Err(Errno::INVAL),
            };
            branch.rename((file, name.as_bytes()), (to.file, new.as_bytes()), how)
        });
        empty(reply, done);
    }

    fn link(&self, _: &Request, node: INodeNo, to: INodeNo, new: &OsStr, reply: ReplyEntry) {
        let made = self.on(node, |branch, file| {
            let to = NodeId::parse(to.0).ok_or(Errno::PERM)?;
            if to.branch != branch.id {
                return Err(Errno::XDEV);
            }
            branch.link(file, to.file, new.as_bytes())
        });
        entry(reply, made);
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.on(node, Branch::open) {
            Ok(()) => {
                reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(error) => reply.error(error),
        }
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
        match self.on(parent, |branch, file| branch.create(file, name.as_bytes(), mode)) {
            Ok(attributes) => reply.created(
                &LONG,
                &file_attr(&attributes),
                GENERATION,
                HANDLE,
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            ),
            Err(error) => reply.error(error),
        }
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
            match self.on(node, |branch, file| branch.read(file, offset, len, buffer)) {
                Ok(()) => reply.data(buffer),
                Err(error) => reply.error(error),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.on(node, |branch, file| branch.write(file, offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // There is nothing to do at close(), and the kernel need not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.on(node, Branch::release));
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.on(node, Branch::fsync));
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self
            .list(node, offset, |cookie, name, attr| reply.add(attr.ino, cookie, attr.kind, name));
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ttl = if node == INodeNo::ROOT { NEVER } else { LONG };
        let listed = self.list(node, offset, |cookie, name, attr| {
            reply.add(attr.ino, cookie, name, &ttl, attr, GENERATION)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if node == INodeNo::ROOT {
            return reply.ok();
        }
        empty(reply, self.on(node, |branch, _| branch.fsync_dir()));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.store.media().disk.space() {
            Ok(space) => {
                let (total, free) = (space.total / 4096, space.available / 4096);
                reply.statfs(total, free, free, 0, 0, 4096, 255, 4096);
            }
            Err(error) => reply.error(fuser::Errno::from_i32(errno(&error).raw_os_error())),
        }
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
        let done = self.on(node, |branch, file| {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            let keep_size = mode.contains(FallocateFlags::KEEP_SIZE);
            match mode - FallocateFlags::KEEP_SIZE {
                FallocateFlags::PUNCH_HOLE if keep_size => branch.zero(file, offset, len, true),
                FallocateFlags::ZERO_RANGE => branch.zero(file, offset, len, keep_size),
                mode if mode.is_empty() => branch.allocate(file, offset, len, keep_size),
                _ => Err(Errno::OPNOTSUPP),
            }
        });
        empty(reply, done);
    }

    fn lseek(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        // The values of SEEK_DATA and SEEK_HOLE in the Linux ABI.
        let sought = match whence {
            3 => Ok(Sought::Data),
            4 => Ok(Sought::Hole),
            _ => Err(Errno::INVAL),
        };
        let found = self.on(node, |branch, file| {
            branch.seek(file, u64::try_from(offset).map_err(|_| Errno::NXIO)?, sought?)
        });
        match found {
            Ok(place) => reply.offset(i64::try_from(place).unwrap_or(i64::MAX)),
            Err(error) => reply.error(error),
        }
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
        let copied = self.on(from, |branch, file| {
            let to = NodeId::parse(to.0).ok_or(Errno::INVAL)?;
            if to.branch != branch.id {
                return Err(Errno::XDEV);
            }
            branch.copy((file, from_offset), (to.file, to_offset), len)
        });
        match copied {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }
}
