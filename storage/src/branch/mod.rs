//! One branch: its namespace, its top layer, and the operations of a file system on them.
//!
//! Locks, in the order in which they are taken:
//! 1. `gate`, shared by every change and exclusive for a freeze, a deletion and nothing else. It
//!    guards which layer is the top. Reads do not take it.
//! 2. a cell's `io`, one at a time: serialises changes of one file's contents and is held over data
//!    I/O.
//! 3. `tree`, then `known`, then `orphans`: the namespace, and what outlives its last name. Held
//!    for look-ups and for edits with their journal record, never over data I/O.
//! 4. a cell's `inode`: attributes, size, page map, directory entries. Never held over data I/O.
//! 5. the locks of the layer and its journal.
//!
//! So a slow disk holds up only those who need the same file, and a freeze waits only for changes
//! that are running.

mod audit;
mod contents;
mod durability;
mod limits;
mod names;
mod resize;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use rustix::io::Errno;

use crate::error::Error;
use crate::id::{BranchId, FileId, NodeId};
use crate::inode::{Body, Inode, nanoseconds};
use crate::layer::{Layer, Media};
use crate::ledger::Account;
use crate::locks::{self, FsResult};
use crate::tree::{Cell, Tree, copy_up};
use crate::wire::Owner;

pub(crate) use audit::Tally;
pub(crate) use names::{NewAttributes, Renaming};

/// Longest file. Postgres cuts relations into segments of 1 GiB; this bounds what a stray write
/// far out can make a page map cost.
pub(crate) const FILE_MAX: u64 = 1 << 40;

/// What kind of thing an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
}

/// What `stat` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) node: NodeId,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    pub(crate) changed: i64,
    pub(crate) owner: Owner,
    /// Whether the kernel may hold back what is written to it.
    pub(crate) may_hold_back: bool,
}

/// What the gate guards.
pub(crate) enum Top {
    /// Changes go to this layer.
    Open(Arc<Layer>),
    /// The branch is deleted.
    Gone,
}

/// A branch in service.
pub(crate) struct Branch {
    pub(crate) id: BranchId,
    pub(crate) parent: Option<BranchId>,
    media: Arc<Media>,
    owner: AtomicU64,
    gate: RwLock<Top>,
    tree: RwLock<Tree>,
    /// Files without a name that may still be open. Not part of any snapshot.
    orphans: Mutex<HashMap<FileId, Arc<Cell>>>,
    /// How often the kernel was told of each file, less what it has forgotten. It tells of no open
    /// file: it knows each one until the last descriptor is closed.
    known: Mutex<HashMap<FileId, u64>>,
    /// Sum of the sizes of its files.
    logical_bytes: AtomicU64,
    pub(crate) account: Arc<Account>,
    /// The most it may come to hold of its own; [`u64::MAX`] if there is no limit.
    max_bytes: AtomicU64,
    /// Whether it may come to its limit by what the kernel may hold back.
    near_limit: AtomicBool,
    /// See `limits.rs`.
    lost_writes: AtomicBool,
    /// See `durability.rs`.
    tentative: AtomicBool,
    failed: OnceLock<String>,
}

/// What a branch is made of.
pub(crate) struct Parts {
    pub(crate) id: BranchId,
    pub(crate) parent: Option<BranchId>,
    pub(crate) owner: Owner,
    pub(crate) tree: Tree,
    pub(crate) top: Arc<Layer>,
    pub(crate) logical_bytes: u64,
    pub(crate) account: Arc<Account>,
    pub(crate) max_bytes: Option<u64>,
}

/// What a branch held at its freeze.
pub(crate) struct Frozen {
    pub(crate) tree: Tree,
    pub(crate) logical_bytes: u64,
}

impl Branch {
    pub(crate) fn new(parts: Parts) -> Self {
        let branch = Self {
            id: parts.id,
            parent: parts.parent,
            media: parts.top.media().clone(),
            owner: AtomicU64::new(pack(parts.owner)),
            gate: RwLock::new(Top::Open(parts.top)),
            tree: RwLock::new(parts.tree),
            orphans: Mutex::default(),
            known: Mutex::default(),
            logical_bytes: AtomicU64::new(parts.logical_bytes),
            account: parts.account,
            max_bytes: AtomicU64::new(parts.max_bytes.unwrap_or(u64::MAX)),
            near_limit: AtomicBool::new(false),
            lost_writes: AtomicBool::new(false),
            tentative: AtomicBool::new(false),
            failed: OnceLock::new(),
        };
        branch.note_size(branch.unique_bytes());
        branch
    }

    pub(crate) fn owner(&self) -> Owner {
        let packed = self.owner.load(Ordering::Relaxed);
        Owner {
            uid: u32::try_from(packed >> 32).unwrap_or(u32::MAX),
            gid: u32::try_from(packed & u64::from(u32::MAX)).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        self.owner.store(pack(owner), Ordering::Relaxed);
    }

    pub(crate) fn logical_bytes(&self) -> u64 {
        self.logical_bytes.load(Ordering::Relaxed)
    }

    /// Why the branch accepts no more changes, if it does not.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// From here on the branch accepts neither changes nor syncs.
    pub(crate) fn fail(&self, reason: String) {
        if self.failed.set(reason).is_ok() {
            tracing::error!(branch = %self.id, reason = self.failure(), "branch failed");
        }
    }

    /// Runs `with` while no change runs, on the top layer and what the branch holds. The layer it
    /// returns is the new top.
    pub(crate) fn freeze<T>(
        &self,
        with: impl FnOnce(&Arc<Layer>, Frozen) -> Result<(Arc<Layer>, T), Error>,
    ) -> Result<T, Error> {
        let broken = |_| self.as_error();
        let mut gate = locks::write(&self.gate).map_err(broken)?;
        let Top::Open(top) = &*gate else {
            return Err(Error::NoSuchBranch { branch: self.id.get() });
        };
        if let Some(reason) = top.failure() {
            self.fail(reason.to_owned());
        }
        if self.failure().is_some() {
            return Err(self.as_error());
        }
        let tree = locks::read(&self.tree).map_err(broken)?.clone();
        let (next, value) = with(top, Frozen { tree, logical_bytes: self.logical_bytes() })?;
        *gate = Top::Open(next);
        Ok(value)
    }

    /// Ends the branch: waits for changes that are running, refuses all later ones. False if it
    /// had ended before.
    pub(crate) fn end(&self) -> bool {
        // A panic in an earlier change must not keep the branch from being deleted.
        let mut gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        matches!(std::mem::replace(&mut *gate, Top::Gone), Top::Open(_))
    }

    /// The top layer, for a reader.
    pub(crate) fn top(&self) -> FsResult<Arc<Layer>> {
        locks::read(&self.gate)?.open().cloned()
    }

    /// Whether any of `files` may be open and has no name any more.
    pub(crate) fn any_orphan(&self, files: &[FileId]) -> bool {
        locks::lock(&self.orphans)
            .map_or(true, |orphans| files.iter().any(|file| orphans.contains_key(file)))
    }

    fn as_error(&self) -> Error {
        let reason = self.failure().unwrap_or("a request on it panicked").to_owned();
        Error::BranchFailed { branch: self.id.get(), reason }
    }

    /// The gate, taken for a change.
    fn enter(&self) -> FsResult<RwLockReadGuard<'_, Top>> {
        let gate = locks::read(&self.gate)?;
        if let Some(reason) = gate.open()?.failure() {
            self.fail(reason.to_owned());
        }
        if self.failure().is_some() { Err(Errno::IO) } else { Ok(gate) }
    }

    /// The inode's cell, wherever it was last changed.
    fn find(&self, file: FileId) -> FsResult<Arc<Cell>> {
        let tree = locks::read(&self.tree)?;
        if let Some(cell) = tree.cell(file) {
            return Ok(cell.clone());
        }
        locks::lock(&self.orphans)?.get(&file).cloned().ok_or(Errno::NOENT)
    }

    /// The inode's cell in the top layer, copied there if need be. The gate is held.
    fn find_own(&self, file: FileId, top: &Layer) -> FsResult<Arc<Cell>> {
        let cell = self.find(file)?;
        if cell.layer == top.id {
            return Ok(cell);
        }
        top.touch();
        let mut tree = locks::write(&self.tree)?;
        if let Some(cell) = tree.own(file, top.id) {
            return Ok(cell);
        }
        let mut orphans = locks::lock(&self.orphans)?;
        let cell = orphans.get_mut(&file).ok_or(Errno::NOENT)?;
        if cell.layer != top.id {
            *cell = copy_up(cell, top.id).ok_or(Errno::IO)?;
        }
        Ok(cell.clone())
    }

    fn attributes(&self, file: FileId, inode: &Inode) -> Attributes {
        Attributes {
            node: NodeId { branch: self.id, file },
            kind: match &inode.body {
                Body::File(_) => Kind::File,
                Body::Directory(_) => Kind::Directory,
                Body::Symlink(_) => Kind::Symlink,
            },
            mode: inode.mode,
            links: inode.links,
            size: inode.size(),
            modified: inode.modified,
            changed: inode.changed,
            owner: self.owner(),
            may_hold_back: self.may_hold_back(),
        }
    }

    /// Every file that the kernel may know.
    pub(crate) fn known_files(&self) -> FsResult<Vec<FileId>> {
        Ok(locks::lock(&self.known)?.keys().copied().collect())
    }

    fn count_bytes(&self, before: u64, after: u64) {
        self.logical_bytes.fetch_add(after, Ordering::Relaxed);
        self.logical_bytes.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Top {
    fn open(&self) -> FsResult<&Arc<Layer>> {
        match self {
            Self::Open(layer) => Ok(layer),
            Self::Gone => Err(Errno::IO),
        }
    }
}

fn pack(owner: Owner) -> u64 {
    u64::from(owner.uid) << 32 | u64::from(owner.gid)
}

fn now() -> i64 {
    nanoseconds(SystemTime::now())
}
