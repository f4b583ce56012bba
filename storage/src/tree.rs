//! The namespace of one branch: inodes by number, and how edits change them.
//!
//! The map is structurally shared: cloning it freezes it. Every inode sits in a cell that carries
//! the layer it was last changed in. A branch changes cells of its own top layer in place and
//! replaces any other by a copy first; so once the branch has moved to a new top, the cells that a
//! clone holds never change again, and a freeze costs the same for any number of files.
//!
//! Lock order: a tree lock, then a cell's `io`, then a cell's `inode`; see `branch/mod.rs`.

use std::sync::{Arc, Mutex, RwLock};

use crate::id::{FileId, LayerId};
use crate::inode::{Body, Directory, FileBody, Inode};
use crate::journal::{Edit, Making, Name};
use crate::locks;

/// An edit does not fit the namespace it is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

/// An inode that has no name any more.
pub(crate) type Gone = (FileId, Arc<Cell>);

/// A directory and a name in it.
type Place<'a> = (FileId, &'a Name);

/// Which edit of which layer, and when.
#[derive(Clone, Copy)]
struct Stamp {
    layer: LayerId,
    record: u64,
    time: i64,
}

#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) layer: LayerId,
    /// Serialises changes of the contents; held over data I/O.
    pub(crate) io: Mutex<()>,
    /// Held for short looks and changes only, never over I/O on data.
    pub(crate) inode: RwLock<Inode>,
}

impl Cell {
    fn new(layer: LayerId, inode: Inode) -> Arc<Self> {
        Arc::new(Self { layer, io: Mutex::new(()), inode: RwLock::new(inode) })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    inodes: imbl::HashMap<FileId, Arc<Cell>>,
    /// The next number for an inode or contents.
    next: u64,
}

impl Tree {
    /// A branch with nothing in it but its own directory.
    pub(crate) fn new(layer: LayerId, time: i64) -> Self {
        let root = Inode::new(0o700, time, Body::Directory(Directory::new(FileId::ROOT)));
        let mut inodes = imbl::HashMap::new();
        inodes.insert(FileId::ROOT, Cell::new(layer, root));
        Self { inodes, next: FileId::ROOT.get() + 1 }
    }

    pub(crate) fn cell(&self, inode: FileId) -> Option<&Arc<Cell>> {
        self.inodes.get(&inode)
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (&FileId, &Arc<Cell>)> {
        self.inodes.iter()
    }

    /// A number that no inode and no contents of this branch or its ancestors has.
    pub(crate) fn allocate(&mut self) -> Option<FileId> {
        let id = FileId::new(self.next)?;
        self.next += 1;
        Some(id)
    }

    fn used(&mut self, id: FileId) {
        self.next = self.next.max(id.get() + 1);
    }

    /// The cell of `inode` in `layer`, copied there if it is still in a lower one.
    pub(crate) fn own(&mut self, inode: FileId, layer: LayerId) -> Option<Arc<Cell>> {
        let cell = self.inodes.get(&inode)?;
        if cell.layer == layer {
            return Some(cell.clone());
        }
        let cell = copy_up(cell, layer)?;
        self.inodes.insert(inode, cell.clone());
        Some(cell)
    }

    /// Applies one edit, which is number `record` of the journal of `layer`. Returns the inode that
    /// lost its last name by it.
    pub(crate) fn apply(
        &mut self,
        edit: &Edit,
        layer: LayerId,
        record: u64,
    ) -> Result<Option<Gone>, Unfit> {
        let at = |time: &i64| Stamp { layer, record, time: *time };
        match edit {
            // What it hides is not for the namespace to know; whoever replays does it.
            Edit::Filter => return Err(Unfit),
            Edit::Make { parent, name, inode, making, mode, time } => {
                self.make((*parent, name), (*inode, *mode), making, at(time))?;
            }
            Edit::Remove { parent, name, time } => {
                let victim = self.unlink(*parent, name, at(time))?;
                return self.drop_link(victim, at(time));
            }
            Edit::Rename { parent, name, to, new, exchange: true, time } => {
                self.exchange((*parent, name), (*to, new), at(time))?;
            }
            Edit::Rename { parent, name, to, new, exchange: false, time } => {
                return self.rename((*parent, name), (*to, new), at(time));
            }
            Edit::Link { inode, parent, name, time } => {
                self.mark(*inode, at(time), |inode| inode.links += 1)?;
                self.enter((*parent, name), *inode, at(time))?;
            }
            // A file that is open outlives its name, and what is done to it then is on record, in
            // a layer perhaps of which nobody knows any more that there was such a file below.
            Edit::Attributes { inode, .. }
            | Edit::Grow { inode, .. }
            | Edit::Cut { inode, .. }
            | Edit::Empty { inode, .. }
                if !self.inodes.contains_key(inode) => {}
            Edit::Attributes { inode, mode, modified, changed } => {
                self.mark(*inode, at(changed), |inode| {
                    inode.mode = *mode;
                    inode.modified = *modified;
                })?;
            }
            Edit::Grow { inode, .. } | Edit::Cut { inode, .. } | Edit::Empty { inode, .. } => {
                if let Edit::Empty { contents, .. } = edit {
                    self.used(*contents);
                }
                let cell = self.own(*inode, layer).ok_or(Unfit)?;
                change(&cell, |inode| resize(inode, edit, layer, record))??;
            }
        }
        Ok(None)
    }

    fn make(
        &mut self,
        place: Place<'_>,
        (inode, mode): (FileId, u32),
        making: &Making,
        stamp: Stamp,
    ) -> Result<(), Unfit> {
        let body = match making {
            Making::File => Body::File(FileBody::new(inode)),
            Making::Directory => Body::Directory(Directory::new(place.0)),
            Making::Symlink(target) => Body::Symlink(target.clone()),
        };
        if self.inodes.contains_key(&inode) {
            return Err(Unfit);
        }
        self.enter(place, inode, stamp)?;
        if matches!(making, Making::Directory) {
            self.count_directory(place.0, stamp.layer, true)?;
        }
        let mut made = Inode::new(mode, stamp.time, body);
        made.record = stamp.record;
        self.inodes.insert(inode, Cell::new(stamp.layer, made));
        self.used(inode);
        Ok(())
    }

    /// Changes an inode and notes by which edit.
    fn mark(
        &mut self,
        inode: FileId,
        stamp: Stamp,
        with: impl FnOnce(&mut Inode),
    ) -> Result<(), Unfit> {
        let cell = self.own(inode, stamp.layer).ok_or(Unfit)?;
        change(&cell, |inode| {
            inode.changed = stamp.time;
            inode.record = stamp.record;
            with(inode);
        })
    }

    /// Adds an entry that must not exist yet.
    fn enter(
        &mut self,
        (parent, name): Place<'_>,
        inode: FileId,
        stamp: Stamp,
    ) -> Result<(), Unfit> {
        let cell = self.own(parent, stamp.layer).ok_or(Unfit)?;
        change(&cell, |parent| {
            let directory = parent.directory_mut().ok_or(Unfit)?;
            if directory.entry(name).is_some() {
                return Err(Unfit);
            }
            directory.insert(name.clone(), inode);
            parent.touch(stamp.time);
            Ok(())
        })?
    }

    fn unlink(&mut self, parent: FileId, name: &Name, stamp: Stamp) -> Result<FileId, Unfit> {
        let cell = self.own(parent, stamp.layer).ok_or(Unfit)?;
        change(&cell, |parent| {
            let inode = parent.directory_mut().ok_or(Unfit)?.remove(name).ok_or(Unfit)?;
            parent.touch(stamp.time);
            Ok(inode)
        })?
    }

    /// One name of `inode` is gone; with the last one it leaves the namespace.
    fn drop_link(&mut self, inode: FileId, stamp: Stamp) -> Result<Option<Gone>, Unfit> {
        let (mut links, mut parent) = (0, None);
        self.mark(inode, stamp, |inode| {
            parent = inode.directory().map(|directory| directory.parent);
            inode.links = if parent.is_some() { 0 } else { inode.links.saturating_sub(1) };
            links = inode.links;
        })?;
        if let Some(parent) = parent {
            self.count_directory(parent, stamp.layer, false)?;
        }
        if links > 0 {
            return Ok(None);
        }
        Ok(self.inodes.remove(&inode).map(|cell| (inode, cell)))
    }

    fn rename(
        &mut self,
        from: Place<'_>,
        to: Place<'_>,
        stamp: Stamp,
    ) -> Result<Option<Gone>, Unfit> {
        let moved = self.unlink(from.0, from.1, stamp)?;
        let replaced = match self.entry(to.0, to.1)? {
            Some(_) => {
                let victim = self.unlink(to.0, to.1, stamp)?;
                self.drop_link(victim, stamp)?
            }
            None => None,
        };
        self.enter(to, moved, stamp)?;
        self.place(moved, to.0, stamp)?;
        Ok(replaced)
    }

    fn exchange(&mut self, one: Place<'_>, other: Place<'_>, stamp: Stamp) -> Result<(), Unfit> {
        let first = self.unlink(one.0, one.1, stamp)?;
        let second = self.unlink(other.0, other.1, stamp)?;
        self.enter(other, first, stamp)?;
        self.enter(one, second, stamp)?;
        self.place(first, other.0, stamp)?;
        self.place(second, one.0, stamp)
    }

    /// `inode` has a name in `parent` now.
    fn place(&mut self, inode: FileId, parent: FileId, stamp: Stamp) -> Result<(), Unfit> {
        let mut left = None;
        self.mark(inode, stamp, |inode| {
            if let Some(directory) = inode.directory_mut() {
                left = Some(std::mem::replace(&mut directory.parent, parent));
            }
        })?;
        if let Some(left) = left.filter(|left| *left != parent) {
            self.count_directory(left, stamp.layer, false)?;
            self.count_directory(parent, stamp.layer, true)?;
        }
        Ok(())
    }

    fn count_directory(&mut self, parent: FileId, layer: LayerId, up: bool) -> Result<(), Unfit> {
        let cell = self.own(parent, layer).ok_or(Unfit)?;
        change(&cell, |parent| {
            parent.links = if up { parent.links + 1 } else { parent.links.saturating_sub(1) };
        })
    }

    /// Takes `name`, and all that is under it, out of a namespace that nobody uses yet. Times stay
    /// as they are. Returns how many bytes of files went.
    pub(crate) fn hide(&mut self, parent: FileId, name: &[u8], layer: LayerId) -> u64 {
        let Some(cell) = self.own(parent, layer) else { return 0 };
        let hidden = change(&cell, |parent| parent.directory_mut()?.remove(name));
        let Ok(Some(inode)) = hidden else { return 0 };
        let names: Vec<Name> = self
            .cell(inode)
            .and_then(|cell| locks::read(&cell.inode).ok())
            .and_then(|inode| inode.directory().map(Directory::names))
            .unwrap_or_default();
        let below: u64 = names.iter().map(|name| self.hide(inode, name, layer)).sum();
        let size =
            self.cell(inode).and_then(|cell| Some(locks::read(&cell.inode).ok()?.file()?.size));
        match self.drop_link(inode, Stamp { layer, record: 0, time: 0 }) {
            Ok(Some(_)) => below + size.unwrap_or(0),
            _ => below,
        }
    }

    /// What `name` stands for in `parent`.
    pub(crate) fn entry(&self, parent: FileId, name: &[u8]) -> Result<Option<FileId>, Unfit> {
        let cell = self.cell(parent).ok_or(Unfit)?;
        let parent = locks::read(&cell.inode).map_err(|_| Unfit)?;
        Ok(parent.directory().ok_or(Unfit)?.entry(name))
    }
}

/// A copy of `cell` for `layer`.
pub(crate) fn copy_up(cell: &Cell, layer: LayerId) -> Option<Arc<Cell>> {
    let inode = locks::read(&cell.inode).ok()?.for_next_layer();
    Some(Cell::new(layer, inode))
}

/// Applies an edit of the size of a file.
pub(crate) fn resize(
    inode: &mut Inode,
    edit: &Edit,
    layer: LayerId,
    record: u64,
) -> Result<(), Unfit> {
    let file = inode.file_mut().ok_or(Unfit)?;
    let time = match edit {
        Edit::Grow { size, time, .. } if *size > file.size => {
            file.grow(*size);
            *time
        }
        Edit::Cut { size, time, .. } if *size < file.size => {
            file.cut(*size, layer);
            *time
        }
        Edit::Empty { contents, time, .. } => {
            file.empty(*contents);
            *time
        }
        _ => return Err(Unfit),
    };
    inode.touch(time);
    inode.record = record;
    Ok(())
}

fn change<T>(cell: &Cell, with: impl FnOnce(&mut Inode) -> T) -> Result<T, Unfit> {
    locks::write(&cell.inode).map(|mut inode| with(&mut inode)).map_err(|_| Unfit)
}
