//! Brings a layer back from disk: its namespace, and which pages it holds.
//!
//! A sealed layer is described by its journal and its manifest; if they do not agree it is damaged.
//! Of any other layer the journal counts as far as it reads well and fits, for nothing behind that
//! was ever acknowledged; the holes of its data files say which pages were written; and nothing of
//! it is taken to be durable.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Medium, Open, read_all};
use crate::error::Error;
use crate::files::layer_dir;
use crate::filter::strip;
use crate::graph::LayerNode;
use crate::id::{DataName, FileId, LayerId};
use crate::inode::{Names, nanoseconds};
use crate::journal::{Edit, Entry, Log, LogKind};
use crate::layer::{Layer, Media, Sealed};
use crate::locks;
use crate::manifest::{DataPages, JOURNAL, MANIFEST, Manifest, face_name, face_path};
use crate::pages::{PAGE, page_of, pages_in};
use crate::tree::Tree;

/// A layer and the namespace of a branch that stands on it.
pub(crate) struct Loaded {
    pub(crate) layer: Arc<Layer>,
    pub(crate) tree: Tree,
    pub(crate) sealed: bool,
}

/// Loads layer `id`, which lies on `base` and is the top of a branch if `open`.
pub(crate) fn load(
    media: &Arc<Media>,
    id: LayerId,
    node: &LayerNode,
    base: Option<&Loaded>,
    open: bool,
) -> Result<Loaded, Error> {
    let fault = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData => {
            Error::Damaged { path: layer_dir(id), detail: source.to_string() }
        }
        _ => Error::Io { doing: "load layer", path: layer_dir(id), source },
    };
    let mut tree = base.map_or_else(|| Tree::new(id, 0), |base| base.tree.clone());
    if node.filtered {
        strip(&mut tree, id);
    }
    let manifest = if open {
        discard_manifest(media, id).map_err(fault)?;
        None
    } else {
        Manifest::read(&*media.disk, id, node.face).map_err(fault)?
    };
    if manifest.is_none() && node.face != id {
        let detail = format!("it was merged with layer {} and has no manifest", node.face);
        return Err(Error::Damaged { path: layer_dir(id), detail });
    }
    let below = base.map(|base| base.layer.clone()).filter(|layer| !layer.is_durable());
    let journal =
        open_journal(media, (id, node.face), &mut tree, manifest.as_ref()).map_err(fault)?;
    let layer = Arc::new(Layer::new(id, media.clone(), journal, 0, below));
    // The root of a first layer, what the filter hid, and what the journal changed.
    if node.base.is_none() || node.filtered || layer.journal.appended() > 0 {
        layer.touch();
    }
    let sealed = manifest.is_some();
    match manifest {
        Some(manifest) => {
            restore_sealed(&layer, &mut tree, &manifest).map_err(fault)?;
            sweep(&layer, &manifest, node.face).map_err(fault)?;
            layer.set_durable();
            let manifest_bytes = manifest.encode().len() as u64;
            layer.set_sealed(Sealed { pages: manifest.pages(), manifest_bytes });
            if node.base.is_some() {
                layer.freeze(tree.clone(), 0);
            }
        }
        None => {
            restore_unsealed(&layer, &mut tree).map_err(fault)?;
            if !open {
                layer.freeze(tree.clone(), 0);
            }
        }
    }
    Ok(Loaded { layer, tree, sealed })
}

/// A top has no manifest. Stores of earlier versions could publish one before the fork that froze
/// the layer was durable.
fn discard_manifest(media: &Media, id: LayerId) -> io::Result<()> {
    match media.disk.remove_file(&layer_dir(id).join(MANIFEST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => media.disk.sync_dir(&layer_dir(id)),
        other => other,
    }
}

/// Makes the directory and the journal of a new layer.
pub(crate) fn prepare(media: &Media, id: LayerId) -> io::Result<Log> {
    media.disk.create_dir(&layer_dir(id))?;
    Log::open(&*media.disk, &layer_dir(id).join(JOURNAL), LogKind::Layer(id.get()), |_| false)
}

fn open_journal(
    media: &Media,
    (id, face): (LayerId, LayerId),
    tree: &mut Tree,
    manifest: Option<&Manifest>,
) -> io::Result<Log> {
    let path = face_path(id, face, JOURNAL);
    let kind = LogKind::Layer(id.get());
    let apply = |tree: &mut Tree, entry: Entry<'_>| match Edit::decode(&entry) {
        Ok(Edit::Filter) => {
            strip(tree, id);
            true
        }
        Ok(edit) => tree.apply(&edit, id, entry.sequence).is_ok(),
        Err(_) => false,
    };
    let Some(manifest) = manifest else {
        // A power cut may have taken the directory of a layer whose birth is on record.
        match media.disk.create_dir(&layer_dir(id)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => return Log::open(&*media.disk, &path, kind, |entry| apply(tree, entry)),
        }
    };
    let bytes = read_all(&*media.disk.open(&path, Open::Existing)?)?;
    let last = Log::scan(&bytes, kind, |entry| apply(tree, entry));
    if last != manifest.last_record {
        let text = format!("journal ends at record {last} of {}", manifest.last_record);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Log::closed(kind, last, bytes.len() as u64))
}

fn restore_sealed(layer: &Arc<Layer>, tree: &mut Tree, manifest: &Manifest) -> io::Result<()> {
    for file in &manifest.files {
        if !restore_pages(layer, tree, file)? {
            let text = format!("the manifest names {}, the journal does not", file.name);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

/// Removes what a sealed layer holds besides what its manifest names: data files that belong to
/// nothing, and what a merge left or never finished.
pub(crate) fn sweep(layer: &Layer, manifest: &Manifest, face: LayerId) -> io::Result<()> {
    for name in data_names(layer)? {
        if !manifest.names(name) {
            layer.media().files.forget(layer.id, name);
            layer.remove_data(name)?;
        }
    }
    let kept = [JOURNAL, MANIFEST].map(|name| face_name(layer.id, face, name));
    for name in layer.media().disk.list(&layer_dir(layer.id))? {
        if !kept.contains(&name) && DataName::parse(&name).is_none() {
            layer.media().disk.remove_file(&layer_dir(layer.id).join(name))?;
        }
    }
    Ok(())
}

fn restore_unsealed(layer: &Arc<Layer>, tree: &mut Tree) -> io::Result<()> {
    let kept = restore_data(layer, tree)?;
    if !kept.is_empty() || layer.journal.appended() > 0 {
        layer.touch();
        layer.promise_flush();
    }
    layer.inherit(kept);
    Ok(())
}

/// Finds out by their holes which pages the data files of a layer hold. Those that belong to
/// nothing are removed; returns the others.
pub(crate) fn restore_data(layer: &Layer, tree: &mut Tree) -> io::Result<Vec<DataName>> {
    let mut kept = Vec::new();
    for name in data_names(layer)? {
        let size = tree.cell(name.inode).and_then(|cell| {
            let inode = locks::read(&cell.inode).ok()?;
            let body = inode.file()?;
            (body.contents == name.contents).then_some(body.size)
        });
        let Some(size) = size else {
            layer.remove_data(name)?;
            continue;
        };
        let data = layer.data(name)?;
        // Longer than the record says: a cut that was recorded but not carried out, or a write
        // whose growth was not recorded. Neither was acknowledged.
        if data.medium.len()? > size {
            data.medium.set_len(size)?;
        }
        let runs = written_pages(&*data.medium)?;
        let modified = nanoseconds(data.medium.modified()?);
        restore_pages(layer, tree, &DataPages { name, modified, runs })?;
        kept.push(name);
    }
    Ok(kept)
}

/// Puts the pages of one data file on the map of its inode; false if they belong to nothing.
fn restore_pages(layer: &Layer, tree: &mut Tree, file: &DataPages) -> io::Result<bool> {
    let Some(cell) = tree.own(file.name.inode, layer.id) else { return Ok(false) };
    let mut inode = locks::write(&cell.inode)?;
    inode.modified = inode.modified.max(file.modified);
    let Some(body) = inode.file_mut().filter(|body| body.contents == file.name.contents) else {
        return Ok(false);
    };
    body.data = Some(Names::FIRST);
    let end = pages_in(body.size);
    for run in &file.runs {
        let run = run.start..run.end.min(end);
        if run.start < run.end {
            let gained = body.pages.set(run, layer.id);
            body.own_pages += gained;
            layer.count_pages(gained, 0);
        }
    }
    if body.pages.layer(page_of(body.size)) == Some(layer.id) || body.size.is_multiple_of(PAGE) {
        body.ragged = false;
    }
    Ok(true)
}

/// The data files in the directory of `layer`, in order.
pub(crate) fn data_names(layer: &Layer) -> io::Result<Vec<DataName>> {
    let entries = layer.media().disk.list(&layer_dir(layer.id))?;
    let mut names: Vec<_> = entries.iter().filter_map(|name| DataName::parse(name)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The pages of a data file that were written, as the file system tells.
pub(crate) fn written_pages(medium: &dyn Medium) -> io::Result<Vec<Range<u64>>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(bytes) = medium.next_data(at)? {
        let pages = page_of(bytes.start)..pages_in(bytes.end);
        match runs.last_mut() {
            Some(last) if last.end >= pages.start => last.end = pages.end,
            _ => runs.push(pages),
        }
        at = bytes.end;
    }
    Ok(runs)
}

/// Writes the manifest of a frozen layer that is durable. Data files it does not speak of are
/// removed, but for those of inodes that are `open`.
pub(crate) fn seal(
    layer: &Layer,
    tree: &Tree,
    open: impl Fn(FileId) -> bool,
) -> io::Result<Sealed> {
    let (mut files, mut unnamed) = (Vec::new(), Vec::new());
    for name in data_names(layer)? {
        match own_pages(layer, tree, name)? {
            Some(file) => files.push(file),
            None => unnamed.push(name),
        }
    }
    let manifest = Manifest { layer: layer.id, last_record: layer.journal.extent().0, files };
    let manifest_bytes = manifest.publish(&*layer.media().disk, layer.id)?;
    let mut pages = manifest.pages();
    for name in unnamed {
        if open(name.inode) {
            let kept = written_pages(&*layer.data(name)?.medium)?;
            pages += kept.iter().map(|run| run.end - run.start).sum::<u64>();
        } else {
            layer.media().files.forget(layer.id, name);
            layer.remove_data(name)?;
        }
    }
    Ok(Sealed { pages, manifest_bytes })
}

/// The pages of a data file that `tree` shows.
fn own_pages(layer: &Layer, tree: &Tree, name: DataName) -> io::Result<Option<DataPages>> {
    let Some(cell) = tree.cell(name.inode).filter(|cell| cell.layer == layer.id) else {
        return Ok(None);
    };
    let inode = locks::read(&cell.inode)?;
    let Some(body) = inode.file().filter(|body| body.data_name(name.inode) == name) else {
        return Ok(None);
    };
    let runs = body.pages.runs(0..pages_in(body.size));
    let runs = runs.filter(|run| run.layer == Some(layer.id)).map(|run| run.pages).collect();
    Ok(Some(DataPages { name, modified: inode.modified, runs }))
}
