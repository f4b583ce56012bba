//! What a store says of its branches.

use super::{Store, broken};
use crate::error::Error;
use crate::id::BranchId;
use crate::locks;
use crate::wire::{BranchSummary, Usage};

impl Store {
    /// What a branch costs.
    pub(crate) fn usage(&self, branch: BranchId) -> Result<Usage, Error> {
        let served = self.branch(branch)?;
        let unique = served.unique_bytes();
        Ok(Usage {
            unique_bytes: unique,
            shared_bytes: served.account.shared(),
            reclaimable_bytes: unique,
            logical_bytes: served.logical_bytes(),
            max_bytes: served.max_bytes(),
            failed: served.failure().map(str::to_owned),
        })
    }

    /// All branches by number, those that are not served too.
    pub(crate) fn list(&self) -> Result<Vec<BranchSummary>, Error> {
        let mut list: Vec<_> = locks::read(&self.holdings.branches)
            .map_err(|_| broken())?
            .values()
            .map(|branch| BranchSummary {
                branch: branch.id,
                parent: branch.parent,
                owner: branch.owner(),
                failed: branch.failure().map(str::to_owned),
            })
            .collect();
        let lost = &self.holdings.lost;
        if !lost.is_empty() {
            let shape = self.shape()?;
            list.extend(shape.graph.branches().filter_map(|(branch, node)| {
                let failed = Some(lost.get(&node.top)?.clone());
                Some(BranchSummary { branch, parent: node.parent, owner: node.owner, failed })
            }));
        }
        list.sort_unstable_by_key(|summary| summary.branch);
        Ok(list)
    }

    /// Layers below the top of a branch, that included.
    #[cfg(test)]
    pub(crate) fn depth(&self, branch: BranchId) -> usize {
        self.holdings.shape.lock().unwrap().graph.chain(branch).count()
    }

    /// Unique and shared bytes of a branch by the ledger, and by walking its chain.
    #[cfg(test)]
    pub(crate) fn both_counts(&self, branch: BranchId) -> [(u64, u64); 2] {
        let shape = self.holdings.shape.lock().unwrap();
        let account = shape.ledger.account(branch);
        let top = shape.layers[&shape.graph.branch(branch).unwrap().top].bytes();
        let of = |wanted: bool| {
            let layers = shape.graph.chain(branch).filter(|(_, alone)| *alone == wanted);
            layers.map(|(layer, _)| shape.layers[&layer].bytes()).sum()
        };
        [(account.unique() + top, account.shared()), (of(true), of(false))]
    }
}
