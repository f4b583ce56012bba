//! Compaction of journals that grow for as long as the store, or a branch, lives: what the records
//! add up to takes their place. For `branches.journal` that is the tree of branches as it stands;
//! for the journal of a branch's top layer, the records less what came and went.
//!
//! The new file is written beside the old one and synced while the store goes on. Then, while no
//! record is written, those that came meanwhile are added and the file takes the name; no record
//! counts as durable until that is. So a crash finds the one file or the other, whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Disk, Medium, Open, read_padded, write_all};
use crate::files::layer_dir;
use crate::holdings::Holdings;
use crate::inode::Names;
use crate::journal::{BranchEdit, Log, LogKind, shorten};
use crate::layer::Layer;
use crate::locks;
use crate::manifest::JOURNAL;

/// A journal is compacted once it holds this many times the records that it needs.
const WASTE_MAX: u64 = 4;

/// Compacts `branches.journal` if that is worth it: if it holds more than `least` records. To be
/// called by the keeper alone.
pub(crate) fn compact_branches(holdings: &Holdings, least: u64) -> io::Result<()> {
    let log = &holdings.media.branches;
    let (graph, extent) = {
        let shape = locks::lock(&holdings.shape)?;
        (shape.graph.clone(), log.extent())
    };
    let state: Vec<_> = graph.state().iter().map(BranchEdit::encode).collect();
    if extent.0 <= least || extent.0 <= WASTE_MAX * state.len() as u64 {
        return Ok(());
    }
    let records = state.iter().map(|(kind, payload)| (*kind, payload.as_slice()));
    let disk = &*holdings.media.disk;
    let compaction = Compaction { log, disk, dir: PathBuf::from("."), name: "branches.journal" };
    compaction.write(LogKind::Branches, records, extent)?.publish()
}

/// Compacts the journal of the top of a branch if that is worth it, as above.
pub(crate) fn compact_top(holdings: &Holdings, layer: &Layer, least: u64) -> io::Result<()> {
    let (log, disk, kind) = (&layer.journal, &*holdings.media.disk, LogKind::Layer(layer.id.get()));
    let extent = log.extent();
    if extent.0 <= least.max(WASTE_MAX * layer.records_needed.load(Ordering::Relaxed)) {
        return Ok(());
    }
    let compaction = Compaction { log, disk, dir: layer_dir(layer.id), name: JOURNAL };
    let bytes = compaction.read(0..extent.1)?;
    let entries = Log::entries(&bytes, kind);
    if entries.len() as u64 != extent.0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record does not read well"));
    }
    let is_lowest = locks::lock(&holdings.shape)?.graph.base(layer.id).is_none();
    let left = shorten(&entries, is_lowest);
    layer.records_needed.store(left.len() as u64, Ordering::Relaxed);
    if extent.0 <= WASTE_MAX * left.len() as u64 {
        return Ok(());
    }
    layer.sync_names(Names::FIRST)?;
    let written = compaction.write(kind, left.iter().map(|(kind, it)| (*kind, &**it)), extent)?;
    // Once it is frozen, its bytes count for several branches.
    let _shape = locks::lock(&holdings.shape)?;
    if layer.frozen().is_some() { Ok(()) } else { written.publish() }
}

/// A journal that is to be compacted, by its place in the store.
struct Compaction<'a> {
    log: &'a Log,
    disk: &'a dyn Disk,
    dir: PathBuf,
    name: &'a str,
}

/// The new file, beside the old one.
struct Written<'a> {
    compaction: Compaction<'a>,
    kind: LogKind,
    medium: Arc<dyn Medium>,
    /// Its records, and how long it is.
    holds: (u64, u64),
    /// The same of the old one, when what it adds up to was taken.
    stands_for: (u64, u64),
}

impl<'a> Compaction<'a> {
    fn read(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let old = self.disk.open(&self.dir.join(self.name), Open::Existing)?;
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        read_padded(&*old, &mut bytes, range.start)?;
        Ok(bytes)
    }

    fn beside(&self) -> PathBuf {
        self.dir.join(format!("{}.tmp", self.name))
    }

    fn write<'r>(
        self,
        kind: LogKind,
        records: impl Iterator<Item = (u8, &'r [u8])>,
        stands_for: (u64, u64),
    ) -> io::Result<Written<'a>> {
        let (bytes, kept) = Log::compose(kind, records)?;
        let medium = self.disk.open(&self.beside(), Open::OrCreate)?;
        medium.set_len(0)?;
        write_all(&*medium, &bytes, 0)?;
        medium.sync()?;
        let holds = (kept, bytes.len() as u64);
        Ok(Written { compaction: self, kind, medium, holds, stands_for })
    }
}

impl Written<'_> {
    fn publish(self) -> io::Result<()> {
        let Self { compaction, kind, medium, holds: (kept, len), stands_for: (records, end) } =
            self;
        let Compaction { log, disk, dir, name } = &compaction;
        log.exchange(
            medium,
            |medium, reached| {
                let since = compaction.read(end..reached)?;
                let (more, count) = Log::renumber(&since, kind, records, kept)?;
                write_all(medium, &more, len)?;
                disk.rename(&compaction.beside(), &dir.join(name))?;
                Ok((kept + count, len + more.len() as u64))
            },
            || disk.sync_dir(dir),
        )
    }
}
