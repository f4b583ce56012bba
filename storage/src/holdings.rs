//! What a store holds at present: its layers, how they lie, and the branches in service.
//!
//! Shared by the store, which answers requests, and the keeper, which works behind them. Locks: a
//! branch's gate, then `shape`, then `branches`. `branches.journal` has the order in which `shape`
//! changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, RwLock};

use crate::branch::Branch;
use crate::files::layer_dir;
use crate::graph::Graph;
use crate::id::{BranchId, FileId, LayerId};
use crate::layer::{Layer, Media};
use crate::ledger::Ledger;
use crate::locks;

pub(crate) struct Holdings {
    pub(crate) media: Arc<Media>,
    pub(crate) shape: Mutex<Shape>,
    pub(crate) branches: RwLock<HashMap<BranchId, Arc<Branch>>>,
    /// Layers that could not be loaded, or lie on one, and why. What stands on them is not served;
    /// everything else is.
    pub(crate) lost: BTreeMap<LayerId, String>,
}

pub(crate) struct Shape {
    pub(crate) graph: Graph,
    pub(crate) layers: HashMap<LayerId, Arc<Layer>>,
    pub(crate) ledger: Ledger,
    /// Layers that are being made or removed: they have a directory and are not in the graph.
    pub(crate) pending: BTreeSet<LayerId>,
}

impl Shape {
    pub(crate) fn new(graph: Graph, layers: HashMap<LayerId, Arc<Layer>>) -> Self {
        let ledger = Ledger::count(&graph, bytes_of(&layers));
        Self { graph, layers, ledger, pending: BTreeSet::new() }
    }

    /// A number for a layer that is about to be made.
    pub(crate) fn allocate_layer(&mut self) -> Option<LayerId> {
        let layer = self.graph.allocate_layer()?;
        self.pending.insert(layer);
        Some(layer)
    }

    /// `branch` is gone from the graph, `below` the highest layer of its chain that is left.
    pub(crate) fn deleted(&mut self, branch: BranchId, below: Option<LayerId>) {
        self.ledger.deleted(&self.graph, (branch, below), bytes_of(&self.layers));
    }

    /// The frozen layer holds other bytes than `before`.
    pub(crate) fn resized(&mut self, layer: &Layer, before: u64) {
        self.ledger.resized(&self.graph, layer.id, (before, layer.bytes()));
    }
}

fn bytes_of(layers: &HashMap<LayerId, Arc<Layer>>) -> impl Fn(LayerId) -> u64 + '_ {
    |layer| layers.get(&layer).map_or(0, |layer| layer.bytes())
}

impl Holdings {
    /// Removes the directory of a layer that nothing stands on. What cannot be removed the next
    /// start sweeps.
    pub(crate) fn remove_layer(&self, layer: LayerId) {
        self.media.files.forget_layer(layer);
        match self.media.disk.remove_dir_all(&layer_dir(layer)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%layer, %error, "remove the directory of a layer");
            }
            _ => {
                if let Ok(mut shape) = locks::lock(&self.shape) {
                    shape.pending.remove(&layer);
                }
            }
        }
    }

    /// Whether any of `files` has no name in some branch but is open there.
    pub(crate) fn any_orphan(&self, files: &[FileId]) -> bool {
        // A panic in a request must not make the keeper remove what may be in use.
        locks::read(&self.branches)
            .map_or(true, |branches| branches.values().any(|branch| branch.any_orphan(files)))
    }
}
