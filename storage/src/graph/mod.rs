//! Which layer lies on which, and which branch stands on top of each: the shape of the store.
//!
//! A pure value, changed by the edits of `branches.journal` and by nothing else. A layer is kept as
//! long as a branch or another layer stands on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::id::{BranchId, LayerId};
use crate::journal::{BranchEdit, ForkLayers, Seat};
use crate::numbers::Numbers;
use crate::wire::Owner;

mod flaw;

/// What stands directly on a layer. Branches sort last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum User {
    Layer(LayerId),
    Branch(BranchId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerNode {
    pub(crate) base: Option<LayerId>,
    /// Its namespace begins as the base's less what the identity filter hides.
    pub(crate) filtered: bool,
    /// The last layer that was merged into it, else itself: which of its files count.
    pub(crate) face: LayerId,
    users: BTreeSet<User>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BranchNode {
    pub(crate) parent: Option<BranchId>,
    pub(crate) owner: Owner,
    pub(crate) top: LayerId,
    /// The most it may come to hold of its own.
    pub(crate) max_bytes: Option<u64>,
}

/// An edit does not fit the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    NoSuchBranch(BranchId),
    BranchExists(BranchId),
    Layers,
}

#[derive(Clone, Debug)]
pub(crate) struct Graph {
    layers: BTreeMap<LayerId, LayerNode>,
    branches: HashMap<BranchId, BranchNode>,
    /// Every branch number ever used.
    used: Numbers,
    next_layer: Option<LayerId>,
}

/// Numbers that were given out and not used yet make no difference.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.layers == other.layers && self.branches == other.branches && self.used == other.used
    }
}

impl Graph {
    pub(crate) fn new() -> Self {
        Self {
            layers: BTreeMap::new(),
            branches: HashMap::new(),
            used: Numbers::default(),
            next_layer: Some(LayerId::FIRST),
        }
    }

    /// A layer number never used before.
    pub(crate) fn allocate_layer(&mut self) -> Option<LayerId> {
        let layer = self.next_layer?;
        self.next_layer = layer.next();
        Some(layer)
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = (LayerId, &LayerNode)> + '_ {
        self.layers.iter().map(|(layer, node)| (*layer, node))
    }

    /// All layers, each after the one it lies on.
    pub(crate) fn layers_upwards(&self) -> impl Iterator<Item = (LayerId, &LayerNode)> + '_ {
        let is_known = |base: LayerId| self.layers.contains_key(&base);
        let lowest = self.layers().filter(|(_, node)| !node.base.is_some_and(is_known));
        let mut open: Vec<_> = lowest.map(|(layer, _)| layer).collect();
        std::iter::from_fn(move || {
            let layer = open.pop()?;
            let node = self.layers.get(&layer)?;
            open.extend(node.users.iter().filter_map(|user| match user {
                User::Layer(above) => Some(*above),
                User::Branch(_) => None,
            }));
            Some((layer, node))
        })
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
            // All but the first are checked as a whole; see `state`.
            BranchEdit::State { .. } => {
                if self.is_new() {
                    Ok(())
                } else {
                    Err(Misfit::Layers)
                }
            }
            BranchEdit::Layer { .. } | BranchEdit::Branch { .. } | BranchEdit::Used { .. } => {
                Ok(())
            }
            BranchEdit::Delete { branch }
            | BranchEdit::SetOwner { branch, .. }
            | BranchEdit::Limit { branch, .. } => {
                self.branch(*branch).map(|_| ()).ok_or(Misfit::NoSuchBranch(*branch))
            }
        }
    }

    /// Applies an edit. Returns the layers that nothing stands on any more.
    pub(crate) fn apply(&mut self, edit: &BranchEdit) -> Result<Vec<LayerId>, Misfit> {
        self.check(edit)?;
        match edit {
            BranchEdit::Create { branch, owner, top } => {
                self.add_layer(*top, None, *branch);
                let node = BranchNode { parent: None, owner: *owner, top: *top, max_bytes: None };
                self.add_branch(*branch, node);
            }
            BranchEdit::Fork { parent, child, owner, layers } => {
                self.fork(*parent, *child, layers);
                let (parent, owner, top) = (Some(*parent), *owner, layers.child_top);
                let node = BranchNode { parent, owner, top, max_bytes: None };
                self.add_branch(*child, node);
            }
            BranchEdit::Delete { branch } => {
                let node = self.branches.remove(branch).ok_or(Misfit::NoSuchBranch(*branch))?;
                return Ok(self.release(node.top, *branch));
            }
            BranchEdit::Merge { lower, upper } => self.merge(*lower, *upper),
            BranchEdit::SetOwner { branch, owner } => {
                self.branches.get_mut(branch).ok_or(Misfit::NoSuchBranch(*branch))?.owner = *owner;
            }
            BranchEdit::State { next_layer, .. } => self.next_layer = *next_layer,
            BranchEdit::Layer { layer, base, filtered, face } => {
                self.restore_layer(*layer, (*base, *filtered, *face));
            }
            BranchEdit::Branch { branch, parent, owner, seat } => {
                let Seat { top, max_bytes } = *seat;
                let users = self.layers.get_mut(&top).map(|node| &mut node.users);
                users.ok_or(Misfit::Layers)?.insert(User::Branch(*branch));
                let node = BranchNode { parent: *parent, owner: *owner, top, max_bytes };
                self.branches.insert(*branch, node);
            }
            BranchEdit::Used { first, last } => self.used.insert(first.get(), last.get()),
            BranchEdit::Limit { branch, max_bytes } => {
                let node = self.branches.get_mut(branch).ok_or(Misfit::NoSuchBranch(*branch))?;
                node.max_bytes = *max_bytes;
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
            alone = alone && node.users.len() == 1;
            next = node.base;
            Some((layer, alone))
        })
    }

    /// The branches whose chain holds `layer`.
    pub(crate) fn branches_above(&self, layer: LayerId) -> Vec<BranchId> {
        let (mut found, mut open) = (Vec::new(), vec![layer]);
        while let Some(node) = open.pop().and_then(|layer| self.layers.get(&layer)) {
            for user in &node.users {
                match user {
                    User::Layer(above) => open.push(*above),
                    User::Branch(branch) => found.push(*branch),
                }
            }
        }
        found
    }

    /// The branch whose chain holds `layer`, if there is just one.
    pub(crate) fn sole_branch(&self, layer: LayerId) -> Option<BranchId> {
        let mut at = layer;
        loop {
            let users = &self.layers.get(&at)?.users;
            match users.first()? {
                _ if users.len() > 1 => return None,
                User::Branch(branch) => return Some(*branch),
                User::Layer(above) => at = *above,
            }
        }
    }

    /// The layers from `layer` down that only one thing stands on each.
    pub(crate) fn run_below(&self, layer: LayerId) -> impl Iterator<Item = LayerId> + '_ {
        let mut next = Some(layer);
        std::iter::from_fn(move || {
            let layer = next?;
            let node = self.layers.get(&layer).filter(|node| node.users.len() == 1)?;
            next = node.base;
            Some(layer)
        })
    }

    /// Whether nothing but `upper` stands on `lower`, and no branch directly on that.
    pub(crate) fn may_merge(&self, lower: LayerId, upper: LayerId) -> bool {
        let carries_branch = |node: &LayerNode| matches!(node.users.last(), Some(User::Branch(_)));
        self.sole_layer(lower) == Some(upper)
            && self.layers.get(&upper).is_some_and(|node| !carries_branch(node))
    }

    /// The layer that stands on `lower`, if nothing else does.
    pub(crate) fn sole_layer(&self, lower: LayerId) -> Option<LayerId> {
        let users = &self.layers.get(&lower)?.users;
        match users.first()? {
            User::Layer(upper) if users.len() == 1 => Some(*upper),
            _ => None,
        }
    }

    /// Layers that one layer stands on, with that layer.
    pub(crate) fn single_users(&self) -> impl Iterator<Item = (LayerId, LayerId)> + '_ {
        self.layers().filter_map(|(upper, node)| {
            let lower = node.base?;
            (self.layers.get(&lower)?.users.len() == 1).then_some((lower, upper))
        })
    }

    /// Whether its namespace begins as the base's less what the identity filter hides.
    pub(crate) fn is_filtered(&self, layer: LayerId) -> bool {
        self.layers.get(&layer).is_some_and(|node| node.filtered)
    }

    pub(crate) fn face(&self, layer: LayerId) -> Option<LayerId> {
        Some(self.layers.get(&layer)?.face)
    }

    /// Records that tell all of it, the first of them how many follow.
    pub(crate) fn state(&self) -> Vec<BranchEdit> {
        let layers = self.layers_upwards().map(|(layer, node)| BranchEdit::Layer {
            layer,
            base: node.base,
            filtered: node.filtered,
            face: node.face,
        });
        let branches: BTreeMap<_, _> = self.branches.iter().collect();
        let branches = branches.into_iter().map(|(branch, node)| BranchEdit::Branch {
            branch: *branch,
            parent: node.parent,
            owner: node.owner,
            seat: Seat { top: node.top, max_bytes: node.max_bytes },
        });
        let number = |number| BranchId::new(number).ok();
        let used = self.used.runs().filter_map(|(first, last)| {
            Some(BranchEdit::Used { first: number(first)?, last: number(last)? })
        });
        let mut state: Vec<_> = layers.chain(branches).chain(used).collect();
        let records = state.len() as u64;
        state.insert(0, BranchEdit::State { records, next_layer: self.next_layer });
        state
    }

    /// Whether the number was given to a layer once, as far as is recorded.
    pub(crate) fn was_given_out(&self, layer: LayerId) -> bool {
        self.next_layer.is_none_or(|next| layer < next)
    }

    fn is_new(&self) -> bool {
        self.layers.is_empty() && self.next_layer == Some(LayerId::FIRST)
    }

    fn restore_layer(
        &mut self,
        layer: LayerId,
        (base, filtered, face): (Option<LayerId>, bool, LayerId),
    ) {
        if let Some(below) = base.and_then(|base| self.layers.get_mut(&base)) {
            below.users.insert(User::Layer(layer));
        }
        self.layers.insert(layer, LayerNode { base, filtered, face, users: BTreeSet::new() });
    }

    /// What stood on `upper` stands on `lower` now.
    fn merge(&mut self, lower: LayerId, upper: LayerId) {
        let Some(gone) = self.layers.remove(&upper) else { return };
        for user in &gone.users {
            if let User::Layer(above) = user
                && let Some(node) = self.layers.get_mut(above)
            {
                node.base = Some(lower);
            }
        }
        if let Some(node) = self.layers.get_mut(&lower) {
            node.users = gone.users;
            node.face = upper;
        }
    }

    fn check_new(&self, branch: BranchId) -> Result<(), Misfit> {
        if self.used.contains(branch.get()) { Err(Misfit::BranchExists(branch)) } else { Ok(()) }
    }

    fn fork(&mut self, parent: BranchId, child: BranchId, layers: &ForkLayers) {
        if let Some(node) = self.branches.get_mut(&parent) {
            let old_top = std::mem::replace(&mut node.top, layers.parent_top);
            if old_top != layers.parent_top {
                self.add_layer(layers.parent_top, Some(layers.base), parent);
                self.release(old_top, parent);
            }
        }
        self.add_layer(layers.child_top, Some(layers.base), child);
        if let Some(node) = self.layers.get_mut(&layers.child_top) {
            node.filtered = true;
        }
    }

    /// Adds a layer that `branch` stands on.
    fn add_layer(&mut self, layer: LayerId, base: Option<LayerId>, branch: BranchId) {
        if let Some(below) = base.and_then(|base| self.layers.get_mut(&base)) {
            below.users.insert(User::Layer(layer));
        }
        let users = BTreeSet::from([User::Branch(branch)]);
        self.layers.insert(layer, LayerNode { base, filtered: false, face: layer, users });
        self.next_layer = self.next_layer.max(layer.next());
    }

    fn add_branch(&mut self, branch: BranchId, node: BranchNode) {
        self.used.insert(branch.get(), branch.get());
        self.branches.insert(branch, node);
    }

    /// `branch` stands on `layer` no more. Returns what nothing stands on then.
    fn release(&mut self, layer: LayerId, branch: BranchId) -> Vec<LayerId> {
        let mut unreachable = Vec::new();
        let mut next = Some((layer, User::Branch(branch)));
        while let Some((layer, user)) = next {
            let Some(node) = self.layers.get_mut(&layer) else { break };
            node.users.remove(&user);
            if !node.users.is_empty() {
                break;
            }
            next = node.base.map(|base| (base, User::Layer(layer)));
            self.layers.remove(&layer);
            unreachable.push(layer);
        }
        unreachable
    }
}
