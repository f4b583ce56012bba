//! Merging: a sealed layer takes in the sealed layer above it if nothing else stands on it.
//!
//! So chains stay short however often a branch is forked and the forks are deleted. What happens
//! for a lower layer L and an upper layer U, in this order:
//! 1. The pages of U are copied into the data files of L, at their own offsets, and synced file by
//!    file. Data files of L that are longer than the file is in U are cut, and pages that U hides
//!    are given back. Nobody misses them: only U stands on L, and shows none of it.
//! 2. One journal and one manifest for both are written to L's directory under U's number, and
//!    synced with the directory. Nothing reads them yet. Where the identity filter lies between the
//!    two, a record says at which place it takes effect.
//! 3. The merge is recorded in `branches.journal`: from here on L's files with U's number count,
//!    and what stood on U stands on L. Before, both layers are what they were: L's old manifest
//!    does not speak of what was added, and U's pages hide what was overwritten.
//! 4. When the record is durable, U's directory and L's former journal and manifest are removed.
//!
//! Page maps in memory keep U's number; `files` knows that L has its pages. Data that only an open
//! file without a name still shows is in no manifest, so a merge that would remove it waits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::iter::successors;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Open, read_all, read_padded, write_all};
use crate::files::layer_dir;
use crate::holdings::{Holdings, Shape};
use crate::id::{DataName, FileId, LayerId};
use crate::journal::{BranchEdit, Edit, Entry, Log, LogKind, shorten};
use crate::layer::{Layer, Media, Sealed};
use crate::load::{data_names, sweep, written_pages};
use crate::locks;
use crate::manifest::{DataPages, JOURNAL, Manifest, face_path};
use crate::pages::{PAGE, pages_in};
use crate::ranges::outside;
use crate::tree::Tree;

/// Most bytes that are copied in one step.
const STEP: u64 = 1 << 20;

/// Two layers to be merged.
pub(crate) struct Pair {
    lower: Arc<Layer>,
    pub(crate) upper: Arc<Layer>,
    /// Which files of each count.
    lower_face: LayerId,
    upper_face: LayerId,
    /// The identity filter lies between them.
    filtered: bool,
    /// Nothing lies below them.
    is_lowest: bool,
}

/// A data file of the merged layer.
struct Merged {
    pages: DataPages,
    size: u64,
    /// Whether the upper layer changed it in any way. The others are not even opened.
    changed: bool,
    /// The pages among them that the upper layer holds.
    copied: Vec<Range<u64>>,
}

/// The pair that costs least to merge, among those in runs of more than `run_max` layers that could
/// all be merged into one. Of about equal costs it is the lowest: so of many small layers one takes
/// in all others, each page is copied once, and none is kept in several of them. Layers `skipped`
/// are not taken for upper ones.
pub(crate) fn pick(
    holdings: &Holdings,
    run_max: usize,
    skipped: &HashSet<LayerId>,
) -> Option<Pair> {
    let shape = locks::lock(&holdings.shape).ok()?;
    let is_sealed = |id| shape.layers.get(&id).is_some_and(|layer| layer.is_sealed());
    let may_merge =
        |lower, upper| is_sealed(lower) && is_sealed(upper) && !skipped.contains(&upper);
    let pairs = shape.graph.single_users().filter(|(lower, upper)| may_merge(*lower, *upper));
    let upper_of: BTreeMap<LayerId, LayerId> = pairs.collect();
    let uppers: HashSet<LayerId> = upper_of.values().copied().collect();
    let lowest = upper_of.keys().filter(|layer| !uppers.contains(layer));
    let next = |lower: &LayerId| upper_of.get(lower).copied();
    let runs = lowest.map(|lowest| successors(Some(*lowest), next).collect::<Vec<_>>());
    runs.filter(|run| run.len() > run_max)
        .flatten()
        .filter_map(|lower| pair(&shape, lower, next(&lower)?))
        .min_by_key(|pair| (pair.upper.bytes() + pair.lower.metadata_bytes()).checked_ilog2())
}

fn pair(shape: &Shape, lower: LayerId, upper: LayerId) -> Option<Pair> {
    Some(Pair {
        lower: shape.layers.get(&lower)?.clone(),
        upper: shape.layers.get(&upper)?.clone(),
        lower_face: shape.graph.face(lower)?,
        upper_face: shape.graph.face(upper)?,
        filtered: shape.graph.is_filtered(upper),
        is_lowest: shape.graph.base(lower).is_none(),
    })
}

/// Merges the pair. False if that must wait.
pub(crate) fn merge(holdings: &Holdings, pair: &Pair) -> io::Result<bool> {
    let Some(tree) = pair.upper.frozen() else { return Ok(false) };
    let (merged, gone) = plan(&holdings.media, pair, &tree)?;
    if holdings.any_orphan(&gone) {
        return Ok(false);
    }
    for file in merged.iter().filter(|file| file.changed) {
        if pair.upper.is_abandoned() {
            return Ok(false);
        }
        copy(&holdings.media, pair, file)?;
    }
    let (journal_bytes, last_record) = write_journal(&holdings.media, pair)?;
    let files: Vec<_> = merged.into_iter().map(|file| file.pages).collect();
    let manifest = Manifest { layer: pair.lower.id, last_record, files };
    let manifest_bytes = manifest.publish(&*holdings.media.disk, pair.upper.id)?;
    let sealed = Sealed { pages: manifest.pages(), manifest_bytes };
    let Some(record) = commit(holdings, pair, (journal_bytes, last_record), sealed)? else {
        return Ok(false);
    };
    holdings.media.branches.sync_to(record)?;
    holdings.media.files.forget_layer(pair.upper.id);
    holdings.media.disk.remove_dir_all(&layer_dir(pair.upper.id))?;
    sweep(&pair.lower, &manifest, pair.upper.id)?;
    Ok(true)
}

/// The data files that the merged layer will have, and the inodes of those that it will not.
fn plan(media: &Media, pair: &Pair, tree: &Tree) -> io::Result<(Vec<Merged>, Vec<FileId>)> {
    let names: BTreeSet<_> =
        data_names(&pair.lower)?.into_iter().chain(data_names(&pair.upper)?).collect();
    let (mut merged, mut gone) = (Vec::new(), Vec::new());
    for name in names {
        match plan_file(media, pair, tree, name)? {
            Some(file) => merged.push(file),
            None => gone.push(name.inode),
        }
    }
    Ok((merged, gone))
}

fn plan_file(
    media: &Media,
    pair: &Pair,
    tree: &Tree,
    name: DataName,
) -> io::Result<Option<Merged>> {
    let Some(cell) = tree.cell(name.inode) else { return Ok(None) };
    let inode = locks::read(&cell.inode)?;
    let Some(body) = inode.file().filter(|body| body.contents == name.contents) else {
        return Ok(None);
    };
    let (mut runs, mut copied): (Vec<Range<u64>>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
    for run in body.pages.runs(0..pages_in(body.size)) {
        let holder = run.layer.map(|layer| media.files.resolve(layer));
        if holder == Some(pair.upper.id) {
            join(&mut copied, run.pages.clone());
        }
        if holder == Some(pair.upper.id) || holder == Some(pair.lower.id) {
            join(&mut runs, run.pages);
        }
    }
    let pages = DataPages { name, modified: inode.modified, runs };
    let changed = media.files.resolve(cell.layer) == pair.upper.id;
    Ok(Some(Merged { pages, size: body.size, changed, copied }))
}

/// Adds a run, joined with the last one if they touch.
fn join(runs: &mut Vec<Range<u64>>, run: Range<u64>) {
    match runs.last_mut() {
        Some(last) if last.end == run.start => last.end = run.end,
        _ => runs.push(run),
    }
}

/// Brings one data file of the lower layer to what it must hold, durably.
fn copy(media: &Media, pair: &Pair, file: &Merged) -> io::Result<()> {
    let name = file.pages.name;
    let target = media.files.open(pair.lower.id, name, Open::OrCreate)?;
    if target.medium.len()? > file.size {
        target.medium.set_len(file.size)?;
    }
    for run in &file.copied {
        let source = media.files.open(pair.upper.id, name, Open::Existing)?;
        let end = (run.end * PAGE).min(file.size);
        let mut at = run.start * PAGE;
        while at < end {
            let len = STEP.min(end - at);
            let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            read_padded(&*source.medium, &mut bytes, at)?;
            write_all(&*target.medium, &bytes, at)?;
            at += len;
        }
    }
    // What the upper layer cut away and did not write again.
    let written = written_pages(&*target.medium)?;
    for run in outside(&written, &file.pages.runs) {
        target.medium.punch(run.start * PAGE, (run.end - run.start) * PAGE)?;
    }
    // Also if nothing was done: an attempt that a crash ended may have cut it and not got here.
    target.medium.sync()
}

/// Writes the journal of both. Returns its length and the number of its last record.
fn write_journal(media: &Media, pair: &Pair) -> io::Result<(u64, u64)> {
    let read = |layer: &Layer, face| {
        let path = face_path(layer.id, face, JOURNAL);
        read_all(&*media.disk.open(&path, Open::Existing)?)
    };
    let lower = read(&pair.lower, pair.lower_face)?;
    let upper = read(&pair.upper, pair.upper_face)?;
    let mut both = entries(media, &lower, (pair.lower.id, pair.lower_face))?;
    let (kind, payload) = Edit::Filter.encode();
    if pair.filtered {
        both.push(Entry { sequence: 0, kind, payload: &payload });
    }
    both.append(&mut entries(media, &upper, (pair.upper.id, pair.upper_face))?);
    let records = shorten(&both, pair.is_lowest);
    let kind = LogKind::Layer(pair.lower.id.get());
    let records = records.iter().map(|(kind, payload)| (*kind, &**payload));
    let (bytes, last) = Log::compose(kind, records)?;
    let path = face_path(pair.lower.id, pair.upper.id, JOURNAL);
    let medium = media.disk.open(&path, Open::OrCreate)?;
    medium.set_len(0)?;
    write_all(&*medium, &bytes, 0)?;
    medium.sync()?;
    Ok((bytes.len() as u64, last))
}

/// The records of a sealed layer's journal, as many as its manifest says there are.
fn entries<'a>(
    media: &Media,
    bytes: &'a [u8],
    (layer, face): (LayerId, LayerId),
) -> io::Result<Vec<Entry<'a>>> {
    let entries = Log::entries(bytes, LogKind::Layer(layer.get()));
    let last = Manifest::read(&*media.disk, layer, face)?.map(|manifest| manifest.last_record);
    if last == Some(entries.len() as u64) {
        return Ok(entries);
    }
    let text = format!("the journal of layer {layer} and its manifest do not fit");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Records the merge, if it still fits, and makes it so in memory. Returns the record.
fn commit(
    holdings: &Holdings,
    pair: &Pair,
    journal: (u64, u64),
    sealed: Sealed,
) -> io::Result<Option<u64>> {
    let (lower, upper) = (pair.lower.id, pair.upper.id);
    let mut shape = locks::lock(&holdings.shape)?;
    let edit = BranchEdit::Merge { lower, upper };
    if shape.graph.check(&edit).is_err() {
        return Ok(None);
    }
    let (kind, payload) = edit.encode();
    let record = holdings.media.branches.append(kind, &payload)?;
    shape.graph.apply(&edit).map_err(|_| io::Error::other("a merge that was checked"))?;
    let before = pair.lower.bytes() + pair.upper.bytes();
    pair.lower.absorb(&pair.upper, journal, sealed);
    shape.resized(&pair.lower, before);
    if shape.graph.base(lower).is_none() {
        pair.lower.forget_frozen();
    }
    shape.layers.remove(&upper);
    holdings.media.files.merge(lower, upper);
    Ok(Some(record))
}
