//! Truncation, preallocation, zeroed ranges, copies between files, and where holes are.
//!
//! How a file shrinks decides whether old bytes can come back after a crash:
//! * To nothing: it starts over under a new contents number. The old data file is removed once the
//!   record that says so is durable.
//! * Into pages that its own data file holds: the record is made durable, then the data file is
//!   cut, then that is made durable. A restart cuts again whatever is longer than the record says.
//! * Otherwise the record alone does it.

use rustix::io::Errno;

use super::contents::Change;
use super::{Branch, FILE_MAX, now};
use crate::id::FileId;
use crate::journal::Edit;
use crate::locks::{self, FsResult, errno};
use crate::pages::{PAGE, page_of, pages_in};

/// Most bytes that one copy or zeroing step holds in memory.
const STEP: u64 = 1 << 20;

impl Branch {
    /// Sets the size of a file.
    pub(crate) fn set_size(&self, file: FileId, size: u64) -> FsResult<()> {
        if size > FILE_MAX {
            return Err(Errno::FBIG);
        }
        let gate = self.enter()?;
        let top = gate.open()?;
        let cell = self.find_own(file, top)?;
        let _io = locks::lock(&cell.io)?;
        let change = Change { file, top, cell: &cell };
        let present = locks::read(&cell.inode)?.file().ok_or(Errno::ISDIR)?.size;
        if size > present {
            self.zero_cut_tail(&change, size)?;
            self.resize_recorded(&change, &Edit::Grow { inode: file, size, time: now() })
        } else if size == present {
            locks::write(&cell.inode)?.touch(now());
            Ok(())
        } else if size == 0 {
            self.empty(&change)
        } else {
            self.cut(&change, size)
        }
    }

    fn empty(&self, change: &Change<'_>) -> FsResult<()> {
        let contents = locks::write(&self.tree)?.allocate().ok_or(Errno::NOSPC)?;
        let (name, had_data, pages) = {
            let inode = locks::read(&change.cell.inode)?;
            let body = inode.file().ok_or(Errno::ISDIR)?;
            (body.data_name(change.file), body.data.is_some(), body.own_pages)
        };
        let edit = Edit::Empty { inode: change.file, contents, time: now() };
        self.resize_recorded(change, &edit)?;
        if had_data {
            let record = locks::read(&change.cell.inode)?.record;
            change.top.retire(name, record);
            change.top.count_pages(0, pages);
        }
        Ok(())
    }

    fn cut(&self, change: &Change<'_>, size: u64) -> FsResult<()> {
        let top = change.top;
        let (name, holds) = {
            let inode = locks::read(&change.cell.inode)?;
            let body = inode.file().ok_or(Errno::ISDIR)?;
            let holds = body.data.is_some() && body.pages.holds_from(page_of(size), top.id);
            (body.data_name(change.file), holds)
        };
        let before = locks::read(&change.cell.inode)?.file().map_or(0, |body| body.own_pages);
        self.resize_recorded(change, &Edit::Cut { inode: change.file, size, time: now() })?;
        let (after, record) = {
            let inode = locks::read(&change.cell.inode)?;
            (inode.file().map_or(0, |body| body.own_pages), inode.record)
        };
        top.count_pages(0, before.saturating_sub(after));
        if !holds {
            return Ok(());
        }
        top.sync_record(record).map_err(|error| errno(&error))?;
        let cut = top.data(name).and_then(|data| {
            data.medium.set_len(size)?;
            top.wrote(name, &data)?;
            top.sync_file(name, &data)
        });
        cut.map_err(|error| {
            self.fail(format!("cut a data file: {error}"));
            Errno::IO
        })
    }

    /// Reserves space for a range; the file grows over it unless `keep_size`.
    pub(crate) fn allocate(
        &self,
        file: FileId,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> FsResult<()> {
        let end = checked_end(offset, len)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let cell = self.find_own(file, top)?;
        let _io = locks::lock(&cell.io)?;
        let change = Change { file, top, cell: &cell };
        let size = locks::read(&cell.inode)?.file().ok_or(Errno::ISDIR)?.size;
        if keep_size || end <= size {
            return Ok(());
        }
        self.check_growth(&change, end)?;
        let data = self.own_data(&change)?;
        let start = (pages_in(size) * PAGE).max(offset - offset % PAGE);
        if end > start {
            match data.medium.allocate(start, end - start).map_err(|error| errno(&error)) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        self.zero_cut_tail(&change, end)?;
        self.resize_recorded(&change, &Edit::Grow { inode: file, size: end, time: now() })
    }

    /// Makes a range read as zeros. Space is not given back: the zeros are pages like any other,
    /// so that they hide what lower layers hold, also after a restart.
    pub(crate) fn zero(
        &self,
        file: FileId,
        offset: u64,
        len: u64,
        keep_size: bool,
    ) -> FsResult<()> {
        let end = checked_end(offset, len)?;
        let size = self.stat(file)?.size;
        let zeros = vec![0; usize::try_from(STEP).unwrap_or(0)];
        let mut at = offset;
        while at < end.min(size) {
            let step = STEP.min(end.min(size) - at);
            if self.holds_data(file, at, at + step)? {
                let len = usize::try_from(step).unwrap_or(zeros.len());
                self.write(file, at, &zeros[..len])?;
            }
            at += step;
        }
        if keep_size { Ok(()) } else { self.allocate(file, offset, len, false) }
    }

    fn holds_data(&self, file: FileId, start: u64, end: u64) -> FsResult<bool> {
        let cell = self.find(file)?;
        let inode = locks::read(&cell.inode)?;
        let body = inode.file().ok_or(Errno::ISDIR)?;
        Ok(body.pages.runs(page_of(start)..pages_in(end)).any(|run| run.layer.is_some()))
    }

    /// Copies up to `len` bytes to another file or place, and says how many.
    pub(crate) fn copy(
        &self,
        (from, from_offset): (FileId, u64),
        (to, to_offset): (FileId, u64),
        len: u64,
    ) -> FsResult<u64> {
        let mut buffer = Vec::new();
        let step = usize::try_from(len.min(STEP)).unwrap_or(0);
        self.read(from, from_offset, step, &mut buffer)?;
        self.write(to, to_offset, &buffer)?;
        Ok(buffer.len() as u64)
    }
}

fn checked_end(offset: u64, len: u64) -> FsResult<u64> {
    if len == 0 {
        return Err(Errno::INVAL);
    }
    offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(Errno::FBIG)
}
