//! Which layer lies on which, and which branch stands on top of each: the shape of the store.
//!
//! A pure value, changed by the edits of `branches.journal` and by nothing else. A layer is kept as
//! long as a branch or another layer stands on it.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::id::{BranchId, LayerId};
use crate::journal::{BranchEdit, ForkLayers};
use crate::wire::Owner;

#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNode {
    pub(crate) base: Option<LayerId>,
    /// Its namespace begins as the base's less what the identity filter hides.
    pub(crate) filtered: bool,
    /// The last layer that was merged into it, else itself: which of its files count.
    pub(crate) face: LayerId,
    /// Layers and branches that stand on it.
    users: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BranchNode {
    pub(crate) parent: Option<BranchId>,
    pub(crate) owner: Owner,
    pub(crate) top: LayerId,
}

/// An edit does not fit the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    NoSuchBranch(BranchId),
    BranchExists(BranchId),
    Layers,
}

#[derive(Debug)]
pub(crate) struct Graph {
    layers: BTreeMap<LayerId, LayerNode>,
    branches: HashMap<BranchId, BranchNode>,
    /// Every branch number ever used.
    used: HashSet<BranchId>,
    next_layer: Option<LayerId>,
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self {
            layers: BTreeMap::new(),
            branches: HashMap::new(),
            used: HashSet::new(),
            next_layer: Some(LayerId::FIRST),
        }
    }

    /// A layer number never used before.
    pub(crate) fn allocate_layer(&mut self) -> Option<LayerId> {
        let layer = self.next_layer?;
        self.next_layer = layer.next();
        Some(layer)
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = (LayerId, LayerNode)> + '_ {
        self.layers.iter().map(|(layer, node)| (*layer, *node))
    }

    pub(crate) fn branches(&self) -> impl Iterator<Item = (BranchId, BranchNode)> + '_ {
        self.branches.iter().map(|(branch, node)| (*branch, *node))
    }

    pub(crate) fn branch(&self, branch: BranchId) -> Option<BranchNode> {
        self.branches.get(&branch).copied()
    }

    pub(crate) fn base(&self, layer: LayerId) -> Option<LayerId> {
        self.layers.get(&layer)?.base
    }

    /// Whether `edit` fits.
    pub(crate) fn check(&self, edit: &BranchEdit) -> Result<(), Misfit> {
        match edit {
            BranchEdit::Create { branch, .. } => self.check_new(*branch),
            BranchEdit::Fork { parent, child, layers, .. } => {
                let top = self.branch(*parent).ok_or(Misfit::NoSuchBranch(*parent))?.top;
                self.check_new(*child)?;
                let fits = if layers.parent_top == top {
                    self.base(top) == Some(layers.base)
                } else {
                    layers.base == top
                };
                if fits { Ok(()) } else { Err(Misfit::Layers) }
            }
            BranchEdit::Merge { lower, upper } => {
                if self.may_merge(*lower, *upper) {
                    Ok(())
                } else {
                    Err(Misfit::Layers)
                }
            }
            BranchEdit::Delete { branch } | BranchEdit::SetOwner { branch, .. } => {
                self.branch(*branch).map(|_| ()).ok_or(Misfit::NoSuchBranch(*branch))
            }
        }
    }

    /// Applies an edit. Returns the layers that nothing stands on any more.
    pub(crate) fn apply(&mut self, edit: &BranchEdit) -> Result<Vec<LayerId>, Misfit> {
        self.check(edit)?;
        match edit {
            BranchEdit::Create { branch, owner, top } => {
                self.add_layer(*top, None, false);
                let node = BranchNode { parent: None, owner: *owner, top: *top };
                self.add_branch(*branch, node);
            }
            BranchEdit::Fork { parent, child, owner, layers } => {
                self.fork(*parent, layers);
                let node =
                    BranchNode { parent: Some(*parent), owner: *owner, top: layers.child_top };
                self.add_branch(*child, node);
            }
            BranchEdit::Delete { branch } => {
                let node = self.branches.remove(branch).ok_or(Misfit::NoSuchBranch(*branch))?;
                return Ok(self.release(node.top));
            }
            BranchEdit::Merge { lower, upper } => self.merge(*lower, *upper),
            BranchEdit::SetOwner { branch, owner } => {
                self.branches.get_mut(branch).ok_or(Misfit::NoSuchBranch(*branch))?.owner = *owner;
            }
        }
        Ok(Vec::new())
    }

    /// The layers of a branch from its top down, and whether only this branch stands on each.
    pub(crate) fn chain(&self, branch: BranchId) -> impl Iterator<Item = (LayerId, bool)> + '_ {
        let mut next = self.branch(branch).map(|node| node.top);
        let mut alone = true;
        std::iter::from_fn(move || {
            let layer = next?;
            let node = self.layers.get(&layer)?;
            alone = alone && node.users == 1;
            next = node.base;
            Some((layer, alone))
        })
    }

    /// Whether nothing but `upper` stands on `lower`, and its namespace begins as the other's ends.
    pub(crate) fn may_merge(&self, lower: LayerId, upper: LayerId) -> bool {
        self.layers.get(&lower).is_some_and(|node| node.users == 1)
            && self
                .layers
                .get(&upper)
                .is_some_and(|node| node.base == Some(lower) && !node.filtered)
            && !self.branches.values().any(|branch| branch.top == upper)
    }

    /// Layers that one layer stands on, with that layer, whose namespace begins as theirs ends.
    /// Ordered by the upper one. A layer that only a branch stands on has none.
    pub(crate) fn single_users(&self) -> impl Iterator<Item = (LayerId, LayerId)> + '_ {
        self.layers.iter().filter(|(_, node)| !node.filtered).filter_map(|(upper, node)| {
            let lower = node.base?;
            (self.layers.get(&lower)?.users == 1).then_some((lower, *upper))
        })
    }

    pub(crate) fn face(&self, layer: LayerId) -> Option<LayerId> {
        Some(self.layers.get(&layer)?.face)
    }

    /// What stood on `upper` stands on `lower` now.
    fn merge(&mut self, lower: LayerId, upper: LayerId) {
        let Some(gone) = self.layers.remove(&upper) else { return };
        if let Some(node) = self.layers.get_mut(&lower) {
            node.users = gone.users;
            node.face = upper;
        }
        for node in self.layers.values_mut().filter(|node| node.base == Some(upper)) {
            node.base = Some(lower);
        }
    }

    fn check_new(&self, branch: BranchId) -> Result<(), Misfit> {
        if self.used.contains(&branch) { Err(Misfit::BranchExists(branch)) } else { Ok(()) }
    }

    fn fork(&mut self, parent: BranchId, layers: &ForkLayers) {
        if let Some(node) = self.branches.get_mut(&parent) {
            let old_top = std::mem::replace(&mut node.top, layers.parent_top);
            if old_top != layers.parent_top {
                self.add_layer(layers.parent_top, Some(layers.base), false);
                self.release(old_top);
            }
        }
        self.add_layer(layers.child_top, Some(layers.base), true);
    }

    /// Adds a layer that a branch is about to stand on.
    fn add_layer(&mut self, layer: LayerId, base: Option<LayerId>, filtered: bool) {
        if let Some(below) = base.and_then(|base| self.layers.get_mut(&base)) {
            below.users += 1;
        }
        self.layers.insert(layer, LayerNode { base, filtered, face: layer, users: 1 });
        self.next_layer = self.next_layer.max(layer.next());
    }

    fn add_branch(&mut self, branch: BranchId, node: BranchNode) {
        self.used.insert(branch);
        self.branches.insert(branch, node);
    }

    /// One user of `layer` is gone.
    fn release(&mut self, layer: LayerId) -> Vec<LayerId> {
        let mut unreachable = Vec::new();
        let mut next = Some(layer);
        while let Some(layer) = next {
            let Some(node) = self.layers.get_mut(&layer) else { break };
            node.users = node.users.saturating_sub(1);
            if node.users > 0 {
                break;
            }
            next = node.base;
            self.layers.remove(&layer);
            unreachable.push(layer);
        }
        unreachable
    }
}
