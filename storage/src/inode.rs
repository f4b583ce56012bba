//! One file, directory or symbolic link of a branch, as a value.
//!
//! A clone shares directory entries and page map with the original. How edits change an inode is
//! here, so that a running branch and a replay cannot differ.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::id::{DataName, FileId, LayerId};
use crate::journal::Name;
use crate::pages::{PAGE, PageMap, page_of, pages_in};

/// Nanoseconds since 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// A number of names made in the directory of a layer, its journal's among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Names(pub(crate) u64);

impl Names {
    /// The journal, and all that an earlier process made.
    pub(crate) const FIRST: Self = Self(1);
}

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) links: u32,
    /// Time of the last change of contents. Plain writes are not in the journal; the time of the
    /// data file brings it back after a restart.
    pub(crate) modified: i64,
    /// Time of the last change of anything.
    pub(crate) changed: i64,
    /// Number of the last journal record about this inode in its layer; 0 if there is none.
    pub(crate) record: u64,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    File(FileBody),
    Directory(Directory),
    Symlink(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) struct FileBody {
    /// Number of the present contents; see [`DataName`].
    pub(crate) contents: FileId,
    pub(crate) size: u64,
    pub(crate) pages: PageMap,
    /// The name of the data file that the layer of this inode has for the contents, if any: how
    /// many names the layer had made then, itself the last one.
    pub(crate) data: Option<Names>,
    /// How many pages that data file holds.
    pub(crate) own_pages: u64,
    /// The last page is in a lower layer and may hold old bytes past the end of the file. They
    /// must be zeroed, durably, before the file grows over them.
    pub(crate) ragged: bool,
}

/// A directory entry. Cookies are unique in the directory and rise, so that reading a directory
/// goes on at the right place while entries come and go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirEntry {
    pub(crate) inode: FileId,
    pub(crate) cookie: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Directory {
    pub(crate) parent: FileId,
    entries: imbl::OrdMap<Name, DirEntry>,
    order: imbl::OrdMap<u64, Name>,
    next_cookie: u64,
}

/// Cookies 1 and 2 are `.` and `..`.
pub(crate) const FIRST_COOKIE: u64 = 3;

impl Inode {
    pub(crate) fn new(mode: u32, time: i64, body: Body) -> Self {
        let links = if matches!(body, Body::Directory(_)) { 2 } else { 1 };
        Self { mode, links, modified: time, changed: time, record: 0, body }
    }

    /// A copy for a higher layer, which has no data file and no journal record about it yet.
    pub(crate) fn for_next_layer(&self) -> Self {
        let mut next = self.clone();
        next.record = 0;
        if let Body::File(file) = &mut next.body {
            file.data = None;
            file.own_pages = 0;
        }
        next
    }

    pub(crate) fn file(&self) -> Option<&FileBody> {
        if let Body::File(file) = &self.body { Some(file) } else { None }
    }

    pub(crate) fn file_mut(&mut self) -> Option<&mut FileBody> {
        if let Body::File(file) = &mut self.body { Some(file) } else { None }
    }

    pub(crate) fn directory(&self) -> Option<&Directory> {
        if let Body::Directory(directory) = &self.body { Some(directory) } else { None }
    }

    pub(crate) fn directory_mut(&mut self) -> Option<&mut Directory> {
        if let Body::Directory(directory) = &mut self.body { Some(directory) } else { None }
    }

    /// Size as `stat` reports it.
    pub(crate) fn size(&self) -> u64 {
        match &self.body {
            Body::File(file) => file.size,
            Body::Directory(_) => PAGE,
            Body::Symlink(target) => target.len() as u64,
        }
    }

    pub(crate) fn touch(&mut self, time: i64) {
        self.modified = time;
        self.changed = time;
    }
}

impl FileBody {
    pub(crate) fn new(contents: FileId) -> Self {
        Self {
            contents,
            size: 0,
            pages: PageMap::default(),
            data: None,
            own_pages: 0,
            ragged: false,
        }
    }

    pub(crate) fn data_name(&self, inode: FileId) -> DataName {
        DataName { inode, contents: self.contents }
    }

    /// The file has `size` now, which is more than before; what is new reads as zeros.
    pub(crate) fn grow(&mut self, size: u64) {
        self.size = size;
        self.ragged = false;
    }

    /// The file has `size` now, which is less than before. Returns how many pages `layer` lost.
    pub(crate) fn cut(&mut self, size: u64, layer: LayerId) -> u64 {
        self.size = size;
        let lost = self.pages.cut(pages_in(size), layer);
        self.own_pages = self.own_pages.saturating_sub(lost);
        let last = page_of(size);
        self.ragged = !size.is_multiple_of(PAGE)
            && self.pages.layer(last).is_some_and(|holder| holder != layer);
        lost
    }

    /// Forgets pages past the end, which `layer` got from a write that did not come to its end.
    /// Returns how many.
    pub(crate) fn drop_past_end(&mut self, layer: LayerId) -> u64 {
        let lost = self.pages.cut(pages_in(self.size), layer);
        self.own_pages = self.own_pages.saturating_sub(lost);
        lost
    }

    /// The file is empty and starts over under another number.
    pub(crate) fn empty(&mut self, contents: FileId) {
        *self = Self::new(contents);
    }
}

impl Directory {
    pub(crate) fn new(parent: FileId) -> Self {
        Self {
            parent,
            entries: imbl::OrdMap::new(),
            order: imbl::OrdMap::new(),
            next_cookie: FIRST_COOKIE,
        }
    }

    pub(crate) fn entry(&self, name: &[u8]) -> Option<FileId> {
        self.entries.get(name).map(|entry| entry.inode)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        self.entries.keys().cloned().collect()
    }

    /// Adds or replaces an entry.
    pub(crate) fn insert(&mut self, name: Name, inode: FileId) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if let Some(old) = self.entries.insert(name.clone(), DirEntry { inode, cookie }) {
            self.order.remove(&old.cookie);
        }
        self.order.insert(cookie, name);
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<FileId> {
        let old = self.entries.remove(name)?;
        self.order.remove(&old.cookie);
        Some(old.inode)
    }

    /// Entries with a cookie above `after`, in the order of their cookies.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = (&Name, DirEntry)> + '_ {
        self.order
            .range(after.saturating_add(1)..)
            .filter_map(|(_, name)| Some((name, *self.entries.get(name)?)))
    }

    /// Entries whose name is not before `first`, in the order of their names.
    pub(crate) fn from(&self, first: &[u8]) -> impl Iterator<Item = (&Name, FileId)> + '_ {
        let first: Name = first.into();
        self.entries.range(first..).map(|(name, entry)| (name, entry.inode))
    }
}
