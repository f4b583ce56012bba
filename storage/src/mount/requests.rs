//! What requests mean to the store: finds the branch, asks it. Replies are `filesystem`'s.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, INodeNo, RenameFlags, TimeOrNow};
use rustix::fs::{FallocateFlags, FileType};
use rustix::io::Errno;

use super::answer::{LONG, SHORT, attr_valid, file_attr, guarded, root_attr};
use super::held_back::HeldBack;
use super::links::Links;
use super::syncs::Syncs;
use crate::branch::{Attributes, Branch, NewAttributes, Renaming};
use crate::id::{BranchId, FileId, NodeId};
use crate::inode::nanoseconds;
use crate::journal::Making;
use crate::locks::{FsResult, errno};
use crate::store::Store;

/// The outcome of a request, with the error in the library's words.
pub(super) type Replied<T> = Result<T, fuser::Errno>;

#[derive(Clone)]
pub(crate) struct Requests {
    store: Arc<Store>,
    links: Links,
    syncs: Arc<Syncs>,
    held_back: Option<HeldBack>,
    over_rings: bool,
}

/// What a name stands for, and how long the kernel may keep either. Node 0 tells it to remember
/// that there is nothing.
pub(super) struct Named {
    pub(super) attr: FileAttr,
    pub(super) name_valid: Duration,
    pub(super) attributes_valid: Duration,
}

/// What `setattr` asks for.
pub(super) struct Wanted {
    pub(super) mode: Option<u32>,
    pub(super) owner: (Option<u32>, Option<u32>),
    pub(super) size: Option<u64>,
    pub(super) modified: Option<TimeOrNow>,
}

impl Requests {
    pub(super) fn new(
        store: Arc<Store>,
        links: Links,
        held_back: Option<HeldBack>,
        over_rings: bool,
    ) -> io::Result<Self> {
        Ok(Self { store, links, syncs: Arc::new(Syncs::start()?), held_back, over_rings })
    }

    /// Whether the kernel is to be let hold writes back.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Whether the kernel is to be promised rings.
    pub(super) fn over_rings(&self) -> bool {
        self.over_rings
    }

    /// Runs a sync on the branch and file that `node` stands for and passes on its outcome, on this
    /// thread or another.
    pub(super) fn sync(
        &self,
        node: INodeNo,
        request: impl FnOnce(&Branch, FileId) -> FsResult<()> + Send + 'static,
        reply: impl FnOnce(Replied<()>) + Send + 'static,
    ) {
        let store = self.store.clone();
        self.syncs.run(move || reply(on(&store, node, request)));
    }

    /// Runs a request on the branch and file that `node` stands for. The root has none.
    pub(super) fn on<T>(
        &self,
        node: INodeNo,
        request: impl FnOnce(&Branch, FileId) -> FsResult<T>,
    ) -> Replied<T> {
        on(&self.store, node, request)
    }

    /// The attributes of a branch's directory, by its name in the root.
    pub(super) fn branch_attr(&self, name: &OsStr) -> Option<FileAttr> {
        let text = name.to_str()?;
        let id = BranchId::new(text.parse().ok()?).ok().filter(|id| id.to_string() == text)?;
        let attributes = self.store.branch(id).ok()?.stat(FileId::ROOT).ok()?;
        Some(file_attr(&attributes))
    }

    pub(super) fn look_up(&self, parent: INodeNo, name: &OsStr) -> Replied<Named> {
        let named =
            |attr, name_valid| Named { attr, name_valid, attributes_valid: attr_valid(&attr) };
        if parent == INodeNo::ROOT {
            let attr = self.branch_attr(name).ok_or(fuser::Errno::ENOENT)?;
            return Ok(named(attr, SHORT));
        }
        let told = |branch: &Branch, file| told(branch, branch.lookup(file, name.as_bytes()));
        match self.on(parent, told) {
            Ok(found) => Ok(named(file_attr(&found), LONG)),
            Err(error) if error.code() == fuser::Errno::ENOENT.code() => {
                Ok(named(FileAttr { ino: INodeNo(0), ..root_attr() }, LONG))
            }
            Err(error) => Err(error),
        }
    }

    /// The attributes of a node, and how long the kernel may keep them.
    pub(super) fn attributes(&self, node: INodeNo) -> Replied<(FileAttr, Duration)> {
        if node == INodeNo::ROOT {
            return Ok((root_attr(), LONG));
        }
        let attr = file_attr(&self.on(node, |branch, file| branch.stat(file))?);
        Ok((attr, attr_valid(&attr)))
    }

    /// Writes, at once or what the kernel has held back.
    pub(super) fn write(
        &self,
        node: INodeNo,
        offset: u64,
        data: &[u8],
        is_held_back: bool,
    ) -> Replied<()> {
        if !is_held_back {
            return self.on(node, |branch, file| branch.write(file, offset, data));
        }
        self.on(node, |branch, file| {
            branch.write_held_back(file, offset, data)?;
            if let (false, Some(held_back)) = (branch.may_hold_back(), &self.held_back) {
                held_back.surprised_by(node);
            }
            Ok(())
        })
    }

    /// Lists a directory; `add` returns true when the reply is full. `.` and `..` come first.
    ///
    /// Names only (no READDIRPLUS): a starting Postgres looks through every database for temporary
    /// files and opens few of what it finds, and the kernel would make an inode of each.
    pub(super) fn list(
        &self,
        node: INodeNo,
        after: u64,
        mut add: impl FnMut(u64, &OsStr, &FileAttr) -> bool,
    ) -> Replied<()> {
        if node == INodeNo::ROOT {
            self.list_branches(after, add);
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

    /// The root lists the branches. Their numbers are the cookies.
    fn list_branches(&self, after: u64, mut add: impl FnMut(u64, &OsStr, &FileAttr) -> bool) {
        for summary in self.store.list().unwrap_or_default() {
            let cookie = u64::from(summary.branch.get());
            let name = summary.branch.to_string();
            if cookie <= after {
                continue;
            }
            let Some(attr) = self.branch_attr(OsStr::new(&name)) else { continue };
            if add(cookie, OsStr::new(&name), &attr) {
                break;
            }
        }
    }

    pub(super) fn change(&self, node: INodeNo, wanted: &Wanted) -> Replied<Attributes> {
        self.on(node, |branch, file| {
            let (owner, (uid, gid)) = (branch.owner(), wanted.owner);
            // Every file of a branch belongs to its owner; saying so again is no change.
            if uid.is_some_and(|uid| uid != owner.uid) || gid.is_some_and(|gid| gid != owner.gid) {
                return Err(Errno::PERM);
            }
            if let Some(size) = wanted.size {
                branch.set_size(file, size)?;
            }
            let modified = wanted.modified.map(|time| match time {
                TimeOrNow::SpecificTime(time) => nanoseconds(time),
                TimeOrNow::Now => nanoseconds(SystemTime::now()),
            });
            if wanted.mode.is_some() || modified.is_some() {
                branch.set_attributes(file, NewAttributes { mode: wanted.mode, modified })?;
            }
            branch.stat(file)
        })
    }

    pub(super) fn make_node(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Replied<Attributes> {
        self.on(parent, |branch, file| match FileType::from_raw_mode(mode) {
            FileType::RegularFile => branch.create(file, name.as_bytes(), mode),
            _ => Err(Errno::PERM),
        })
    }

    pub(super) fn make_link(
        &self,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
    ) -> Replied<Attributes> {
        self.on(parent, |branch, file| {
            self.links.check(branch.id, target)?;
            let making = Making::Symlink(target.as_os_str().as_bytes().into());
            told(branch, branch.make(file, name.as_bytes(), making, 0o777))
        })
    }

    pub(super) fn read_link(&self, node: INodeNo) -> Replied<Vec<u8>> {
        self.on(node, |branch, file| Ok(self.links.read(branch.id, &branch.read_link(file)?)))
    }

    pub(super) fn rename(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (to, new): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Replied<()> {
        self.on(parent, |branch, file| {
            let to = same_branch(branch, to)?;
            let how = match flags {
                flags if flags.is_empty() => Renaming::Replace,
                RenameFlags::RENAME_NOREPLACE => Renaming::NoReplace,
                RenameFlags::RENAME_EXCHANGE => Renaming::Exchange,
                _ => return Err(Errno::INVAL),
            };
            branch.rename((file, name.as_bytes()), (to, new.as_bytes()), how)
        })
    }

    pub(super) fn link(&self, node: INodeNo, to: INodeNo, new: &OsStr) -> Replied<Attributes> {
        self.on(node, |branch, file| {
            told(branch, branch.link(file, same_branch(branch, to)?, new.as_bytes()))
        })
    }

    pub(super) fn make_directory(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
    ) -> Replied<Attributes> {
        self.on(parent, |branch, file| {
            told(branch, branch.make(file, name.as_bytes(), Making::Directory, mode))
        })
    }

    /// The kernel knows `node` no more, or fewer times.
    pub(super) fn forget(&self, node: INodeNo, times: u64) {
        if node != INodeNo::ROOT
            && let Err(error) = self.on(node, |branch, file| branch.forget(file, times))
        {
            // The branch is gone.
            tracing::trace!(node = node.0, ?error, "nothing to forget");
        }
    }

    pub(super) fn allocate(&self, node: INodeNo, at: u64, len: u64, mode: i32) -> Replied<()> {
        self.on(node, |branch, file| {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            let keep_size = mode.contains(FallocateFlags::KEEP_SIZE);
            match mode - FallocateFlags::KEEP_SIZE {
                FallocateFlags::PUNCH_HOLE if keep_size => branch.zero(file, at, len, true),
                FallocateFlags::ZERO_RANGE => branch.zero(file, at, len, keep_size),
                mode if mode.is_empty() => branch.allocate(file, at, len, keep_size),
                _ => Err(Errno::OPNOTSUPP),
            }
        })
    }

    pub(super) fn copy(
        &self,
        (from, from_offset): (INodeNo, u64),
        (to, to_offset): (INodeNo, u64),
        len: u64,
    ) -> Replied<u32> {
        self.on(from, |branch, file| {
            let to = same_branch(branch, to)?;
            let count = branch.copy((file, from_offset), (to, to_offset), len)?;
            u32::try_from(count).map_err(|_| Errno::OVERFLOW)
        })
    }

    /// Blocks of 4 KiB: all, and free ones.
    pub(super) fn space(&self) -> Replied<(u64, u64)> {
        guarded(|| {
            let space = self.store.media().disk.space().map_err(|error| errno(&error))?;
            Ok((space.total / 4096, space.available / 4096))
        })
    }
}

fn on<T>(
    store: &Store,
    node: INodeNo,
    request: impl FnOnce(&Branch, FileId) -> FsResult<T>,
) -> Replied<T> {
    guarded(|| {
        if node == INodeNo::ROOT {
            return Err(Errno::PERM);
        }
        let node = NodeId::parse(node.0).ok_or(Errno::NOENT)?;
        let branch = store.branch(node.branch).map_err(|_| Errno::IO)?;
        request(&branch, node.file)
    })
}

/// What a reply names, noted as known to the kernel from here on.
fn told(branch: &Branch, named: FsResult<Attributes>) -> FsResult<Attributes> {
    let named = named?;
    branch.learn(named.node.file)?;
    Ok(named)
}

/// The file that `node` stands for, if it is one of `branch`.
fn same_branch(branch: &Branch, node: INodeNo) -> FsResult<FileId> {
    let node = NodeId::parse(node.0).ok_or(Errno::PERM)?;
    if node.branch == branch.id { Ok(node.file) } else { Err(Errno::XDEV) }
}
