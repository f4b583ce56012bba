//! Comparing a trunk with its source, by way of a branch that nobody sees.
//!
//! The trunk goes on as soon as the branch is cut, however long the comparison takes. The branch
//! has a row in state `Creating` and no endpoint, so a server that dies leaves nothing: the next
//! one removes it as an unfinished branch.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{BranchError, Branches};
use crate::catalog::{BranchKind, BranchRecord, NewBranch};
use crate::cause::Causes;
use crate::compute::ComputeTarget;
use crate::connector::{Connector, CutRequest};
use crate::postgres::OWNER_ROLE;
use crate::replication::{Comparison, Scope, TrunkAccess, compare};

/// Stands where a branch's name does. The blank keeps it apart from every name of a user.
const NAME: &str = "verify -";

impl Branches {
    /// Compares. One comparison of a connector at a time; one whose caller leaves is given up.
    pub async fn verify(
        self: &Arc<Self>,
        connector: Arc<Connector>,
        scope: Scope,
    ) -> Result<Comparison, BranchError> {
        let left = CancellationToken::new();
        let _guard = left.clone().drop_guard();
        let branches = self.clone();
        let work = tokio::spawn(async move {
            let _turn = branches.names.lock(connector.id(), NAME).await;
            branches.free_name(connector.id(), NAME).await?;
            let record = Arc::new(branches.insert_hidden(&connector)?);
            let outcome = tokio::select! {
                () = left.cancelled() => Err(BranchError::Stopping),
                outcome = branches.compare_at(&record, &connector, &scope) => outcome,
            };
            if let Err(error) = branches.remove(&record).await {
                tracing::warn!(error = %Causes(&error), "branch of a comparison is deleted later");
            }
            outcome
        });
        work.await.map_err(|_| BranchError::Stopping)?
    }

    fn insert_hidden(&self, connector: &Connector) -> Result<BranchRecord, BranchError> {
        Ok(self.services.catalog.insert_branch(&NewBranch {
            kind: BranchKind::User,
            connector: connector.id(),
            name: NAME.to_owned(),
            endpoint: None,
            parent: None,
            major: connector.major()?,
            database: connector.database().to_owned(),
            role: OWNER_ROLE.to_owned(),
            password: None,
            verifier: None,
            default_database: None,
            max_size_bytes: None,
        })?)
    }

    async fn compare_at(
        &self,
        record: &BranchRecord,
        connector: &Connector,
        scope: &Scope,
    ) -> Result<Comparison, BranchError> {
        let services = &self.services;
        let request = CutRequest {
            branch: record.number,
            freshness_timeout: services.config.freshness_timeout(),
        };
        let cut = connector.cut_at_reference(request).await?;
        let lease = services.computes.wake(ComputeTarget::of(record)).await?;
        let copy = TrunkAccess {
            socket_dir: lease.compute().socket_dir().to_owned(),
            database: record.made.database.clone(),
        };
        let outcome = compare(&cut.link, &cut.reference, &copy, scope).await;
        cut.reference.release().await;
        Ok(outcome?)
    }
}
