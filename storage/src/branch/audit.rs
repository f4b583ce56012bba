//! What the consistency check asks a branch.

use std::sync::atomic::Ordering;

use super::Branch;
use crate::id::DataName;
use crate::locks;
use crate::tree::Tree;

/// What a branch counts as it goes, each beside what its inodes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes of all files.
    pub(crate) sizes: (u64, u64),
    /// Pages of the top layer.
    pub(crate) pages: (u64, u64),
}

impl Branch {
    /// The namespace at this moment; cells of the top layer go on changing.
    pub(crate) fn snapshot(&self) -> Option<Tree> {
        locks::read(&self.tree).ok().map(|tree| tree.clone())
    }

    /// Looks at the names while they do not change. False if they cannot be had.
    pub(crate) fn with_names(&self, look: impl FnOnce(&Tree)) -> bool {
        locks::read(&self.tree).map(|tree| look(&tree)).is_ok()
    }

    /// Whether a file of the branch has its contents in data files of that name.
    pub(crate) fn holds(&self, name: DataName) -> bool {
        let tree = self.snapshot();
        let cell = tree.as_ref().and_then(|tree| tree.cell(name.inode));
        cell.and_then(|cell| locks::read(&cell.inode).ok())
            .is_some_and(|inode| inode.file().is_some_and(|body| body.contents == name.contents))
    }

    /// Adds up all files while no change runs. None if the branch has ended or a request panicked.
    pub(crate) fn tally(&self) -> Option<Tally> {
        let gate = locks::write(&self.gate).ok()?;
        let top = gate.open().ok()?;
        let tree = locks::read(&self.tree).ok()?;
        let orphans = locks::lock(&self.orphans).ok()?;
        let (mut bytes, mut pages) = (0, 0);
        for (_, cell) in tree.cells() {
            let inode = locks::read(&cell.inode).ok()?;
            let Some(body) = inode.file() else { continue };
            bytes += body.size;
            if cell.layer == top.id {
                pages += body.own_pages;
            }
        }
        for cell in orphans.values().filter(|cell| cell.layer == top.id) {
            pages += locks::read(&cell.inode).ok()?.file().map_or(0, |body| body.own_pages);
        }
        let counted = self.logical_bytes.load(Ordering::Relaxed);
        Some(Tally { sizes: (counted, bytes), pages: (top.pages(), pages) })
    }
}
