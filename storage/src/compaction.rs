//! Compaction of `branches.journal`: what its records add up to takes the place of the records.
//!
//! The state is written to a file beside it and synced while the store goes on. Then, while no
//! record is written, those that came meanwhile are added and the file takes the name; no record
//! counts as durable until that is. So a crash finds the one file or the other, whole.

use std::io;
use std::path::Path;

use crate::disk::{Open, read_padded, write_all};
use crate::holdings::Holdings;
use crate::journal::{Log, LogKind};
use crate::locks;

const JOURNAL: &str = "branches.journal";
const BESIDE: &str = "branches.journal.tmp";

/// A journal is compacted once it holds this many times the records that it needs.
const WASTE_MAX: u64 = 4;

/// Compacts the journal if that is worth it: if it holds more than `least` records. To be called
/// by the keeper alone.
pub(crate) fn compact(holdings: &Holdings, least: u64) -> io::Result<()> {
    let log = &holdings.media.branches;
    let (graph, (records, end)) = {
        let shape = locks::lock(&holdings.shape)?;
        (shape.graph.clone(), log.extent())
    };
    let state: Vec<_> = graph.state().iter().map(crate::journal::BranchEdit::encode).collect();
    if records <= least || records <= WASTE_MAX * state.len() as u64 {
        return Ok(());
    }
    let encoded = state.iter().map(|(kind, payload)| (*kind, payload.as_slice()));
    let (bytes, kept) = Log::compose(LogKind::Branches, encoded)?;
    let disk = &holdings.media.disk;
    let medium = disk.open(Path::new(BESIDE), Open::OrCreate)?;
    medium.set_len(0)?;
    write_all(&*medium, &bytes, 0)?;
    medium.sync()?;
    let old = disk.open(Path::new(JOURNAL), Open::Existing)?;
    log.exchange(
        medium,
        |medium, reached| {
            let mut since = vec![0; usize::try_from(reached - end).map_err(io::Error::other)?];
            read_padded(&*old, &mut since, end)?;
            let (more, count) = Log::renumber(&since, LogKind::Branches, records, kept)?;
            write_all(medium, &more, bytes.len() as u64)?;
            disk.rename(Path::new(BESIDE), Path::new(JOURNAL))?;
            Ok((kept + count, (bytes.len() + more.len()) as u64))
        },
        || disk.sync_dir(Path::new(".")),
    )
}
