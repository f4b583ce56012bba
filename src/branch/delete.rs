//! Deleting a branch: its endpoint goes first, then its compute, then its pages, then its row.

use std::sync::Arc;

use super::{BranchError, Branches};
use crate::catalog::{BranchRecord, BranchState, ConnectorId};

impl Branches {
    /// Deletes a branch of a connector. Children cut from it live on.
    pub async fn delete(
        self: &Arc<Self>,
        connector: ConnectorId,
        name: &str,
    ) -> Result<(), BranchError> {
        let branches = self.clone();
        let name = name.to_owned();
        let work = tokio::spawn(async move {
            let _job = branches.services.jobs.begin("delete branch", &name);
            let _turn = branches.names.lock(connector, &name).await;
            let branch = branches.find(connector, &name)?;
            branches.remove(&branch).await
        });
        work.await.map_err(|_| BranchError::Stopping)?
    }

    /// Removes what there is of a branch, however far it got. Safe to repeat.
    pub(super) async fn remove(&self, branch: &BranchRecord) -> Result<(), BranchError> {
        let services = &self.services;
        services.catalog.set_branch_state(branch.number, BranchState::Deleting)?;
        if let Some(endpoint) = &branch.made.endpoint {
            self.by_endpoint.remove(endpoint);
        }
        self.failed.remove(&branch.number);
        services.computes.remove(branch.number).await?;
        services.store.delete(branch.number).await?;
        services.computes.remove_wal(branch.number).await?;
        services.catalog.delete_branch(branch.number)?;
        tracing::info!(branch = %branch.made.name, number = branch.number.get(), "deleted branch");
        Ok(())
    }
}
