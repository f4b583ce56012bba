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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::graph::Graph;
use crate::id::{BranchId, LayerId};

/// Bytes of the frozen layers of one branch. Changed under the lock of the store's shape.
#[derive(Debug, Default)]
pub(crate) struct Account {
    unique: AtomicU64,
    shared: AtomicU64,
}

impl Account {
    fn new(unique: u64, shared: u64) -> Arc<Self> {
        Arc::new(Self { unique: AtomicU64::new(unique), shared: AtomicU64::new(shared) })
    }

    /// Bytes of frozen layers that only this branch stands on.
    pub(crate) fn unique(&self) -> u64 {
        self.unique.load(Ordering::Relaxed)
    }

    /// Bytes of those that others stand on too.
    pub(crate) fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    fn set(&self, unique: u64, shared: u64) {
        self.unique.store(unique, Ordering::Relaxed);
        self.shared.store(shared, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: HashMap<BranchId, Arc<Account>>,
}

impl Ledger {
    /// Counts everything once.
    pub(crate) fn count(graph: &Graph, bytes: impl Fn(LayerId) -> u64) -> Self {
        let mut ledger = Self::default();
        for (branch, node) in graph.branches() {
            let (mut unique, mut shared) = (0, 0);
            for (layer, alone) in graph.chain(branch).filter(|(layer, _)| *layer != node.top) {
                *(if alone { &mut unique } else { &mut shared }) += bytes(layer);
            }
            ledger.accounts.insert(branch, Account::new(unique, shared));
        }
        ledger
    }

    /// The account of a branch; an empty one if there is none.
    pub(crate) fn account(&self, branch: BranchId) -> Arc<Account> {
        self.accounts.get(&branch).cloned().unwrap_or_default()
    }

    /// `branch` stands on nothing but its top.
    pub(crate) fn created(&mut self, branch: BranchId) {
        self.accounts.insert(branch, Account::new(0, 0));
    }

    /// All that `parent` stood on is shared with `child` now, `frozen` bytes of its old top too.
    pub(crate) fn forked(&mut self, parent: BranchId, child: BranchId, frozen: u64) {
        let account = self.account(parent);
        let shared = account.unique() + account.shared() + frozen;
        account.set(0, shared);
        self.accounts.insert(child, Account::new(0, shared));
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
        let account = self.account(heir);
        account.set(account.unique() + inherited, account.shared().saturating_sub(inherited));
    }

    /// The frozen layers from which `layer` was made had `before` bytes, it has `after`.
    pub(crate) fn resized(&mut self, graph: &Graph, layer: LayerId, (before, after): (u64, u64)) {
        let above = graph.branches_above(layer);
        let alone = above.len() == 1;
        for account in above.into_iter().map(|branch| self.account(branch)) {
            let (unique, shared) = (account.unique(), account.shared());
            let moved = |held: u64| (held + after).saturating_sub(before);
            if alone {
                account.set(moved(unique), shared);
            } else {
                account.set(unique, moved(shared));
            }
        }
    }
}
