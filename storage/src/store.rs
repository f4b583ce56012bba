//! The store: every branch and layer of one store directory.
//!
//! ```text
//! <store>/format            format version, decimal
//! <store>/lock              held by the process that serves the store
//! <store>/branches.journal  the branch tree
//! <store>/layers/<number>/  one directory for each layer
//! ```
//! Locks: a branch's gate, then `shape`, then `branches`. `branches.journal` has the order in which
//! `shape` changed. A request that changed it is answered when its record is durable.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use crate::branch::{Branch, Frozen, Parts};
use crate::disk::{Disk, Open, read_all, write_all};
use crate::error::Error;
use crate::files::{Files, layer_dir};
use crate::filter::strip;
use crate::graph::{Graph, Misfit};
use crate::id::{BranchId, LayerId};
use crate::journal::{BranchEdit, ForkLayers, Log, LogKind};
use crate::keeper::{Job, Keeper};
use crate::layer::{Layer, Media};
use crate::load::{self, Loaded};
use crate::locks;
use crate::tree::Tree;
use crate::wire::{BranchSummary, Owner, Usage};

/// Version of everything in the store directory.
const FORMAT: u32 = 1;
const BRANCHES: &str = "branches.journal";

pub(crate) struct Store {
    media: Arc<Media>,
    shape: Mutex<Shape>,
    branches: RwLock<HashMap<BranchId, Arc<Branch>>>,
    keeper: Keeper,
}

/// How a store is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// Data files to keep open though nobody uses them.
    pub(crate) open_files: usize,
    /// Whether the keeper works. Without it nothing but requests touches the disk.
    pub(crate) background: bool,
}

struct Shape {
    graph: Graph,
    layers: HashMap<LayerId, Arc<Layer>>,
}

impl Store {
    /// Opens the store on `disk`, or makes one if the directory is empty. `root` is for messages.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: &Path, running: Running) -> Result<Self, Error> {
        check_format(&*disk, root)?;
        let mut graph = Graph::new();
        let branches = Log::open(&*disk, Path::new(BRANCHES), LogKind::Branches, |entry| {
            let edit = BranchEdit::decode(&entry).ok();
            edit.is_some_and(|edit| graph.apply(&edit).is_ok())
        })
        .map_err(io_error("open", BRANCHES))?;
        let media =
            Arc::new(Media { files: Files::new(disk.clone(), running.open_files), disk, branches });
        // What is read from it now must not be lost by a power cut after we acted on it.
        media.branches.sync_to(media.branches.appended()).map_err(io_error("sync", BRANCHES))?;
        media.disk.sync_dir(Path::new(".")).map_err(io_error("sync", "."))?;
        sweep(&media, &graph)?;
        let keeper = Keeper::start(media.clone(), running.background)
            .map_err(io_error("start a thread in", "."))?;
        let loaded = load_layers(&media, &graph)?;
        let mut branches = HashMap::new();
        for (id, node) in graph.branches() {
            let Some(found) = loaded.get(&node.top) else { continue };
            let parts = Parts {
                id,
                parent: node.parent,
                owner: node.owner,
                tree: found.tree.clone(),
                top: found.layer.clone(),
                logical_bytes: logical_bytes(&found.tree),
            };
            branches.insert(id, Arc::new(Branch::new(parts)));
            keeper.push(Job::Tidy(Arc::downgrade(&found.layer)));
        }
        let mut unsealed: Vec<_> = loaded.values().filter(|found| !found.sealed).collect();
        unsealed.sort_unstable_by_key(|found| found.layer.id);
        for found in unsealed {
            // The tops among them have no frozen namespace, so they are left alone.
            keeper.push(Job::Seal(found.layer.clone()));
        }
        let layers = loaded.into_iter().map(|(id, found)| (id, found.layer)).collect();
        let shape = Mutex::new(Shape { graph, layers });
        Ok(Self { media, shape, branches: RwLock::new(branches), keeper })
    }

    pub(crate) fn media(&self) -> &Media {
        &self.media
    }

    pub(crate) fn branch(&self, branch: BranchId) -> Result<Arc<Branch>, Error> {
        locks::read(&self.branches)
            .ok()
            .and_then(|branches| branches.get(&branch).cloned())
            .ok_or(Error::NoSuchBranch { branch: branch.get() })
    }

    pub(crate) fn create(&self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        let (top, record) = {
            let mut shape = self.shape()?;
            let id = shape.graph.allocate_layer().ok_or_else(used_up)?;
            let edit = BranchEdit::Create { branch, owner, top: id };
            shape.graph.check(&edit).map_err(misfit)?;
            let journal =
                load::prepare(&self.media, id).map_err(io_error("make a layer in", "."))?;
            let record = self.record(&mut shape, &edit)?;
            let layer = Arc::new(Layer::new(id, self.media.clone(), journal, record, None));
            layer.touch();
            shape.layers.insert(id, layer.clone());
            (layer, record)
        };
        let tree = Tree::new(top.id, 0);
        self.serve(Parts { id: branch, parent: None, owner, tree, top, logical_bytes: 0 })?;
        self.sync(record)
    }

    pub(crate) fn fork(
        &self,
        parent: BranchId,
        child: BranchId,
        owner: Owner,
    ) -> Result<(), Error> {
        let source = self.branch(parent)?;
        let mut tops = [self.prepare()?, self.prepare()?].into_iter();
        let (Some(next), Some(child_top)) = (tops.next(), tops.next()) else {
            return Err(used_up());
        };
        let child_id = child_top.0;
        let spare = next.0;
        let result = source.freeze(|top, frozen| {
            self.split(top, frozen, Split { parent, child, owner, next, child_top })
        });
        let forked = match result {
            Ok(forked) => forked,
            Err(error) => {
                self.keeper.push(Job::Remove(vec![spare, child_id]));
                return Err(error);
            }
        };
        if let Some(frozen) = &forked.frozen {
            self.keeper.push(Job::Seal(frozen.clone()));
            self.keeper.push(Job::Tidy(Arc::downgrade(&forked.parent_top)));
        } else {
            self.keeper.push(Job::Remove(vec![spare]));
        }
        let mut tree = forked.held.tree;
        let gone = strip(&mut tree, child_id);
        let logical_bytes = forked.held.logical_bytes.saturating_sub(gone);
        let top = forked.child_top;
        self.serve(Parts { id: child, parent: Some(parent), owner, tree, top, logical_bytes })?;
        self.sync(forked.record)
    }

    pub(crate) fn delete(&self, branch: BranchId) -> Result<(), Error> {
        let ended = self.branch(branch)?;
        let (unreachable, record) = {
            let mut shape = self.shape()?;
            let edit = BranchEdit::Delete { branch };
            shape.graph.check(&edit).map_err(misfit)?;
            let record = self.append(&edit)?;
            let unreachable = shape.graph.apply(&edit).map_err(misfit)?;
            for layer in unreachable.iter().filter_map(|layer| shape.layers.remove(layer)) {
                layer.abandon();
            }
            (unreachable, record)
        };
        ended.end();
        if let Ok(mut branches) = locks::write(&self.branches) {
            branches.remove(&branch);
        }
        self.sync(record)?;
        self.keeper.push(Job::Remove(unreachable));
        Ok(())
    }

    pub(crate) fn set_owner(&self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        let served = self.branch(branch)?;
        let record = self.record(&mut *self.shape()?, &BranchEdit::SetOwner { branch, owner })?;
        served.set_owner(owner);
        self.sync(record)
    }

    pub(crate) fn begin_compute(&self, branch: BranchId) -> Result<(), Error> {
        let served = self.branch(branch)?;
        let top = served.begin_compute().map_err(|_| Error::BranchFailed {
            branch: branch.get(),
            reason: served.failure().unwrap_or("it is being deleted").to_owned(),
        })?;
        self.keeper.push(Job::Flush(top));
        Ok(())
    }

    /// What a branch costs: the layers of its chain, and which of them it alone stands on.
    pub(crate) fn usage(&self, branch: BranchId) -> Result<Usage, Error> {
        let served = self.branch(branch)?;
        let shape = self.shape()?;
        let (mut unique, mut shared) = (0, 0);
        for (layer, alone) in shape.graph.chain(branch) {
            let bytes = shape.layers.get(&layer).map_or(0, |layer| layer.bytes());
            if alone { unique += bytes } else { shared += bytes }
        }
        Ok(Usage {
            unique_bytes: unique,
            shared_bytes: shared,
            reclaimable_bytes: unique,
            logical_bytes: served.logical_bytes(),
            failed: served.failure().map(str::to_owned),
        })
    }

    pub(crate) fn list(&self) -> Result<Vec<BranchSummary>, Error> {
        let mut list: Vec<_> = locks::read(&self.branches)
            .map_err(|_| broken())?
            .values()
            .map(|branch| BranchSummary {
                branch: branch.id,
                parent: branch.parent,
                owner: branch.owner(),
                failed: branch.failure().map(str::to_owned),
            })
            .collect();
        list.sort_unstable_by_key(|summary| summary.branch);
        Ok(list)
    }

    /// Makes everything durable. The mount is gone already.
    pub(crate) fn close(&self) -> Result<(), Error> {
        self.keeper.stop();
        let tops: Vec<_> = locks::read(&self.branches)
            .map_err(|_| broken())?
            .values()
            .filter_map(|branch| branch.begin_compute().ok())
            .collect();
        for top in tops {
            top.sync_promised().map_err(io_error("sync", "layers"))?;
        }
        Ok(())
    }

    fn shape(&self) -> Result<MutexGuard<'_, Shape>, Error> {
        self.shape.lock().map_err(|_| broken())
    }

    fn prepare(&self) -> Result<(LayerId, Log), Error> {
        let id = self.shape()?.graph.allocate_layer().ok_or_else(used_up)?;
        let log = load::prepare(&self.media, id).map_err(io_error("make a layer in", "."))?;
        Ok((id, log))
    }

    /// The part of a fork for which changes of the parent wait.
    fn split(
        &self,
        top: &Arc<Layer>,
        held: Frozen,
        split: Split,
    ) -> Result<(Arc<Layer>, Forked), Error> {
        let Split { parent, child, owner, next, child_top } = split;
        let mut shape = self.shape()?;
        let below = shape.graph.base(top.id).filter(|_| top.is_untouched());
        let layers = ForkLayers {
            base: below.unwrap_or(top.id),
            parent_top: if below.is_some() { top.id } else { next.0 },
            child_top: child_top.0,
        };
        let base = shape.layers.get(&layers.base).cloned().ok_or_else(broken)?;
        let edit = BranchEdit::Fork { parent, child, owner, layers };
        let record = self.record(&mut shape, &edit)?;
        let layer = |(id, journal): (LayerId, Log)| {
            let base = Some(base.clone()).filter(|base| !base.is_durable());
            Arc::new(Layer::new(id, self.media.clone(), journal, record, base))
        };
        let child_top = layer(child_top);
        // By the filter.
        child_top.touch();
        shape.layers.insert(child_top.id, child_top.clone());
        if below.is_some() {
            let parent_top = top.clone();
            let forked =
                Forked { held, child_top, parent_top: parent_top.clone(), frozen: None, record };
            return Ok((parent_top, forked));
        }
        let parent_top = layer(next);
        shape.layers.insert(parent_top.id, parent_top.clone());
        top.freeze(held.tree.clone());
        let frozen = Some(top.clone());
        let forked = Forked { held, child_top, parent_top: parent_top.clone(), frozen, record };
        Ok((parent_top, forked))
    }

    /// Puts a branch in service.
    fn serve(&self, parts: Parts) -> Result<(), Error> {
        self.keeper.push(Job::Tidy(Arc::downgrade(&parts.top)));
        let mut branches = locks::write(&self.branches).map_err(|_| broken())?;
        branches.insert(parts.id, Arc::new(Branch::new(parts)));
        Ok(())
    }

    /// Writes an edit that fits to the journal and applies it.
    fn record(&self, shape: &mut Shape, edit: &BranchEdit) -> Result<u64, Error> {
        shape.graph.check(edit).map_err(misfit)?;
        let record = self.append(edit)?;
        shape.graph.apply(edit).map_err(misfit)?;
        Ok(record)
    }

    fn append(&self, edit: &BranchEdit) -> Result<u64, Error> {
        let (kind, payload) = edit.encode();
        self.media.branches.append(kind, &payload).map_err(io_error("write", BRANCHES))
    }

    fn sync(&self, record: u64) -> Result<(), Error> {
        self.media.branches.sync_to(record).map_err(io_error("sync", BRANCHES))
    }
}

struct Split {
    parent: BranchId,
    child: BranchId,
    owner: Owner,
    next: (LayerId, Log),
    child_top: (LayerId, Log),
}

struct Forked {
    held: Frozen,
    child_top: Arc<Layer>,
    parent_top: Arc<Layer>,
    /// The old top, unless nothing had been written to it.
    frozen: Option<Arc<Layer>>,
    record: u64,
}

/// Refuses a directory of another format; makes the bare bones of an empty one.
fn check_format(disk: &dyn Disk, root: &Path) -> Result<(), Error> {
    let path = Path::new("format");
    let medium = disk.open(path, Open::OrCreate).map_err(io_error("open", "format"))?;
    let text = read_all(&*medium).map_err(io_error("read", "format"))?;
    let found = String::from_utf8_lossy(&text).trim().to_owned();
    if found == FORMAT.to_string() {
        return Ok(());
    }
    let entries = disk.list(Path::new(".")).map_err(io_error("list", "."))?;
    if !found.is_empty() || entries.iter().any(|name| name == BRANCHES) {
        return Err(Error::Format { dir: root.to_path_buf(), found, expected: FORMAT });
    }
    let make = || {
        if !entries.iter().any(|name| name == "layers") {
            disk.create_dir(Path::new("layers"))?;
        }
        write_all(&*medium, format!("{FORMAT}\n").as_bytes(), 0)?;
        medium.sync()?;
        disk.sync_dir(Path::new("."))
    };
    make().map_err(io_error("set up", "."))
}

/// Removes directories of layers that nothing stands on.
fn sweep(media: &Media, graph: &Graph) -> Result<(), Error> {
    let known: HashMap<String, LayerId> =
        graph.layers().map(|(layer, _)| (layer.to_string(), layer)).collect();
    for name in media.disk.list(Path::new("layers")).map_err(io_error("list", "layers"))? {
        if !known.contains_key(&name) {
            media
                .disk
                .remove_dir_all(&Path::new("layers").join(name))
                .map_err(io_error("remove from", "layers"))?;
        }
    }
    Ok(())
}

/// Loads every layer, each after the one below it: numbers rise.
fn load_layers(media: &Arc<Media>, graph: &Graph) -> Result<HashMap<LayerId, Loaded>, Error> {
    let tops: Vec<_> = graph.branches().map(|(_, node)| node.top).collect();
    let mut loaded: HashMap<LayerId, Loaded> = HashMap::new();
    for (id, node) in graph.layers() {
        let base = match node.base {
            Some(base) => Some(loaded.get(&base).ok_or_else(|| Error::Damaged {
                path: layer_dir(id),
                detail: format!("it lies on layer {base}, which is not known"),
            })?),
            None => None,
        };
        let layer = load::load(media, id, node, base, tops.contains(&id))?;
        loaded.insert(id, layer);
    }
    Ok(loaded)
}

fn logical_bytes(tree: &Tree) -> u64 {
    tree.cells()
        .filter_map(|(_, cell)| Some(locks::read(&cell.inode).ok()?.file()?.size))
        .fold(0, u64::saturating_add)
}

fn misfit(misfit: Misfit) -> Error {
    match misfit {
        Misfit::NoSuchBranch(branch) => Error::NoSuchBranch { branch: branch.get() },
        Misfit::BranchExists(branch) => Error::BranchExists { branch: branch.get() },
        Misfit::Layers => broken(),
    }
}

/// A request panicked while it held the store's own state.
fn broken() -> Error {
    Error::Damaged {
        path: BRANCHES.into(),
        detail: "the state in memory does not fit; restart the store".to_owned(),
    }
}

fn used_up() -> Error {
    Error::Damaged { path: "layers".into(), detail: "all layer numbers are used up".to_owned() }
}

fn io_error(doing: &'static str, path: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { doing, path: path.into(), source }
}
