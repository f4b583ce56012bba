//! The store: every branch and layer of one store directory.
//!
//! ```text
//! <store>/format            format version, decimal
//! <store>/lock              held by the process that serves the store
//! <store>/branches.journal  the branch tree
//! <store>/layers/<number>/  one directory for each layer
//! <store>/incoming/<branch>/  what is to become a branch; not the store's until then
//! ```
//! A request that changed the shape of the store is answered when its record is durable.

use std::io;
use std::sync::{Arc, MutexGuard};

use crate::branch::{Branch, Frozen, Parts};
use crate::error::Error;
use crate::filter::strip;
use crate::graph::Misfit;
use crate::holdings::{Holdings, Shape};
use crate::id::{BranchId, LayerId};
use crate::journal::{BranchEdit, ForkLayers, Log};
use crate::keeper::{Job, Keeper};
use crate::layer::{Layer, Media};
use crate::locks;
use crate::tree::Tree;
use crate::wire::Owner;

/// Name of the journal of the branch tree.
const BRANCHES: &str = "branches.journal";

mod checking;
mod importing;
mod opening;
mod report;
mod spares;

use spares::Spares;

pub(crate) struct Store {
    holdings: Arc<Holdings>,
    keeper: Keeper,
    spares: Spares,
}

impl Store {
    pub(crate) fn media(&self) -> &Media {
        &self.holdings.media
    }

    pub(crate) fn branch(&self, branch: BranchId) -> Result<Arc<Branch>, Error> {
        let served = locks::read(&self.holdings.branches)
            .ok()
            .and_then(|branches| branches.get(&branch).cloned());
        served.ok_or_else(|| match self.why_lost(branch) {
            Some(reason) => Error::BranchLost { branch: branch.get(), reason },
            None => Error::NoSuchBranch { branch: branch.get() },
        })
    }

    /// Why a branch that exists is not served.
    fn why_lost(&self, branch: BranchId) -> Option<String> {
        if self.holdings.lost.is_empty() {
            return None;
        }
        let node = self.shape().ok()?.graph.branch(branch)?;
        self.holdings.lost.get(&node.top).cloned()
    }

    pub(crate) fn create(&self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        self.holdings.media.room.check()?;
        let (id, journal) = self.prepare()?;
        let (top, record) = {
            let mut shape = self.shape()?;
            let edit = BranchEdit::Create { branch, owner, top: id };
            let record = self.record(&mut shape, &edit).inspect_err(|_| self.discard(&[id]))?;
            let layer =
                Arc::new(Layer::new(id, self.holdings.media.clone(), journal, record, None));
            layer.touch();
            shape.layers.insert(id, layer.clone());
            shape.ledger.created(branch);
            (layer, record)
        };
        let tree = Tree::new(top.id, 0);
        let account = self.shape()?.ledger.account(branch);
        let max_bytes = None;
        let logical_bytes = 0;
        let id = branch;
        self.serve(Parts {
            id,
            parent: None,
            owner,
            tree,
            top,
            logical_bytes,
            account,
            max_bytes,
        })?;
        self.sync(record)
    }

    pub(crate) fn fork(
        &self,
        parent: BranchId,
        child: BranchId,
        owner: Owner,
    ) -> Result<(), Error> {
        let record = self.fork_unsynced(parent, child, owner)?;
        self.sync(record)
    }

    /// Returns the record that makes the fork durable.
    fn fork_unsynced(&self, parent: BranchId, child: BranchId, owner: Owner) -> Result<u64, Error> {
        let source = self.branch(parent)?;
        self.holdings.media.room.check()?;
        self.keeper.wait_for_room();
        let next = self.prepare()?;
        let spare = next.0;
        let child_top = self.prepare().inspect_err(|_| self.discard(&[spare]))?;
        let child_id = child_top.0;
        let result = source.freeze(|top, frozen| {
            self.split(top, frozen, Split { parent, child, owner, next, child_top })
        });
        let forked = result.inspect_err(|_| self.discard(&[spare, child_id]))?;
        if let Some(frozen) = &forked.frozen {
            self.keeper.push(Job::Seal(frozen.clone()));
            self.keeper.push(Job::Tidy(Arc::downgrade(&forked.parent_top)));
        } else {
            self.discard(&[spare]);
        }
        let mut tree = forked.held.tree;
        let gone = strip(&mut tree, child_id);
        let logical_bytes = forked.held.logical_bytes.saturating_sub(gone);
        self.serve(Parts {
            id: child,
            parent: Some(parent),
            owner,
            tree,
            top: forked.child_top,
            logical_bytes,
            account: self.shape()?.ledger.account(child),
            max_bytes: None,
        })?;
        Ok(forked.record)
    }

    /// A fork on which nobody relies before it is confirmed: after a crash it may not be there.
    /// What the parent syncs from now on makes its own side of the fork durable first.
    pub(crate) fn fork_tentative(
        &self,
        parent: BranchId,
        child: BranchId,
        owner: Owner,
    ) -> Result<(), Error> {
        self.fork_unsynced(parent, child, owner)?;
        self.branch(child)?.begin_tentative();
        Ok(())
    }

    /// Makes a tentative branch durable, and its syncs from here on.
    pub(crate) fn confirm(&self, branch: BranchId) -> Result<(), Error> {
        let served = self.branch(branch)?;
        served.confirm().map_err(|_| failed(&served))
    }

    pub(crate) fn delete(&self, branch: BranchId) -> Result<(), Error> {
        let ended = match self.branch(branch) {
            // It can be deleted all the same.
            Err(Error::BranchLost { .. }) => None,
            served => Some(served?),
        };
        let (unreachable, record) = {
            let mut shape = self.shape()?;
            let edit = BranchEdit::Delete { branch };
            shape.graph.check(&edit).map_err(misfit)?;
            let left = shape.graph.chain(branch).find(|(_, alone)| !alone).map(|(layer, _)| layer);
            let record = self.append(&edit)?;
            let unreachable = shape.graph.apply(&edit).map_err(misfit)?;
            for layer in unreachable.iter().filter_map(|layer| shape.layers.remove(layer)) {
                layer.abandon();
            }
            shape.deleted(branch, left);
            shape.pending.extend(&unreachable);
            (unreachable, record)
        };
        if let Some(ended) = ended {
            ended.end();
        }
        if let Ok(mut branches) = locks::write(&self.holdings.branches) {
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
        let top = served.begin_compute().map_err(|_| failed(&served))?;
        if !served.is_tentative() {
            self.keeper.push(Job::Flush(top));
        }
        Ok(())
    }

    /// Sets or takes away the most that a branch may come to hold of its own.
    pub(crate) fn limit(&self, branch: BranchId, max_bytes: Option<u64>) -> Result<(), Error> {
        let served = self.branch(branch)?;
        let record = self.record(&mut *self.shape()?, &BranchEdit::Limit { branch, max_bytes })?;
        served.set_max_bytes(max_bytes);
        self.sync(record)
    }

    /// Waits until the keeper has done all it was told.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        let (done, wait) = std::sync::mpsc::channel();
        self.keeper.push(Job::Report(done));
        // The other end is dropped, never used.
        wait.recv().unwrap_err();
    }

    /// Makes everything durable. The mount is gone already.
    pub(crate) fn close(&self) -> Result<(), Error> {
        self.spares.stop();
        self.keeper.stop();
        let tops: Vec<_> = locks::read(&self.holdings.branches)
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
        self.holdings.shape.lock().map_err(|_| broken())
    }

    fn prepare(&self) -> Result<(LayerId, Log), Error> {
        let made = self.spares.take().map_or_else(|| spares::make(&self.holdings), Ok);
        made.map_err(io_error("make a layer in", "layers"))
    }

    /// Removes layers that were prepared and are not needed.
    fn discard(&self, layers: &[LayerId]) {
        self.keeper.push(Job::Remove(layers.to_vec()));
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
            Arc::new(Layer::new(id, self.holdings.media.clone(), journal, record, base))
        };
        let child_top = layer(child_top);
        // By the filter.
        child_top.touch();
        shape.layers.insert(child_top.id, child_top.clone());
        if below.is_some() {
            shape.ledger.forked(parent, child, 0);
            let parent_top = top.clone();
            let forked =
                Forked { held, child_top, parent_top: parent_top.clone(), frozen: None, record };
            return Ok((parent_top, forked));
        }
        let parent_top = layer(next);
        shape.layers.insert(parent_top.id, parent_top.clone());
        top.freeze(held.tree.clone(), record);
        shape.ledger.forked(parent, child, top.bytes());
        let frozen = Some(top.clone());
        let forked = Forked { held, child_top, parent_top: parent_top.clone(), frozen, record };
        Ok((parent_top, forked))
    }

    /// Puts a branch in service.
    fn serve(&self, parts: Parts) -> Result<(), Error> {
        self.keeper.push(Job::Tidy(Arc::downgrade(&parts.top)));
        let mut branches = locks::write(&self.holdings.branches).map_err(|_| broken())?;
        branches.insert(parts.id, Arc::new(Branch::new(parts)));
        Ok(())
    }

    /// Writes an edit that fits to the journal and applies it.
    fn record(&self, shape: &mut Shape, edit: &BranchEdit) -> Result<u64, Error> {
        shape.graph.check(edit).map_err(misfit)?;
        let record = self.append(edit)?;
        shape.graph.apply(edit).map_err(misfit)?;
        match edit {
            BranchEdit::Create { top, .. } => drop(shape.pending.remove(top)),
            BranchEdit::Fork { layers, .. } => {
                shape.pending.remove(&layers.parent_top);
                shape.pending.remove(&layers.child_top);
            }
            _ => {}
        }
        Ok(record)
    }

    fn append(&self, edit: &BranchEdit) -> Result<u64, Error> {
        let (kind, payload) = edit.encode();
        self.holdings.media.branches.append(kind, &payload).map_err(io_error("write", BRANCHES))
    }

    fn sync(&self, record: u64) -> Result<(), Error> {
        self.holdings.media.branches.sync_to(record).map_err(io_error("sync", BRANCHES))
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

fn failed(branch: &Branch) -> Error {
    let reason = branch.failure().unwrap_or("it is being deleted").to_owned();
    Error::BranchFailed { branch: branch.id.get(), reason }
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

fn io_error(doing: &'static str, path: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io { doing, path: path.into(), source }
}
