//! What each branch costs, kept up to date with every change of shape, so that it is read at once.
//!
//! Bytes of a layer are the pages its files show, its journal and its manifest. A branch's *unique*
//! bytes are those of the layers that no other branch's chain holds, which deleting it would free;
//! the rest of its chain is *shared*. A top layer's bytes change with every write and are kept by
//! the layer itself; those of a frozen one change only when it is sealed or merged.
//!
//! Invariants, checked by `check/` against a count that walks every chain:
//! * unique + shared = the bytes of all layers of the branch's chain;
//! * a layer is among the unique ones of a branch if and only if no other branch is above it.

use std::collections::HashMap;

use crate::graph::Graph;
use crate::id::{BranchId, LayerId};

/// Bytes of the frozen layers of one branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) unique: u64,
    pub(crate) shared: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: HashMap<BranchId, Account>,
}

impl Ledger {
    /// Counts everything once.
    pub(crate) fn count(graph: &Graph, bytes: impl Fn(LayerId) -> u64) -> Self {
        let mut ledger = Self::default();
        for (branch, node) in graph.branches() {
            let account = ledger.accounts.entry(branch).or_default();
            for (layer, alone) in graph.chain(branch).filter(|(layer, _)| *layer != node.top) {
                *(if alone { &mut account.unique } else { &mut account.shared }) += bytes(layer);
            }
        }
        ledger
    }

    pub(crate) fn account(&self, branch: BranchId) -> Account {
        self.accounts.get(&branch).copied().unwrap_or_default()
    }

    /// `branch` stands on nothing but its top.
    pub(crate) fn created(&mut self, branch: BranchId) {
        self.accounts.insert(branch, Account::default());
    }

    /// All that `parent` stood on is shared with `child` now, `frozen` bytes of its old top too.
    pub(crate) fn forked(&mut self, parent: BranchId, child: BranchId, frozen: u64) {
        let before = self.account(parent);
        let after = Account { unique: 0, shared: before.unique + before.shared + frozen };
        self.accounts.insert(parent, after);
        self.accounts.insert(child, after);
    }

    /// `branch` is gone from `graph`; `below` is the highest layer of its chain that is left.
    pub(crate) fn deleted(
        &mut self,
        graph: &Graph,
        (branch, below): (BranchId, Option<LayerId>),
        bytes: impl Fn(LayerId) -> u64,
    ) {
        self.accounts.remove(&branch);
        let Some(below) = below else { return };
        let Some(heir) = graph.sole_branch(below) else { return };
        let inherited: u64 = graph.run_below(below).map(bytes).sum();
        let account = self.accounts.entry(heir).or_default();
        account.unique += inherited;
        account.shared = account.shared.saturating_sub(inherited);
    }

    /// The frozen layers from which `layer` was made had `before` bytes, it has `after`.
    pub(crate) fn resized(&mut self, graph: &Graph, layer: LayerId, (before, after): (u64, u64)) {
        let above = graph.branches_above(layer);
        let alone = above.len() == 1;
        for branch in above {
            let account = self.accounts.entry(branch).or_default();
            let held = if alone { &mut account.unique } else { &mut account.shared };
            *held = (*held + after).saturating_sub(before);
        }
    }
}
