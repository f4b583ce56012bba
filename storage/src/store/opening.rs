//! Opening a store: the format check, the branch tree, what nothing stands on any more, and every
//! layer in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::spares::Spares;
use super::{BRANCHES, Store, io_error};
use crate::branch::{Branch, Parts};
use crate::disk::{Disk, Open, read_all, write_all};
use crate::error::Error;
use crate::files::{Files, layer_dir};
use crate::graph::Graph;
use crate::holdings::{Holdings, Shape};
use crate::id::LayerId;
use crate::journal::{BranchEdit, Log, LogKind};
use crate::keeper::{Job, Keeper};
use crate::layer::Media;
use crate::load::{self, Loaded};
use crate::locks;
use crate::manifest::MANIFEST;
use crate::room::Room;
use crate::running::Running;
use crate::tree::Tree;

/// Version of everything in the store directory. 2 added records of merges and limits to
/// `branches.journal`, which a program of format 1 would take for the torn end of it.
const FORMAT: u32 = 2;
/// What this program reads as well, and makes the present one before it writes anything else.
const FORMAT_BEFORE: u32 = 1;

impl Store {
    /// Opens the store on `disk`, or makes one if the directory is empty. `root` is for messages.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: &Path, running: Running) -> Result<Self, Error> {
        let format = check_format(&*disk, root)?;
        guard(&*disk, format)?;
        let mut graph = Graph::new();
        let branches = Log::open(&*disk, Path::new(BRANCHES), LogKind::Branches, |entry| {
            let edit = BranchEdit::decode(&entry).ok();
            edit.is_some_and(|edit| graph.apply(&edit).is_ok())
        })
        .map_err(io_error("open", BRANCHES))?;
        let media = Arc::new(Media {
            files: Files::new(disk.clone(), running.open_files),
            room: Room::new(disk.clone(), running.reserve),
            disk,
            branches,
        });
        // What is read from it now must not be lost by a power cut after we acted on it.
        media.branches.sync_to(media.branches.appended()).map_err(io_error("sync", BRANCHES))?;
        media.disk.sync_dir(Path::new(".")).map_err(io_error("sync", "."))?;
        sweep(&media, &graph)?;
        let (loaded, lost) = load_layers(&media, &graph);
        let upwards = graph.layers_upwards().filter_map(|(layer, _)| loaded.get(&layer));
        let unsealed = upwards.filter(|found| !found.sealed).map(|found| found.layer.clone());
        let unsealed: Vec<_> = unsealed.collect();
        let layers = loaded.iter().map(|(id, found)| (*id, found.layer.clone())).collect();
        let shape = Shape::new(graph, layers);
        let mut branches = HashMap::new();
        for (id, node) in shape.graph.branches() {
            let Some(found) = loaded.get(&node.top) else { continue };
            let parts = Parts {
                id,
                parent: node.parent,
                owner: node.owner,
                tree: found.tree.clone(),
                top: found.layer.clone(),
                logical_bytes: logical_bytes(&found.tree),
                account: shape.ledger.account(id),
                max_bytes: node.max_bytes,
            };
            branches.insert(id, Arc::new(Branch::new(parts)));
        }
        drop(loaded);
        if format != FORMAT {
            raise_format(&*media.disk)?;
        }
        let shape = Mutex::new(shape);
        let holdings = Arc::new(Holdings { media, shape, branches: RwLock::new(branches), lost });
        let keeper =
            Keeper::start(holdings.clone(), running).map_err(io_error("start a thread in", "."))?;
        let spares = Spares::start(holdings.clone(), running.run_max.is_some())
            .map_err(io_error("start a thread in", "."))?;
        for layer in unsealed {
            // The tops among them have no frozen namespace, so they are looked after, not sealed.
            keeper.push(Job::Tidy(Arc::downgrade(&layer)));
            keeper.push(Job::Seal(layer));
        }
        Ok(Self { holdings, keeper, spares })
    }
}

/// Refuses a directory of another format, makes the bare bones of an empty one. Returns the format.
fn check_format(disk: &dyn Disk, root: &Path) -> Result<u32, Error> {
    let path = Path::new("format");
    let medium = disk.open(path, Open::OrCreate).map_err(io_error("open", "format"))?;
    let text = read_all(&*medium).map_err(io_error("read", "format"))?;
    let found = String::from_utf8_lossy(&text).trim().to_owned();
    if let Some(known) = [FORMAT_BEFORE, FORMAT].into_iter().find(|n| found == n.to_string()) {
        return Ok(known);
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
    make().map_err(io_error("set up", "."))?;
    Ok(FORMAT)
}

/// Makes a store of an earlier format one of this.
fn raise_format(disk: &dyn Disk) -> Result<(), Error> {
    let raise = || {
        let medium = disk.open(Path::new("format"), Open::Existing)?;
        write_all(&*medium, format!("{FORMAT}\n").as_bytes(), 0)?;
        medium.sync()
    };
    raise().map_err(io_error("raise", "format"))
}

/// Refuses a store whose journal lost records that had been durable, before anything is cut off or
/// swept: the state it began with must be whole, and it must know of every sealed layer.
fn guard(disk: &dyn Disk, format: u32) -> Result<(), Error> {
    let damaged = |detail: String| Error::Damaged { path: BRANCHES.into(), detail };
    let fault = io_error("read", BRANCHES);
    let bytes = match disk.open(Path::new(BRANCHES), Open::Reading) {
        Ok(medium) => read_all(&*medium).map_err(fault)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(fault(error)),
    };
    let (mut graph, mut state) = (Graph::new(), 0);
    let good = Log::scan(&bytes, LogKind::Branches, |entry| {
        let edit = BranchEdit::decode(&entry).ok();
        if let Some(BranchEdit::State { records, .. }) = &edit {
            state = records.saturating_add(1);
        }
        edit.is_some_and(|edit| graph.apply(&edit).is_ok())
    });
    if good < state {
        return Err(damaged(format!("record {} of {state} does not read well", good + 1)));
    }
    let tops: HashSet<_> = graph.branches().map(|(_, node)| node.top).collect();
    // Format 1 could seal a layer before the record that froze it was durable.
    let is_top = |layer: LayerId| format == FORMAT && tops.contains(&layer);
    for name in disk.list(Path::new("layers")).map_err(io_error("list", "layers"))? {
        let layer = name.parse().ok().and_then(LayerId::new);
        let layer = layer.filter(|layer| is_top(*layer) || !graph.was_given_out(*layer));
        let Some(layer) = layer else { continue };
        let entries = disk.list(&layer_dir(layer)).map_err(io_error("list", "layers"))?;
        if entries.iter().any(|name| name == MANIFEST) {
            return Err(damaged(format!("it does not know that layer {layer} was sealed")));
        }
    }
    Ok(())
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

/// Loads every layer, each after the one below it. Of those that cannot be loaded it tells why;
/// they keep their files.
fn load_layers(
    media: &Arc<Media>,
    graph: &Graph,
) -> (HashMap<LayerId, Loaded>, BTreeMap<LayerId, String>) {
    let tops: HashSet<_> = graph.branches().map(|(_, node)| node.top).collect();
    let mut loaded: HashMap<LayerId, Loaded> = HashMap::new();
    let mut lost = BTreeMap::new();
    for (id, node) in graph.layers_upwards() {
        let base = node.base.and_then(|base| loaded.get(&base));
        let found = match node.base.filter(|_| base.is_none()) {
            Some(below) => Err(match lost.get(&below) {
                Some(reason) => String::clone(reason),
                None => format!("layer {id} lies on layer {below}, which is not known"),
            }),
            None => load::load(media, id, node, base, tops.contains(&id))
                .map_err(|error| error.with_causes()),
        };
        match found {
            Ok(layer) => drop(loaded.insert(id, layer)),
            Err(reason) => {
                tracing::error!(layer = %id, reason, "layer is lost");
                lost.insert(id, reason);
            }
        }
    }
    (loaded, lost)
}

fn logical_bytes(tree: &Tree) -> u64 {
    tree.cells()
        .filter_map(|(_, cell)| Some(locks::read(&cell.inode).ok()?.file()?.size))
        .fold(0, u64::saturating_add)
}
