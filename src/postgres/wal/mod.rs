//! The write-ahead log of a compute lies beside the store, on the host's file system: a directory
//! of its own, which `pg_wal` in the data directory links to. A commit then syncs one file of the
//! host, without a request to the store. Only what is forked has to look after it, and that is
//! here.
//!
//! ```text
//! fork     pin the parent's segments -> the store forks -> copy from the redo position of the
//!          child's own pg_control to the end -> pg_control: no sync before recovery
//!          -> (beside the child's start) sync
//! attach   pg_wal is a link: nothing to do. A directory: what recovery needs is copied out and
//!          made durable, then the link takes its place, durably
//! ```
//!
//! Why this is right though the two are copied one after the other:
//! * Log that is newer than the pages is a later moment of the same history. Pages that are newer
//!   than the log cannot be: Postgres has synced a page's log before it writes the page, and the
//!   log is read after the pages stood still.
//! * Segments that the fork needs may be removed meanwhile, but an open file keeps what it holds;
//!   none gets another name (`wal_recycle = off`).
//! * The store promises that no sync of a branch returns before all that it stands on is durable.
//!   A sync of the log does not pass the store. It need not: a clean shutdown has synced all pages,
//!   and before it recovers from anything else Postgres syncs `pg_control`, which does.
//!
//! Invariants:
//! 1. While `pg_wal` is a directory it is the log, whatever lies beside the store; from the moment
//!    the link is durable, and only then on, Postgres runs on what lies there.
//! 2. A branch is promised to nobody before its log is durable ([`sync`]).

mod control;
mod segment;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::compute::ComputeSpec;
use super::error::PostgresError;
use super::process::Account;
use crate::lsn::Lsn;
use control::Control;
use segment::Shape;

/// In a data directory: the log, or the link to it.
const LINK: &str = "pg_wal";
/// What `pg_wal` was, until it is removed.
const TAKEN_OUT: &str = "pg_wal.taken_out";

/// The segments of a log, held open: whatever becomes of their names, what they hold now stays.
#[derive(Debug)]
pub struct PinnedWal {
    directory: PathBuf,
    segments: BTreeMap<String, File>,
}

impl PinnedWal {
    /// Opens all there are; some tens, as `max_wal_size` bounds them. A log that is not there has
    /// none.
    fn open(directory: &Path) -> io::Result<Self> {
        let mut segments = BTreeMap::new();
        for name in segment::names(directory).or_else(none_if_missing)? {
            match File::open(directory.join(&name)) {
                Ok(file) => drop(segments.insert(name, file)),
                // Removed since the listing: no checkpoint that is still to come needs it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { directory: directory.to_owned(), segments })
    }

    /// Gives a fork, which was made after the segments were pinned and has not been started, the
    /// log it needs. Nothing is durable afterwards.
    pub fn copy_to(&self, child: &ComputeSpec) -> Result<(), PostgresError> {
        let Some(wal_dir) = &child.wal_dir else { return Ok(()) };
        let is_inside = fs::symlink_metadata(child.data_dir.join(LINK)).is_ok_and(|at| at.is_dir());
        if is_inside {
            // Of a parent that has not been started since its log was in the store.
            return Ok(());
        }
        let copied = remove_dir(wal_dir).and_then(|()| {
            let control = Control::read(&child.data_dir)?;
            self.copy(&control, wal_dir, child.account)?;
            control.skip_sync(&child.data_dir)
        });
        copied.map_err(PostgresError::io("copy write-ahead log"))
    }

    fn copy(&self, control: &Control, to: &Path, account: Option<Account>) -> io::Result<()> {
        // Postgres would make the inner one itself, and say so in its log.
        DirBuilder::new().mode(0o700).recursive(true).create(to.join("archive_status"))?;
        let end = self.copy_segments(control, to)?;
        if end <= control.checkpoint {
            let (end, needed) = (end, control.checkpoint);
            let lacking = format!("write-ahead log ends at {end}, recovery begins at {needed}");
            return Err(io::Error::other(lacking));
        }
        own(to, account)
    }

    /// Returns where the log ends.
    fn copy_segments(&self, control: &Control, to: &Path) -> io::Result<Lsn> {
        let (mut at, mut end) = (control.redo, control.redo);
        let Some(shape) = self.shape()? else { return Ok(end) };
        loop {
            let name = shape.name(control.timeline, at);
            let Some(from) = self.segment(&name)? else { return Ok(end) };
            // A segment may end before its last page, where the log was switched to the next.
            let Some(reached) = shape.copy(&from, &to.join(&name), at)? else { return Ok(end) };
            (at, end) = (shape.next_segment(at), reached);
        }
    }

    /// Whether there is log of the page that holds a position.
    fn reaches(&self, timeline: u32, at: Lsn) -> io::Result<bool> {
        let Some(shape) = self.shape()? else { return Ok(false) };
        let Some(segment) = self.segment(&shape.name(timeline, at))? else { return Ok(false) };
        shape.holds(&segment, at)
    }

    fn shape(&self) -> io::Result<Option<Shape>> {
        let mut shapes = self.segments.values().map(Shape::of);
        shapes.find_map(Result::transpose).transpose()
    }

    /// One that was pinned, or has been made since.
    fn segment(&self, name: &str) -> io::Result<Option<File>> {
        if let Some(pinned) = self.segments.get(name) {
            return pinned.try_clone().map(Some);
        }
        match File::open(self.directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }
}

/// Pins the segments of the log of a compute that is to be forked.
pub fn pin(wal_dir: &Path) -> Result<PinnedWal, PostgresError> {
    PinnedWal::open(wal_dir).map_err(PostgresError::io("open write-ahead log"))
}

/// Whether a checkpoint would spare a fork much of its recovery: as many bytes of log were written
/// since the last one began, or that one was of a shutdown, after which a fork syncs everything
/// before it recovers. Asks no session: a create would wait for one. The compute may run.
pub(super) fn wants_checkpoint(spec: &ComputeSpec, log_bytes: u64) -> Result<bool, PostgresError> {
    let wants = Control::read(&spec.data_dir).and_then(|control| {
        if control.is_of_shutdown() {
            return Ok(true);
        }
        let inside = spec.data_dir.join(LINK);
        let log = PinnedWal::open(spec.wal_dir.as_ref().unwrap_or(&inside))?;
        log.reaches(control.timeline, Lsn(control.redo.0.saturating_add(log_bytes)))
    });
    wants.map_err(PostgresError::io("measure write-ahead log"))
}

/// Makes a compute's log durable, with its name. The compute may run.
pub fn sync(wal_dir: &Path) -> Result<(), PostgresError> {
    sync_all(wal_dir).map_err(PostgresError::io("sync write-ahead log"))
}

/// Bytes that a compute's log takes on disk. The compute may run.
pub fn bytes_of(wal_dir: &Path) -> Result<u64, PostgresError> {
    const BLOCK_BYTES: u64 = 512;
    let counted = segment::names(wal_dir).or_else(none_if_missing).and_then(|names| {
        let blocks = |name: String| match fs::metadata(wal_dir.join(name)) {
            // Removed since the listing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            found => found.map(|found| found.blocks()),
        };
        names.into_iter().map(blocks).sum::<io::Result<u64>>()
    });
    Ok(counted.map_err(PostgresError::io("measure write-ahead log"))? * BLOCK_BYTES)
}

/// Removes the log of a compute that is gone for good.
pub fn remove(wal_dir: &Path) -> Result<(), PostgresError> {
    remove_dir(wal_dir).map_err(PostgresError::io("remove write-ahead log"))
}

fn sync_all(wal_dir: &Path) -> io::Result<()> {
    let segments = segment::names(wal_dir).or_else(none_if_missing)?;
    let segments = segments.into_iter().map(|name| wal_dir.join(name));
    let directories = [Some(wal_dir), wal_dir.parent()];
    for path in segments.chain(directories.into_iter().flatten().map(Path::to_owned)) {
        match File::open(path) {
            // Removed since the listing, or a log that is still in the data directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => opened?.sync_all()?,
        }
    }
    Ok(())
}

/// Sees to it that `pg_wal` leads to the log, before a start. No process uses the data directory.
pub(super) fn attach(spec: &ComputeSpec) -> Result<(), PostgresError> {
    let Some(wal_dir) = &spec.wal_dir else { return Ok(()) };
    let link = spec.data_dir.join(LINK);
    let attached = match fs::read_link(&link) {
        Ok(target) if target == *wal_dir => Ok(()),
        // The server's directory was moved.
        Ok(_elsewhere) => fs::remove_file(&link).and_then(|()| make_link(spec, wal_dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_link(spec, wal_dir),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => take_out(spec, wal_dir),
        Err(error) => Err(error),
    };
    attached.map_err(PostgresError::io("attach write-ahead log"))?;
    match own(wal_dir, spec.account) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(PostgresError::WalMissing(wal_dir.clone()))
        }
        owned => owned.map_err(PostgresError::io("attach write-ahead log")),
    }
}

/// Copies the log out of the data directory. Of an attempt that did not come to its end, what lies
/// outside is made anew as long as the directory is there.
fn take_out(spec: &ComputeSpec, wal_dir: &Path) -> io::Result<()> {
    let (inside, taken_out) = (spec.data_dir.join(LINK), spec.data_dir.join(TAKEN_OUT));
    remove_dir(wal_dir)?;
    let control = Control::read(&spec.data_dir)?;
    PinnedWal::open(&inside)?.copy(&control, wal_dir, spec.account)?;
    sync_all(wal_dir)?;
    remove_dir(&taken_out)?;
    fs::rename(&inside, &taken_out)?;
    make_link(spec, wal_dir)
}

/// Makes the link, durably: else a directory that it replaced could come back after the log has
/// gone on outside.
fn make_link(spec: &ComputeSpec, wal_dir: &Path) -> io::Result<()> {
    symlink(wal_dir, spec.data_dir.join(LINK))?;
    File::open(&spec.data_dir)?.sync_all()?;
    remove_dir(&spec.data_dir.join(TAKEN_OUT))
}

/// Gives a log to the account of its compute, whose numbers may have changed.
fn own(wal_dir: &Path, account: Option<Account>) -> io::Result<()> {
    let owner = fs::metadata(wal_dir)?.uid();
    let Some(Account { uid, gid }) = account.filter(|account| account.uid != owner) else {
        return Ok(());
    };
    for entry in fs::read_dir(wal_dir)? {
        chown(entry?.path(), Some(uid), Some(gid))?;
    }
    // Last: a directory that is not its own yet is looked through again.
    chown(wal_dir, Some(uid), Some(gid))
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn none_if_missing(error: io::Error) -> io::Result<Vec<String>> {
    if error.kind() == io::ErrorKind::NotFound { Ok(Vec::new()) } else { Err(error) }
}
