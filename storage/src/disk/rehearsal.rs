//! A disk on which a start is rehearsed: it reads what is there and changes nothing.
//!
//! What is removed, cut or made exists only here, so that whoever works on it finds the result of
//! its own changes. Bytes written are dropped: a start writes nothing that it reads again, but for
//! the bare headers of journals that a power cut took.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Disk, Found, Medium, Open, Space};

pub(crate) struct Rehearsal {
    inner: Arc<dyn Disk>,
    changes: Arc<Mutex<Changes>>,
}

#[derive(Default)]
struct Changes {
    removed: BTreeSet<PathBuf>,
    made: BTreeSet<PathBuf>,
    lengths: HashMap<PathBuf, u64>,
}

struct Rehearsed {
    /// None if the file exists only here.
    inner: Option<Arc<dyn Medium>>,
    path: PathBuf,
    changes: Arc<Mutex<Changes>>,
}

impl Rehearsal {
    pub(crate) fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, changes: Arc::default() }
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes {
    fn is_removed(&self, path: &Path) -> bool {
        self.removed.iter().any(|removed| path.starts_with(removed))
    }
}

impl Disk for Rehearsal {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn Medium>> {
        let inner = match self.inner.open(path, Open::Reading) {
            Ok(_) if self.changes().is_removed(path) => None,
            Ok(inner) => Some(inner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if inner.is_none() {
            if how != Open::OrCreate && !self.changes().made.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.changes().made.insert(path.to_path_buf());
        }
        Ok(Arc::new(Rehearsed { inner, path: path.to_path_buf(), changes: self.changes.clone() }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        if self.inner.list(path).is_ok() && !self.changes().is_removed(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.changes().made.insert(path.to_path_buf());
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.open(path, Open::Reading)?;
        self.changes().removed.insert(path.to_path_buf());
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.changes().removed.insert(path.to_path_buf());
        Ok(())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let changes = self.changes();
        let there = match self.inner.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && changes.made.contains(dir) => {
                Vec::new()
            }
            listed => listed?,
        };
        let made = changes.made.iter().filter(|path| path.parent() == Some(dir));
        let made = made.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let kept = there.into_iter().filter(|name| !changes.is_removed(&dir.join(name)));
        let names: BTreeSet<_> = kept.chain(made).collect();
        Ok(names.into_iter().collect())
    }

    fn survey(&self, dir: &Path) -> io::Result<Vec<Found>> {
        self.inner.survey(dir)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

impl Rehearsed {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Medium for Rehearsed {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let visible = self.len()?.saturating_sub(offset).min(buffer.len() as u64);
        let Some(inner) = &self.inner else { return Ok(0) };
        let visible = usize::try_from(visible).unwrap_or(buffer.len());
        inner.read_at(&mut buffer[..visible], offset)
    }

    fn write_at(&self, data: &[u8], _: u64) -> io::Result<usize> {
        Ok(data.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changes().lengths.insert(self.path.clone(), len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let there = self.inner.as_ref().map_or(Ok(0), |inner| inner.len())?;
        Ok(self.changes().lengths.get(&self.path).map_or(there, |len| there.min(*len)))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let Some(inner) = &self.inner else { return Ok(None) };
        let len = self.len()?;
        let found = inner.next_data(from)?.filter(|run| run.start < len);
        Ok(found.map(|run| run.start..run.end.min(len)))
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.inner.as_ref().map_or(Ok(UNIX_EPOCH), |inner| inner.modified())
    }
}
