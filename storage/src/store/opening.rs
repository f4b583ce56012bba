//! Opening a store: the format check, the branch tree, what nothing stands on any more, and every
//! layer in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use super::{BRANCHES, Store, io_error};
use crate::branch::{Branch, Parts};
use crate::disk::{Disk, Open, read_all, write_all};
use crate::error::Error;
use crate::files::Files;
use crate::graph::Graph;
use crate::holdings::{Holdings, Shape};
use crate::id::LayerId;
use crate::journal::{BranchEdit, Log, LogKind};
use crate::keeper::{Job, Keeper};
use crate::layer::Media;
use crate::load::{self, Loaded};
use crate::locks;
use crate::room::Room;
use crate::tree::Tree;

/// Version of everything in the store directory.
const FORMAT: u32 = 1;

/// How a store is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// Data files to keep open though nobody uses them.
    pub(crate) open_files: usize,
    /// How many layers that could be merged may lie on each other; see [`Keeper::start`]. Without
    /// it the keeper does not work: nothing but requests touches the disk.
    pub(crate) run_max: Option<usize>,
    /// Bytes of the disk that are kept for branches that exist; see `room.rs`.
    pub(crate) reserve: u64,
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
        }
        let mut unsealed: Vec<_> = loaded.values().filter(|found| !found.sealed).collect();
        unsealed.sort_unstable_by_key(|found| found.layer.id);
        let unsealed: Vec<_> = unsealed.into_iter().map(|found| found.layer.clone()).collect();
        let layers = loaded.into_iter().map(|(id, found)| (id, found.layer)).collect();
        let shape = Mutex::new(Shape::new(graph, layers));
        let holdings = Arc::new(Holdings { media, shape, branches: RwLock::new(branches), lost });
        let keeper = Keeper::start(holdings.clone(), running.run_max)
            .map_err(io_error("start a thread in", "."))?;
        for layer in unsealed {
            // The tops among them have no frozen namespace, so they are looked after, not sealed.
            keeper.push(Job::Tidy(Arc::downgrade(&layer)));
            keeper.push(Job::Seal(layer));
        }
        Ok(Self { holdings, keeper })
    }
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

/// Loads every layer, each after the one below it: numbers rise. Of those that cannot be loaded it
/// tells why; they keep their files.
fn load_layers(
    media: &Arc<Media>,
    graph: &Graph,
) -> (HashMap<LayerId, Loaded>, BTreeMap<LayerId, String>) {
    let tops: HashSet<_> = graph.branches().map(|(_, node)| node.top).collect();
    let mut loaded: HashMap<LayerId, Loaded> = HashMap::new();
    let mut lost = BTreeMap::new();
    for (id, node) in graph.layers() {
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
