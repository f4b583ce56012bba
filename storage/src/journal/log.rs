//! An append-only file of checksummed records.
//!
//! The format of header and records is in `record.rs`.
//!
//! Invariants:
//! * A record is in the file (its `write` has returned) before `append` returns, so a killed store
//!   loses nothing. It is on the medium only after `sync_to` returned for its number.
//! * Reading stops at the first record that is torn, damaged or out of sequence. Whatever follows
//!   was never acknowledged as durable; opening for writing cuts it off.
//! * After a failed sync the log is dead: every later append and sync fails.
//! * The log of a sealed layer is closed: it holds no descriptor.
//! * Behind the records of `branches.journal` stand zeros, which are no record. A record that is
//!   written over them changes no metadata of the file, so its sync waits for nothing but itself;
//!   otherwise ext4 would first write what else of the host is in its journal's transaction.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::record::{Entry, HEADER, LogKind, decode, encode};
use crate::disk::{Disk, Medium, Open, read_all, write_all};

/// Zeros that are written at a time, in bytes: some thousand forks.
const PADDING: usize = 64 << 10;

/// An open log.
pub(crate) struct Log {
    /// None once the log is closed.
    medium: RwLock<Option<Arc<dyn Medium>>>,
    kind: LogKind,
    seed: u32,
    /// Serialises appends: file order is sequence order.
    tail: Mutex<Tail>,
    /// Serialises syncs. Waiters find their record synced by the one before them.
    syncing: Mutex<()>,
    appended: AtomicU64,
    synced: AtomicU64,
    failed: AtomicBool,
}

struct Tail {
    end: u64,
    /// Where the zeros behind the records end.
    padded: u64,
    sequence: u64,
    /// How many more records there were since the log was opened than are in the file, which was
    /// compacted meanwhile: its own numbers begin at 1 again.
    dropped: u64,
}

impl Tail {
    /// The end of a file without zeros.
    fn at(end: u64, sequence: u64) -> Self {
        Self { end, padded: end, sequence, dropped: 0 }
    }
}

impl Log {
    /// Opens the log at `path`, making it if it is not there, and shows every record in order to
    /// `accept`. The first one that is refused ends the log like a torn one.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        kind: LogKind,
        mut accept: impl FnMut(Entry<'_>) -> bool,
    ) -> io::Result<Self> {
        let medium = disk.open(path, Open::OrCreate)?;
        let bytes = read_all(&*medium)?;
        let header = kind.header();
        let seed = crc32c::crc32c(&header);
        let mut tail = Tail::at(HEADER as u64, 0);
        if bytes.get(..HEADER) == Some(&header[..]) {
            let mut at = HEADER;
            while let Some((entry, end)) = decode(&bytes, at, seed, tail.sequence + 1) {
                if !accept(entry) {
                    break;
                }
                tail = Tail::at(end as u64, entry.sequence);
                at = end;
            }
            if at != bytes.len() {
                medium.set_len(tail.end)?;
            }
        } else {
            medium.set_len(0)?;
            write_all(&*medium, &header, 0)?;
        }
        Ok(Self {
            medium: RwLock::new(Some(medium)),
            kind,
            seed,
            appended: AtomicU64::new(tail.sequence),
            tail: Mutex::new(tail),
            syncing: Mutex::new(()),
            synced: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        })
    }

    /// A log that is durable up to record `last`, is `bytes` long, and gets no more records.
    pub(crate) fn closed(kind: LogKind, last: u64, bytes: u64) -> Self {
        Self {
            medium: RwLock::new(None),
            kind,
            seed: 0,
            appended: AtomicU64::new(last),
            tail: Mutex::new(Tail::at(bytes, last)),
            syncing: Mutex::new(()),
            synced: AtomicU64::new(last),
            failed: AtomicBool::new(false),
        }
    }

    /// Lets go of the file if every record is durable; there will be no more.
    pub(crate) fn close(&self) {
        if self.synced() == self.appended() {
            *self.medium.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// The file of a closed log was replaced by one of `bytes`, durable up to record `last`.
    pub(crate) fn replaced(&self, bytes: u64, last: u64) {
        *self.tail.lock().unwrap_or_else(PoisonError::into_inner) = Tail::at(bytes, last);
        self.appended.store(last, Ordering::Release);
        self.synced.store(last, Ordering::Release);
    }

    /// Shows every good record to `accept` without opening for writing. Returns the number of the
    /// last one accepted.
    pub(crate) fn scan(
        bytes: &[u8],
        kind: LogKind,
        mut accept: impl FnMut(Entry<'_>) -> bool,
    ) -> u64 {
        let header = kind.header();
        let seed = crc32c::crc32c(&header);
        let mut last = 0;
        if bytes.get(..HEADER) == Some(&header[..]) {
            let mut at = HEADER;
            while let Some((entry, end)) = decode(bytes, at, seed, last + 1) {
                if !accept(entry) {
                    break;
                }
                last = entry.sequence;
                at = end;
            }
        }
        last
    }

    /// All good records.
    pub(crate) fn entries(bytes: &[u8], kind: LogKind) -> Vec<Entry<'_>> {
        let mut entries = Vec::new();
        let header = kind.header();
        let (seed, mut at) = (crc32c::crc32c(&header), HEADER);
        if bytes.get(..HEADER) != Some(&header[..]) {
            return entries;
        }
        while let Some((entry, end)) = decode(bytes, at, seed, entries.len() as u64 + 1) {
            entries.push(entry);
            at = end;
        }
        entries
    }

    /// The bytes of a whole log, and the number of its last record.
    pub(crate) fn compose<'a>(
        kind: LogKind,
        records: impl Iterator<Item = (u8, &'a [u8])>,
    ) -> io::Result<(Vec<u8>, u64)> {
        let mut bytes = kind.header();
        let seed = crc32c::crc32c(&bytes);
        let mut last = 0;
        for (kind, payload) in records {
            last += 1;
            bytes.extend_from_slice(&encode(seed, last, kind, payload)?);
        }
        Ok((bytes, last))
    }

    /// Records that follow number `before` in a file, as they must stand behind number `after` of
    /// another; and how many they are.
    pub(crate) fn renumber(
        bytes: &[u8],
        kind: LogKind,
        before: u64,
        after: u64,
    ) -> io::Result<(Vec<u8>, u64)> {
        let seed = crc32c::crc32c(&kind.header());
        let (mut records, mut count, mut at) = (Vec::new(), 0, 0);
        while let Some((entry, end)) = decode(bytes, at, seed, before + count + 1) {
            count += 1;
            records.extend_from_slice(&encode(seed, after + count, entry.kind, entry.payload)?);
            at = end;
        }
        if at == bytes.len() {
            Ok((records, count))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Writes one record and returns its number. On an error the log is as before.
    pub(crate) fn append(&self, kind: u8, payload: &[u8]) -> io::Result<u64> {
        let mut tail = self.tail.lock().map_err(|_| poisoned())?;
        self.check()?;
        let sequence = tail.sequence + 1;
        let record = encode(self.seed, sequence - tail.dropped, kind, payload)?;
        let end = tail.end + record.len() as u64;
        let medium = self.medium()?;
        if self.kind == LogKind::Branches && end > tail.padded {
            tail.padded = self.pad(&*medium, &tail)?;
        }
        if let Err(error) = write_all(&*medium, &record, tail.end) {
            self.undo(&*medium, &mut tail);
            return Err(error);
        }
        *tail = Tail { end, sequence, ..*tail };
        self.appended.store(sequence, Ordering::Release);
        Ok(sequence)
    }

    /// Writes zeros behind the records and returns where they end. A full disk has room for the
    /// record perhaps, so zeros that cannot be written are no error.
    fn pad(&self, medium: &dyn Medium, tail: &Tail) -> io::Result<u64> {
        match write_all(medium, &[0; PADDING], tail.end) {
            Ok(()) => Ok(tail.end + PADDING as u64),
            Err(_) => {
                medium.set_len(tail.end).inspect_err(|_| self.die())?;
                Ok(tail.end)
            }
        }
    }

    /// Cuts off what a failed write left.
    fn undo(&self, medium: &dyn Medium, tail: &mut Tail) {
        tail.padded = tail.end;
        if medium.set_len(tail.end).is_err() {
            self.die();
        }
    }

    fn die(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// How many records are in the file, and how long it is.
    pub(crate) fn extent(&self) -> (u64, u64) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        (tail.sequence - tail.dropped, tail.end)
    }

    /// Puts another file in the place of this one: `publish` gives it its name, with the records
    /// that came meanwhile, up to the place it is told, while none is written, and says how many
    /// records it holds and how long it is; `settle` makes its name durable. No record counts as
    /// durable in between.
    pub(crate) fn exchange(
        &self,
        medium: Arc<dyn Medium>,
        publish: impl FnOnce(&dyn Medium, u64) -> io::Result<(u64, u64)>,
        settle: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let _guard = self.syncing.lock().map_err(|_| poisoned())?;
        self.check()?;
        let reached = {
            let mut tail = self.tail.lock().map_err(|_| poisoned())?;
            let (records, end) = publish(&*medium, tail.end)?;
            (tail.end, tail.padded) = (end, end);
            tail.dropped = tail.sequence.saturating_sub(records);
            *self.medium.write().map_err(|_| poisoned())? = Some(medium.clone());
            tail.sequence
        };
        if let Err(error) = medium.sync().and_then(|()| settle()) {
            self.failed.store(true, Ordering::Release);
            return Err(error);
        }
        self.synced.store(reached, Ordering::Release);
        Ok(())
    }

    /// The number of the last record written.
    pub(crate) fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// The number of the last record known to be on the medium.
    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Bytes in the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).end
    }

    /// Makes records up to `sequence` durable. Callers that meet share one sync.
    pub(crate) fn sync_to(&self, sequence: u64) -> io::Result<()> {
        if self.synced() >= sequence {
            return self.check();
        }
        let _guard = self.syncing.lock().map_err(|_| poisoned())?;
        self.check()?;
        if self.synced() >= sequence {
            return Ok(());
        }
        let reached = self.appended();
        if let Err(error) = self.medium()?.sync() {
            self.failed.store(true, Ordering::Release);
            return Err(error);
        }
        self.synced.store(reached, Ordering::Release);
        Ok(())
    }

    fn medium(&self) -> io::Result<Arc<dyn Medium>> {
        let medium = self.medium.read().map_err(|_| poisoned())?;
        medium.clone().ok_or_else(|| io::Error::other("the journal is closed"))
    }

    fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier write or sync of this journal failed"));
        }
        Ok(())
    }
}

fn poisoned() -> io::Error {
    io::Error::other("a writer of this journal panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::tests::TempDir;

    const KIND: LogKind = LogKind::Layer(9);

    fn read(disk: &RealDisk) -> (Log, Vec<Vec<u8>>) {
        let mut payloads = Vec::new();
        let log = Log::open(disk, Path::new("log"), KIND, |entry| {
            payloads.push(entry.payload.to_vec());
            true
        });
        (log.unwrap(), payloads)
    }

    #[test]
    fn any_truncation_leaves_a_prefix_that_can_be_continued() {
        let dir = TempDir::new();
        let disk = RealDisk::new(dir.path());
        let (log, _) = read(&disk);
        let mut ends = vec![log.bytes()];
        for len in 0..6u8 {
            log.append(len, &vec![len; usize::from(len) * 3]).unwrap();
            ends.push(log.bytes());
        }
        let whole = std::fs::read(dir.path().join("log")).unwrap();
        for len in 0..=whole.len() {
            std::fs::write(dir.path().join("log"), &whole[..len]).unwrap();
            let complete = ends.iter().filter(|end| **end <= len as u64).count().max(1) - 1;
            let (log, payloads) = read(&disk);
            assert_eq!(payloads.len(), complete, "cut at {len}");
            assert_eq!(log.append(1, b"next").unwrap(), complete as u64 + 1);
            let (_, payloads) = read(&disk);
            assert_eq!(payloads.last().map(Vec::as_slice), Some(&b"next"[..]));
        }
    }

    #[test]
    fn zeros_behind_the_branches_are_no_record() {
        let dir = TempDir::new();
        let disk = RealDisk::new(dir.path());
        let open = || Log::open(&disk, Path::new("log"), LogKind::Branches, |_| true).unwrap();
        let len = || std::fs::metadata(dir.path().join("log")).unwrap().len();
        let log = open();
        log.append(1, b"one").unwrap();
        let padded = len();
        assert!(padded > log.bytes());
        log.append(2, b"two").unwrap();
        assert_eq!(len(), padded, "written over zeros");
        log.append(3, &[7; PADDING]).unwrap();
        let again = open();
        assert_eq!((again.appended(), again.bytes()), (3, log.bytes()));
        assert_eq!(again.append(4, b"").unwrap(), 4);
    }

    #[test]
    fn a_flipped_bit_ends_the_log_before_it() {
        let dir = TempDir::new();
        let disk = RealDisk::new(dir.path());
        let (log, _) = read(&disk);
        log.append(1, b"one").unwrap();
        let first = log.bytes();
        log.append(2, b"two").unwrap();
        let whole = std::fs::read(dir.path().join("log")).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut count = 0;
            Log::scan(&flipped, KIND, |_| {
                count += 1;
                true
            });
            let expected = match (bit / 8) as u64 {
                at if at < HEADER as u64 => 0,
                at if at < first => 0,
                _ => 1,
            };
            assert_eq!(count, expected, "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_another_layer_does_not_count() {
        let dir = TempDir::new();
        let disk = RealDisk::new(dir.path());
        read(&disk).0.append(1, b"one").unwrap();
        let bytes = std::fs::read(dir.path().join("log")).unwrap();
        assert_eq!(Log::scan(&bytes, KIND, |_| true), 1);
        assert_eq!(Log::scan(&bytes, LogKind::Layer(8), |_| true), 0);
    }
}
