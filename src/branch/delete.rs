//! Deleting a branch: its endpoint goes first, then its compute, then its pages, then its row.
//!
//! Where a step fails, as while the store is started again, the branch is *going*: nobody reaches
//! it, and the rest is tried again until it is done, or done by the next server. Its name is free
//! when nothing of it is left, so whoever wants the name does the rest first.

use std::sync::Arc;
use std::time::Duration;

use super::{BranchError, Branches};
use crate::catalog::{BranchRecord, BranchState, ConnectorId};
use crate::cause::Causes;

/// Between two tries; the store is back in a second or two.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

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
            match branches.find(connector, &name) {
                Ok(branch) => branches.remove(&branch).await,
                Err(unknown) => match branches.going(connector, &name) {
                    Some(branch) => branches.remove(&branch).await,
                    None => Err(unknown),
                },
            }
        });
        work.await.map_err(|_| BranchError::Stopping)?
    }

    /// Removes what there is of a branch, however far it got, and tries again later what failed.
    /// Safe to repeat.
    pub(super) async fn remove(
        self: &Arc<Self>,
        branch: &Arc<BranchRecord>,
    ) -> Result<(), BranchError> {
        self.services.catalog.set_branch_state(branch.number, BranchState::Deleting)?;
        if let Some(endpoint) = &branch.made.endpoint {
            self.by_endpoint.remove(endpoint);
        }
        self.failed.remove(&branch.number);
        let is_first = self.going.insert(branch.number, branch.clone()).is_none();
        let outcome = self.remove_rest(branch).await;
        if outcome.is_err() && is_first {
            tokio::spawn(self.clone().keep_removing(branch.clone()));
        }
        outcome
    }

    /// Does what is left to do for whoever had this name before.
    pub(super) async fn free_name(
        self: &Arc<Self>,
        connector: ConnectorId,
        name: &str,
    ) -> Result<(), BranchError> {
        match self.going(connector, name) {
            Some(branch) => self.remove(&branch).await,
            None => Ok(()),
        }
    }

    pub(super) async fn remove_rest(&self, branch: &BranchRecord) -> Result<(), BranchError> {
        let services = &self.services;
        services.computes.remove(branch.number).await?;
        services.store.delete(branch.number).await?;
        services.computes.remove_wal(branch.number).await?;
        services.catalog.delete_branch(branch.number)?;
        self.going.remove(&branch.number);
        tracing::info!(branch = %branch.made.name, number = branch.number.get(), "deleted branch");
        Ok(())
    }

    async fn keep_removing(self: Arc<Self>, branch: Arc<BranchRecord>) {
        let mut pause = PAUSE_MIN;
        loop {
            tokio::time::sleep(pause).await;
            let _turn = self.names.lock(branch.made.connector, &branch.made.name).await;
            if !self.going.contains_key(&branch.number) {
                return;
            }
            let Err(error) = self.remove_rest(&branch).await else { return };
            let (name, error) = (&branch.made.name, Causes(&error));
            tracing::warn!(branch = %name, %error, "branch is not deleted yet");
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn going(&self, connector: ConnectorId, name: &str) -> Option<Arc<BranchRecord>> {
        let is_meant = |branch: &Arc<BranchRecord>| {
            branch.made.connector == connector && branch.made.name == name
        };
        self.going.iter().map(|entry| entry.value().clone()).find(is_meant)
    }
}
