//! Reading and writing what files hold.
//!
//! A write lands in the data file of the top layer at its own offset. A page of a lower layer that
//! is written only in part is copied up with it in the same write; pages written whole are not
//! read first. After the write the page map says so, then the reply goes out.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::io::Errno;

use super::{Branch, FILE_MAX, now};
use crate::disk::{Open, read_padded};
use crate::files::DataFile;
use crate::id::{DataName, FileId, LayerId};
use crate::inode::{FileBody, Names};
use crate::journal::Edit;
use crate::layer::Layer;
use crate::locks::{self, FsResult, errno};
use crate::pages::{PAGE, Run, page_of, pages_in};
use crate::tree::{Cell, resize};

/// How often a read looks again because the contents were replaced under it.
const READ_ATTEMPTS: usize = 16;

/// What a change of contents has in its hands: the gate is taken, the cell's `io` is locked.
pub(super) struct Change<'a> {
    pub(super) file: FileId,
    pub(super) top: &'a Arc<Layer>,
    pub(super) cell: &'a Cell,
}

impl Branch {
    /// Reads up to `len` bytes into `buffer`; fewer at the end of the file.
    pub(crate) fn read(
        &self,
        file: FileId,
        offset: u64,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> FsResult<()> {
        buffer.resize(len, 0);
        let count = self.read_into(file, offset, buffer)?;
        buffer.truncate(count);
        Ok(())
    }

    /// Reads as much as `buffer` holds, less at the end of the file, and says how much.
    pub(crate) fn read_into(
        &self,
        file: FileId,
        offset: u64,
        buffer: &mut [u8],
    ) -> FsResult<usize> {
        let len = buffer.len() as u64;
        for _ in 0..READ_ATTEMPTS {
            let cell = self.find(file)?;
            let (name, len, runs) = {
                let inode = locks::read(&cell.inode)?;
                let body = inode.file().ok_or(Errno::ISDIR)?;
                let end = offset.saturating_add(len).min(body.size);
                let pages = page_of(offset)..pages_in(end);
                let len = end.saturating_sub(offset);
                (body.data_name(file), len, body.pages.runs(pages).collect::<Vec<_>>())
            };
            let len = usize::try_from(len).unwrap_or(0);
            match self.read_runs(name, &runs, offset, &mut buffer[..len]) {
                // The file was emptied, and its old data removed, since we looked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other.map(|()| len).map_err(|error| errno(&error)),
            }
        }
        Err(Errno::IO)
    }

    fn read_runs(
        &self,
        name: DataName,
        runs: &[Run],
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        if runs.len() > 1 {
            self.fetch_ahead(name, runs)?;
        }
        let mut rest = buffer;
        let mut at = offset;
        for run in runs {
            let wanted = usize::try_from(run.pages.end * PAGE - at).unwrap_or(usize::MAX);
            let (part, after) = rest.split_at_mut(wanted.min(rest.len()));
            match run.layer {
                Some(layer) => {
                    let data = self.media.files.open(layer, name, Open::Existing)?;
                    read_padded(&*data.medium, part, at)?;
                }
                None => part.fill(0),
            }
            at += part.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Lets the disk look for all runs at once. The file systems below read ahead in one file each,
    /// and see only jumps where the pages of a range are spread over several.
    fn fetch_ahead(&self, name: DataName, runs: &[Run]) -> io::Result<()> {
        for run in runs {
            let Some(layer) = run.layer else { continue };
            let data = self.media.files.open(layer, name, Open::Existing)?;
            let bytes = run.pages.start * PAGE..run.pages.end * PAGE;
            data.medium.prefetch(bytes);
        }
        Ok(())
    }

    /// Writes all of `data`.
    pub(crate) fn write(&self, file: FileId, offset: u64, data: &[u8]) -> FsResult<()> {
        self.write_checked(file, offset, data, Self::check_growth)
    }

    /// Writes all of `data`, which the kernel has accepted from Postgres some time ago: neither
    /// limit nor reserve can refuse it any more.
    pub(crate) fn write_held_back(&self, file: FileId, offset: u64, data: &[u8]) -> FsResult<()> {
        self.write_checked(file, offset, data, |_, _, _| Ok(())).inspect_err(|_| self.note_lost())
    }

    fn write_checked(
        &self,
        file: FileId,
        offset: u64,
        data: &[u8],
        check: impl FnOnce(&Self, &Change<'_>, u64) -> FsResult<()>,
    ) -> FsResult<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|end| *end <= FILE_MAX)
            .ok_or(Errno::FBIG)?;
        let gate = self.enter()?;
        let top = gate.open()?;
        let cell = self.find_own(file, top)?;
        let _io = locks::lock(&cell.io)?;
        let change = Change { file, top, cell: &cell };
        check(self, &change, end)?;
        let data_file = self.own_data(&change)?;
        let (name, size) = self.zero_cut_tail(&change, end)?;
        let (start, bytes) = self.whole_pages(&change, offset, data)?;
        let written = write_up_to(&data_file, bytes.as_deref().unwrap_or(data), start);
        top.wrote(name, &data_file).map_err(|error| errno(&error))?;
        let reached = written.as_ref().map_or_else(|stopped| stopped.complete, |end| *end);
        self.mark_written(&change, start..reached)?;
        let done = match written {
            Err(stopped) => Err(stopped),
            Ok(_) if end <= size => return Ok(()),
            Ok(_) => {
                let edit = Edit::Grow { inode: file, size: end, time: now() };
                self.resize_recorded(&change, &edit).map_err(|error| Stopped::at(reached, error))
            }
        };
        done.map_err(|stopped| self.take_back(&change, &data_file, &stopped))
    }

    /// The data file of the top layer, made if there is none yet.
    pub(super) fn own_data(&self, change: &Change<'_>) -> FsResult<Arc<DataFile>> {
        let (name, size, exists) = {
            let inode = locks::read(&change.cell.inode)?;
            let body = inode.file().ok_or(Errno::ISDIR)?;
            (body.data_name(change.file), body.size, body.data.is_some())
        };
        if exists {
            return change.top.data(name).map_err(|error| errno(&error));
        }
        let (data, made) = change.top.create_data(name, size).map_err(|error| errno(&error))?;
        let mut inode = locks::write(&change.cell.inode)?;
        inode.file_mut().ok_or(Errno::ISDIR)?.data = Some(made);
        Ok(data)
    }

    /// Makes it safe to change the file up to `end`: old bytes that a lower layer holds behind the
    /// place where the file was cut are zeroed, durably before any record can make them part of the
    /// file again.
    pub(super) fn zero_cut_tail(&self, change: &Change<'_>, end: u64) -> FsResult<(DataName, u64)> {
        let (name, size, ragged, holder, record) = {
            let inode = locks::read(&change.cell.inode)?;
            let body = inode.file().ok_or(Errno::ISDIR)?;
            let holder = body.pages.layer(page_of(body.size));
            (body.data_name(change.file), body.size, body.ragged, holder, inode.record)
        };
        if !ragged {
            return Ok((name, size));
        }
        let data = self.own_data(change)?;
        let page = page_of(size);
        if let Some(layer) = holder.filter(|layer| *layer != change.top.id) {
            // The cut first: the zeros behind it must not show in a file that was not cut.
            let cut = match record {
                0 => change.top.sync_promised(),
                record => change.top.sync_record(record),
            };
            cut.map_err(|error| errno(&error))?;
            let bytes = self.lower_page(name, layer, page, size)?;
            let written = write_up_to(&data, &bytes[..], page * PAGE);
            change.top.wrote(name, &data).map_err(|error| errno(&error))?;
            written.map_err(|stopped| self.take_back(change, &data, &stopped))?;
            self.mark_written(change, page * PAGE..(page + 1) * PAGE)?;
        }
        if end > size {
            change.top.sync_file(name, &data).map_err(|error| errno(&error))?;
            let made = locks::read(&change.cell.inode)?.file().and_then(|body| body.data);
            change.top.sync_names(made.unwrap_or(Names::FIRST)).map_err(|error| errno(&error))?;
        }
        Ok((name, size))
    }

    /// `data` with what lower layers hold of the pages it covers in part. None if it covers only
    /// whole pages, or pages that no lower layer holds.
    fn whole_pages(
        &self,
        change: &Change<'_>,
        offset: u64,
        data: &[u8],
    ) -> FsResult<(u64, Option<Vec<u8>>)> {
        let end = offset + data.len() as u64;
        let (name, size, head, tail) = {
            let inode = locks::read(&change.cell.inode)?;
            let body = inode.file().ok_or(Errno::ISDIR)?;
            let lower = |at: u64| partly_lower(body, at, change.top.id);
            (body.data_name(change.file), body.size, lower(offset), lower(end))
        };
        if head.is_none() && tail.is_none() {
            return Ok((offset, None));
        }
        let (mut start, mut bytes) = (offset, Vec::new());
        if let Some(layer) = head {
            let page = self.lower_page(name, layer, page_of(offset), size)?;
            start = page_of(offset) * PAGE;
            bytes.extend_from_slice(&page[..within(offset)]);
        }
        bytes.extend_from_slice(data);
        if let Some(layer) = tail {
            let page = self.lower_page(name, layer, page_of(end), size)?;
            bytes.extend_from_slice(&page[within(end)..]);
        }
        Ok((start, Some(bytes)))
    }

    /// One page of a lower layer, zeros past the end of the file.
    fn lower_page(
        &self,
        name: DataName,
        layer: LayerId,
        page: u64,
        size: u64,
    ) -> FsResult<Box<[u8; 4096]>> {
        let mut bytes = Box::new([0; 4096]);
        let start = page * PAGE;
        let visible = usize::try_from(size.saturating_sub(start).min(PAGE)).unwrap_or(0);
        self.media
            .files
            .open(layer, name, Open::Existing)
            .and_then(|data| read_padded(&*data.medium, &mut bytes[..visible], start))
            .map_err(|error| errno(&error))?;
        Ok(bytes)
    }

    /// Undoes what a write did that did not come to its end: past the end of the file and in the
    /// page where it stopped, a restart or a later growth would take it for contents. Returns what
    /// to say about the write.
    fn take_back(&self, change: &Change<'_>, data: &DataFile, stopped: &Stopped) -> Errno {
        let undone = self.undo(change, data, stopped).map_err(|error| errno(&error));
        if let Err(error) = undone {
            self.fail(format!("undo a write that stopped with {}: {error}", stopped.error));
        }
        stopped.error
    }

    fn undo(&self, change: &Change<'_>, data: &DataFile, stopped: &Stopped) -> io::Result<()> {
        let mut inode = locks::write(&change.cell.inode)?;
        let body = inode.file_mut().ok_or(Errno::ISDIR)?;
        let lost = body.drop_past_end(change.top.id);
        change.top.count_pages(0, lost);
        let (name, size) = (body.data_name(change.file), body.size);
        let torn = stopped.torn.filter(|page| body.pages.layer(*page) != Some(change.top.id));
        drop(inode);
        if data.medium.len()? > size {
            data.medium.set_len(size)?;
        }
        if let Some(page) = torn.filter(|page| page * PAGE < size) {
            data.medium.punch(page * PAGE, PAGE)?;
        }
        // Before a record can make it part of the file.
        change.top.sync_file(name, data)
    }

    /// The data file of the top layer holds `range` now.
    fn mark_written(&self, change: &Change<'_>, range: Range<u64>) -> FsResult<()> {
        if range.is_empty() {
            return Ok(());
        }
        let mut inode = locks::write(&change.cell.inode)?;
        inode.touch(now());
        let body = inode.file_mut().ok_or(Errno::ISDIR)?;
        let gained = body.pages.set(page_of(range.start)..pages_in(range.end), change.top.id);
        body.own_pages += gained;
        change.top.count_pages(gained, 0);
        if gained > 0 {
            self.note_size(self.account.unique() + change.top.bytes());
        }
        Ok(())
    }

    /// Records an edit of the file's size and applies it.
    pub(super) fn resize_recorded(&self, change: &Change<'_>, edit: &Edit) -> FsResult<()> {
        let mut inode = locks::write(&change.cell.inode)?;
        let record = change.top.record(edit)?;
        let before = inode.size();
        if resize(&mut inode, edit, change.top.id, record).is_err() {
            self.fail(format!("inode {} does not fit its edit {edit:?}", change.file));
            return Err(Errno::IO);
        }
        if inode.links > 0 {
            self.count_bytes(before, inode.size());
        }
        Ok(())
    }
}

/// The lower layer that holds the page in the middle of which `at` stands.
fn partly_lower(body: &FileBody, at: u64, top: LayerId) -> Option<LayerId> {
    if at.is_multiple_of(PAGE) {
        return None;
    }
    body.pages.layer(page_of(at)).filter(|layer| *layer != top)
}

fn within(offset: u64) -> usize {
    usize::try_from(offset % PAGE).unwrap_or(0)
}

/// A write that did not come to its end.
struct Stopped {
    /// Everything before is written.
    complete: u64,
    /// The page after that, if it is written in part.
    torn: Option<u64>,
    error: Errno,
}

impl Stopped {
    fn at(complete: u64, error: Errno) -> Self {
        Self { complete, torn: None, error }
    }
}

/// Writes `data` at `start` and returns the end.
fn write_up_to(file: &DataFile, data: &[u8], start: u64) -> Result<u64, Stopped> {
    let mut rest = data;
    let mut at = start;
    while !rest.is_empty() {
        let error = match file.medium.write_at(rest, at) {
            Ok(0) => Errno::NOSPC,
            Ok(count) => {
                rest = rest.split_at(count.min(rest.len())).1;
                at += count as u64;
                continue;
            }
            Err(error) => errno(&error),
        };
        let complete = start.max(at - at % PAGE);
        return Err(Stopped { complete, torn: (at != complete).then(|| page_of(at)), error });
    }
    Ok(at)
}
