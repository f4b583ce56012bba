//! Names, attributes and directories.
//!
//! Every change is checked, written to the journal and applied under the tree lock, so that the
//! journal has the order in which things happened.

use std::sync::Arc;

use rustix::io::Errno;

use super::{Attributes, Branch, Kind, now};
use crate::id::FileId;
use crate::inode::Body;
use crate::journal::{Edit, Making, Name};
use crate::layer::Layer;
use crate::locks::{self, FsResult};
use crate::tree::{Cell, Tree};

/// Longest file name.
const NAME_MAX: usize = 255;

/// One entry of a directory listing.
pub(crate) struct DirItem {
    pub(crate) name: Name,
    pub(crate) cookie: u64,
    pub(crate) attributes: Attributes,
}

/// Attributes to set; what is absent stays.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewAttributes {
    pub(crate) mode: Option<u32>,
    pub(crate) modified: Option<i64>,
}

impl Branch {
    pub(crate) fn stat(&self, file: FileId) -> FsResult<Attributes> {
        let cell = self.find(file)?;
        let inode = locks::read(&cell.inode)?;
        Ok(self.attributes(file, &inode))
    }

    /// What `name` stands for.
    pub(crate) fn lookup(&self, parent: FileId, name: &[u8]) -> FsResult<Attributes> {
        check_name(name)?;
        let tree = locks::read(&self.tree)?;
        let file = entry(&tree, parent, name)?.ok_or(Errno::NOENT)?;
        let cell = tree.cell(file).ok_or(Errno::IO)?;
        let inode = locks::read(&cell.inode)?;
        Ok(self.attributes(file, &inode))
    }

    pub(crate) fn read_link(&self, file: FileId) -> FsResult<Arc<[u8]>> {
        let cell = self.find(file)?;
        match &locks::read(&cell.inode)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Calls `visit` with entries behind cookie `after`, in order, until it returns false.
    pub(crate) fn read_dir(
        &self,
        file: FileId,
        after: u64,
        mut visit: impl FnMut(DirItem) -> bool,
    ) -> FsResult<()> {
        let cell = self.find(file)?;
        // A clone is cheap, and the visitor may take its time.
        let directory = locks::read(&cell.inode)?.directory().ok_or(Errno::NOTDIR)?.clone();
        for (name, entry) in directory.after(after) {
            // It may be gone by now; then it need not be listed.
            let Ok(attributes) = self.stat(entry.inode) else { continue };
            if !visit(DirItem { name: name.clone(), cookie: entry.cookie, attributes }) {
                break;
            }
        }
        Ok(())
    }

    /// The directory that a directory is in; the branch's own is in itself.
    pub(crate) fn parent_of(&self, file: FileId) -> FsResult<FileId> {
        let cell = self.find(file)?;
        let inode = locks::read(&cell.inode)?;
        Ok(inode.directory().ok_or(Errno::NOTDIR)?.parent)
    }

    /// Makes a file, directory or symbolic link.
    pub(crate) fn make(
        &self,
        parent: FileId,
        name: &[u8],
        making: Making,
        mode: u32,
    ) -> FsResult<Attributes> {
        check_name(name)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let mut tree = locks::write(&self.tree)?;
        if entry(&tree, parent, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let inode = tree.allocate().ok_or(Errno::NOSPC)?;
        let mode = mode & 0o7777;
        let name = name.into();
        self.edit(&mut tree, top, &Edit::Make { parent, name, inode, making, mode, time: now() })?;
        let cell = tree.cell(inode).ok_or(Errno::IO)?;
        let made = locks::read(&cell.inode)?;
        Ok(self.attributes(inode, &made))
    }

    /// Makes a file that the kernel knows.
    pub(crate) fn create(&self, parent: FileId, name: &[u8], mode: u32) -> FsResult<Attributes> {
        let made = self.make(parent, name, Making::File, mode)?;
        self.learn(made.node.file)?;
        Ok(made)
    }

    /// Removes a name; that of an empty directory if `directory`, else of anything but one.
    pub(crate) fn remove(&self, parent: FileId, name: &[u8], directory: bool) -> FsResult<()> {
        check_name(name)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let mut tree = locks::write(&self.tree)?;
        let victim = entry(&tree, parent, name)?.ok_or(Errno::NOENT)?;
        check_replaceable(&tree, victim, directory)?;
        self.edit(&mut tree, top, &Edit::Remove { parent, name: name.into(), time: now() })
    }

    /// Renames; replaces what has the new name, exchanges both if `exchange`.
    pub(crate) fn rename(
        &self,
        (parent, name): (FileId, &[u8]),
        (to, new): (FileId, &[u8]),
        how: Renaming,
    ) -> FsResult<()> {
        check_name(name)?;
        check_name(new)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let mut tree = locks::write(&self.tree)?;
        let moved = entry(&tree, parent, name)?.ok_or(Errno::NOENT)?;
        let target = entry(&tree, to, new)?;
        match (how, target) {
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Renaming::Exchange, None) => return Err(Errno::NOENT),
            // Two names of one file: POSIX says to do nothing.
            (_, Some(target)) if target == moved => return Ok(()),
            (Renaming::Replace, Some(target)) => {
                check_replaceable(&tree, target, kind(&tree, moved)? == Kind::Directory)?;
            }
            _ => {}
        }
        let exchange = how == Renaming::Exchange;
        let (name, new) = (name.into(), new.into());
        self.edit(&mut tree, top, &Edit::Rename { parent, name, to, new, exchange, time: now() })
    }

    /// Gives a file another name.
    pub(crate) fn link(&self, file: FileId, parent: FileId, name: &[u8]) -> FsResult<Attributes> {
        check_name(name)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let mut tree = locks::write(&self.tree)?;
        if kind(&tree, file)? == Kind::Directory {
            return Err(Errno::PERM);
        }
        if entry(&tree, parent, name)?.is_some() {
            return Err(Errno::EXIST);
        }
        let name = name.into();
        self.edit(&mut tree, top, &Edit::Link { inode: file, parent, name, time: now() })?;
        drop(tree);
        self.stat(file)
    }

    pub(crate) fn set_attributes(&self, file: FileId, new: NewAttributes) -> FsResult<()> {
        let gate = self.enter()?;
        let top = gate.open()?;
        let cell = self.find_own(file, top)?;
        let mut inode = locks::write(&cell.inode)?;
        let mode = new.mode.map_or(inode.mode, |mode| mode & 0o7777);
        let modified = new.modified.unwrap_or(inode.modified);
        let changed = now();
        let record = top.record(&Edit::Attributes { inode: file, mode, modified, changed })?;
        inode.mode = mode;
        inode.modified = modified;
        inode.changed = changed;
        inode.record = record;
        Ok(())
    }

    /// Notes that the kernel is told of the file, so that it outlives its last name: it may be open
    /// until the kernel forgets it.
    pub(crate) fn learn(&self, file: FileId) -> FsResult<()> {
        let tree = locks::read(&self.tree)?;
        let mut known = locks::lock(&self.known)?;
        if tree.cell(file).is_none() && !known.contains_key(&file) {
            return Err(Errno::NOENT);
        }
        *known.entry(file).or_insert(0) += 1;
        Ok(())
    }

    /// Notes that the kernel forgets as many of the times that it was told of the file.
    pub(crate) fn forget(&self, file: FileId, times: u64) -> FsResult<()> {
        let gate = locks::read(&self.gate)?;
        {
            let mut known = locks::lock(&self.known)?;
            match known.get_mut(&file) {
                Some(count) if *count > times => {
                    *count -= times;
                    return Ok(());
                }
                Some(_) => known.remove(&file),
                None => return Ok(()),
            };
        }
        let orphan = locks::lock(&self.orphans)?.remove(&file);
        if let (Some(cell), Ok(top)) = (orphan, gate.open()) {
            retire(file, &cell, top)?;
        }
        Ok(())
    }

    /// Writes a checked edit to the journal and applies it.
    fn edit(&self, tree: &mut Tree, top: &Arc<Layer>, edit: &Edit) -> FsResult<()> {
        top.touch();
        let record = top.record(edit)?;
        let Ok(gone) = tree.apply(edit, top.id, record) else {
            self.fail(format!("the namespace does not fit its edit {edit:?}"));
            return Err(Errno::IO);
        };
        let Some((file, cell)) = gone else { return Ok(()) };
        self.count_bytes(locks::read(&cell.inode)?.file().map_or(0, |body| body.size), 0);
        // Held until the orphan is in its place, or the kernel's forgetting it could miss it.
        let known = locks::lock(&self.known)?;
        if known.contains_key(&file) {
            locks::lock(&self.orphans)?.insert(file, cell);
            return Ok(());
        }
        drop(known);
        retire(file, &cell, top)
    }
}

/// How a rename treats what has the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renaming {
    Replace,
    NoReplace,
    Exchange,
}

/// Gives the data of a file that is gone back to the layer.
fn retire(file: FileId, cell: &Cell, top: &Layer) -> FsResult<()> {
    let inode = locks::read(&cell.inode)?;
    if let Some(body) = inode.file().filter(|body| body.data.is_some() && cell.layer == top.id) {
        top.retire(body.data_name(file), inode.record);
        top.count_pages(0, body.own_pages);
    }
    Ok(())
}

fn check_name(name: &[u8]) -> FsResult<()> {
    match name {
        [] | b"." | b".." => Err(Errno::INVAL),
        _ if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

fn entry(tree: &Tree, parent: FileId, name: &[u8]) -> FsResult<Option<FileId>> {
    let cell = tree.cell(parent).ok_or(Errno::NOENT)?;
    Ok(locks::read(&cell.inode)?.directory().ok_or(Errno::NOTDIR)?.entry(name))
}

fn kind(tree: &Tree, file: FileId) -> FsResult<Kind> {
    let cell = tree.cell(file).ok_or(Errno::NOENT)?;
    Ok(match &locks::read(&cell.inode)?.body {
        Body::File(_) => Kind::File,
        Body::Directory(_) => Kind::Directory,
        Body::Symlink(_) => Kind::Symlink,
    })
}

/// Whether `victim` may be removed by, or replaced with, a directory or anything else.
fn check_replaceable(tree: &Tree, victim: FileId, directory: bool) -> FsResult<()> {
    let cell = tree.cell(victim).ok_or(Errno::IO)?;
    let inode = locks::read(&cell.inode)?;
    match (inode.directory(), directory) {
        (Some(_), false) => Err(Errno::ISDIR),
        (None, true) => Err(Errno::NOTDIR),
        (Some(entries), true) if !entries.is_empty() => Err(Errno::NOTEMPTY),
        _ => Ok(()),
    }
}
