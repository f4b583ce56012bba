//! Segments of a write-ahead log: their names, and which of their pages hold log.
//!
//! A segment's name is `TTTTTTTTHHHHHHHHLLLLLLLL`, all hexadecimal: timeline, then the position
//! divided by the segment's size, in units of segments of 4 GiB. A page (`xlog_internal.h`):
//!
//! | byte | what |
//! |---|---|
//! | 8..16 | position of the page's first byte |
//! | 32..36 | size of a segment (first page of a segment only) |
//! | 36..40 | size of a page (first page of a segment only) |
//!
//! All little-endian, as on every host that Ardent runs on. A page whose position is another holds
//! no log: it was never written, or its file had another name then.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::lsn::Lsn;

/// Bytes of the header of a segment's first page that are looked at.
const HEADER_BYTES: usize = 40;

/// A segment is a power of two of bytes between these.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// As much is read at once. Most forks need some hundred KiB, and what lies behind them is a hole.
const CHUNK_BYTES: usize = 128 << 10;

/// How one log is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    segment_bytes: u64,
    page_bytes: u64,
}

impl Shape {
    /// As the first page of a segment that begins at some position says; none where that page
    /// holds no log.
    pub(super) fn of(segment: &File) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        match segment.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let segment_bytes = u64::from(half(&header, 32));
        let page_bytes = u64::from(half(&header, 36));
        let is_whole = segment_bytes.is_power_of_two()
            && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            && page_bytes.is_power_of_two()
            && (1024..=65536).contains(&page_bytes)
            && position(&header).0.is_multiple_of(segment_bytes);
        Ok(is_whole.then_some(Self { segment_bytes, page_bytes }))
    }

    /// The segment's name that holds a position.
    pub(super) fn name(self, timeline: u32, at: Lsn) -> String {
        let (number, each) = (at.0 / self.segment_bytes, (1 << 32) / self.segment_bytes);
        format!("{timeline:08X}{:08X}{:08X}", number / each, number % each)
    }

    fn segment_start(self, at: Lsn) -> Lsn {
        Lsn(at.0 / self.segment_bytes * self.segment_bytes)
    }

    pub(super) fn next_segment(self, at: Lsn) -> Lsn {
        Lsn(self.segment_start(at).0.saturating_add(self.segment_bytes))
    }

    fn page_start(self, at: Lsn) -> Lsn {
        Lsn(at.0 / self.page_bytes * self.page_bytes)
    }

    /// Whether a segment has log of the page that holds a position.
    pub(super) fn holds(self, segment: &File, at: Lsn) -> io::Result<bool> {
        let page = self.page_start(at);
        let mut header = [0; HEADER_BYTES];
        let read = read_up_to(segment, &mut header, page.0 - self.segment_start(at).0)?;
        Ok(read == header.len() && position(&header) == page)
    }

    /// Copies the log of one segment from a position on, and the segment's first page, without
    /// which nothing in it can be read. Returns where the log ends in it; none where the segment
    /// holds none.
    pub(super) fn copy(self, from: &File, to: &Path, at: Lsn) -> io::Result<Option<Lsn>> {
        let start = self.segment_start(at);
        let mut first = vec![0; self.page_bytes.try_into().map_err(io::Error::other)?];
        if read_up_to(from, &mut first, 0)? < first.len() || position(&first) != start {
            return Ok(None);
        }
        let copy = File::options().write(true).create_new(true).mode(0o600).open(to)?;
        // The rest is a hole. Postgres expects whole segments.
        copy.set_len(self.segment_bytes)?;
        copy.write_all_at(&first, 0)?;
        self.copy_pages(from, &copy, start, self.page_start(at)).map(Some)
    }

    fn copy_pages(self, from: &File, to: &File, start: Lsn, at: Lsn) -> io::Result<Lsn> {
        let page_bytes: usize = self.page_bytes.try_into().map_err(io::Error::other)?;
        let mut chunk = vec![0; CHUNK_BYTES.max(page_bytes)];
        let mut at = at;
        loop {
            let offset = at.0 - start.0;
            let read = read_up_to(from, &mut chunk, offset)?;
            let pages = chunk[..read].chunks_exact(page_bytes);
            let expected = (at.0..).step_by(page_bytes);
            let log = pages.zip(expected).take_while(|(page, at)| position(page) == Lsn(*at));
            let bytes = log.count() * page_bytes;
            to.write_all_at(&chunk[..bytes], offset)?;
            at = Lsn(at.0 + bytes as u64);
            if bytes < chunk.len() || at.0 - start.0 >= self.segment_bytes {
                return Ok(at);
            }
        }
    }
}

/// Whether a file's name is that of a segment.
fn is_name(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
}

/// Names of the segments in a directory.
pub(super) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| is_name(name)).collect())
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn position(page: &[u8]) -> Lsn {
    Lsn(u64::from(half(page, 12)) << 32 | u64::from(half(page, 8)))
}

fn half(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}
