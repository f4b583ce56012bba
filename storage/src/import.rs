//! Makes a layer of a directory below the store: its files are renamed into the layer, and a
//! journal tells their names, attributes and sizes. So it costs what the number of files costs,
//! whatever is in them.
//!
//! Refuses all but directories and files of one name: a link could lead into another branch. Must
//! never change the directory before it was looked at as a whole. Whatever is cut short belongs to
//! a layer that no record knows, which the next start sweeps.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Found, FoundKind};
use crate::error::Error;
use crate::files::layer_dir;
use crate::id::{BranchId, DataName, FileId, LayerId};
use crate::inode::nanoseconds;
use crate::journal::{Edit, Log, Making};
use crate::tree::Tree;

/// Directory of what is to be taken in, relative to the store directory.
pub(crate) const INCOMING: &str = "incoming";

/// Where the files of a branch are made that is to be imported: on the file system of the store.
#[must_use]
pub fn incoming_dir(store_dir: &Path, branch: BranchId) -> PathBuf {
    store_dir.join(incoming(branch))
}

/// The same, relative to the store directory.
pub(crate) fn incoming(branch: BranchId) -> PathBuf {
    Path::new(INCOMING).join(branch.to_string())
}

/// What a directory holds: the edits that make an empty namespace of it, and where the bytes are.
pub(crate) struct Inventory {
    edits: Vec<Edit>,
    files: Vec<(PathBuf, FileId)>,
    /// Sum of the sizes of the files.
    pub(crate) bytes: u64,
}

impl Inventory {
    /// Looks at everything in `directory`. Numbers are those that `tree` has not given out yet.
    pub(crate) fn take(disk: &dyn Disk, directory: &Path, tree: &mut Tree) -> Result<Self, Error> {
        let mut inventory = Self { edits: Vec::new(), files: Vec::new(), bytes: 0 };
        let mut open = vec![(directory.to_path_buf(), FileId::ROOT)];
        while let Some((path, parent)) = open.pop() {
            let entries = disk.survey(&path).map_err(|source| {
                let path = path.clone();
                Error::Io { doing: "import", path, source }
            })?;
            for found in entries {
                let place = path.join(&found.name);
                let inode = tree.allocate().ok_or_else(|| Error::Damaged {
                    path: place.clone(),
                    detail: "no inode number is left for it".to_owned(),
                })?;
                if found.kind == FoundKind::Directory {
                    open.push((place.clone(), inode));
                }
                inventory.note(parent, inode, found, place)?;
            }
        }
        Ok(inventory)
    }

    fn note(
        &mut self,
        parent: FileId,
        inode: FileId,
        found: Found,
        place: PathBuf,
    ) -> Result<(), Error> {
        let (mode, time) = (found.mode, nanoseconds(found.modified));
        let (making, size) = match found.kind {
            FoundKind::Directory => (Making::Directory, 0),
            FoundKind::File { size, links: 1 } => (Making::File, size),
            FoundKind::File { .. } | FoundKind::Special => {
                return Err(Error::NotPlain { path: place });
            }
        };
        let name = found.name.as_bytes().into();
        self.edits.push(Edit::Make { parent, name, inode, making, mode, time });
        if size > 0 {
            self.edits.push(Edit::Grow { inode, size, time });
            self.files.push((place, inode));
            self.bytes = self.bytes.saturating_add(size);
        }
        Ok(())
    }

    /// Tells `journal` of everything and moves the files into layer `id`, whose namespace `tree`
    /// becomes. Nothing is durable afterwards.
    pub(crate) fn carry_in(
        &self,
        disk: &dyn Disk,
        (id, journal): (LayerId, &Log),
        tree: &mut Tree,
    ) -> io::Result<()> {
        for edit in &self.edits {
            let (kind, payload) = edit.encode();
            let record = journal.append(kind, &payload)?;
            let unfit = |_| io::Error::other("a directory names an entry twice");
            tree.apply(edit, id, record).map_err(unfit)?;
        }
        for (place, inode) in &self.files {
            let name = DataName { inode: *inode, contents: *inode };
            disk.rename(place, &layer_dir(id).join(name.to_string()))?;
        }
        Ok(())
    }
}
