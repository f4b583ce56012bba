//! A store on a real directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use super::{Disk, Found, FoundKind, Medium, Open, Space, read_padded, write_all};
use crate::error::Error;
use crate::pages::PAGE;

/// The directory tree under `root`.
#[derive(Debug)]
pub(crate) struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Checks that holes are reported exactly: recovery learns from them which pages of a layer
    /// were written. A file system that compresses zeros away or rounds holes fails here.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        let path = Path::new("probe");
        let io = |source| Error::Io { doing: "probe", path: self.root.join(path), source };
        let medium = self.open(path, Open::OrCreate).map_err(io)?;
        let pattern = Self::probe_pattern(&*medium).map_err(io);
        self.remove_file(path).map_err(io)?;
        match pattern? {
            Some(detail) => Err(Error::FileSystem { dir: self.root.clone(), detail }),
            None => Ok(()),
        }
    }

    fn probe_pattern(medium: &dyn Medium) -> io::Result<Option<String>> {
        medium.set_len(64 * PAGE)?;
        let zeros = [0; 4096];
        write_all(medium, &zeros, 8 * PAGE)?;
        write_all(medium, &zeros, 40 * PAGE)?;
        let mut byte = [1];
        read_padded(medium, &mut byte, 20 * PAGE)?;
        for synced in [false, true] {
            if synced {
                medium.sync()?;
            }
            let first = medium.next_data(0)?;
            let second = medium.next_data(9 * PAGE)?;
            let third = medium.next_data(41 * PAGE)?;
            let expected = (Some(8 * PAGE..9 * PAGE), Some(40 * PAGE..41 * PAGE), None);
            if (first.clone(), second.clone(), third) != expected {
                return Ok(Some(format!(
                    "a page written at 32768 is reported as {first:?}, one at 163840 as {second:?}"
                )));
            }
        }
        Ok(None)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>> {
        let file = OpenOptions::new()
            .read(true)
            .write(how != Open::Reading)
            .create(how == Open::OrCreate)
            .truncate(false)
            .mode(0o600)
            .open(self.root.join(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(self.root.join(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(self.root.join(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(self.root.join(dir))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>> {
        fs::read_dir(self.root.join(dir))?.map(|entry| found(&entry?)).collect()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.root.join(path))?.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

fn found(entry: &fs::DirEntry) -> io::Result<Found> {
    let about = entry.metadata()?;
    let kind = if about.is_dir() {
        FoundKind::Directory
    } else if about.is_file() {
        FoundKind::File { size: about.len(), links: about.nlink() }
    } else {
        FoundKind::Special
    };
    let (name, mode) = (entry.file_name(), about.mode() & 0o7777);
    Ok(Found { name, mode, modified: about.modified()?, kind })
}

struct RealFile(File);

impl Medium for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn prefetch(&self, range: Range<u64>) {
        let len = NonZeroU64::new(range.end.saturating_sub(range.start));
        if let Err(error) = rustix::fs::fadvise(&self.0, range.start, len, Advice::WillNeed) {
            // The read that follows tells whoever asked.
            tracing::debug!(%error, "read ahead");
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn write_out(&self) {
        // SAFETY: the descriptor is open for as long as the file is borrowed.
        let begun =
            unsafe { libc::sync_file_range(self.0.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
        if begun != 0 {
            // The sync that follows tells whoever asked.
            tracing::debug!(error = %io::Error::last_os_error(), "write out");
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(&self.0, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(start..rustix::fs::seek(&self.0, SeekFrom::Hole(start))?))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::KEEP_SIZE, offset, len)?)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.0, how, offset, len)?)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.0.metadata()?.modified()
    }
}
