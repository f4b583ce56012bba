//! Forking what a branch holds: its pages in the store, its write-ahead log beside it.

use std::path::Path;
use std::sync::Arc;

use storage::BranchId;
use storage::client::StoreClient;

use super::slot::Slot;
use super::{ComputeError, ComputeTarget, Computes};
use crate::cause::Causes;
use crate::postgres::{ComputeKind, PostgresError, Session, wal};

/// Bytes of log since the last checkpoint past which a fork would have to copy and to replay so
/// much that a checkpoint comes first. With less of it the fork is there sooner without.
const WAL_BYTES_MAX: u64 = 8 << 20;

impl Computes {
    /// Makes a branch that holds what another holds now. The other's compute may run, but neither
    /// starts nor stops meanwhile. Nothing of it is durable before it has been started.
    pub async fn fork(&self, parent: &ComputeTarget, child: BranchId) -> Result<(), ComputeError> {
        let slot = self.slot(parent.clone());
        let _still = slot.compute.lock().await;
        let places = &self.0.places;
        let kind = ComputeKind::Branch;
        let target = ComputeTarget { branch: child, kind, ..parent.clone() };
        let spec = places.spec(&target)?;
        let (owner, from) = (places.owner(child), parent.branch);
        let parent_wal = places.data_dir.wal(from);
        let call = move |client: &mut StoreClient| {
            let pinned = match wal::pin(&parent_wal) {
                Ok(pinned) => pinned,
                Err(error) => return Ok(Err(error)),
            };
            client.fork_tentative(from, child, owner)?;
            Ok(pinned.copy_to(&spec))
        };
        self.0.store.call(call).await.map_err(Arc::new)?.map_err(Arc::new)?;
        self.slot(target).set_tentative(true);
        Ok(())
    }

    /// Makes durable what a new branch holds, but for its log, and all that it syncs from then on.
    pub(super) async fn confirm(&self, slot: &Slot) -> Result<(), ComputeError> {
        let branch = slot.target.branch;
        let call = move |client: &mut StoreClient| client.confirm(branch);
        self.0.store.call(call).await.map_err(Arc::new)?;
        slot.set_tentative(false);
        Ok(())
    }

    /// Makes the log of a new branch durable, also beside its start.
    pub async fn sync_wal(&self, branch: BranchId) -> Result<(), ComputeError> {
        self.with_wal(branch, wal::sync).await
    }

    /// Bytes of a branch's log on disk.
    pub async fn wal_bytes(&self, branch: BranchId) -> Result<u64, ComputeError> {
        self.with_wal(branch, wal::bytes_of).await
    }

    /// Removes the log of a branch that is gone from the store.
    pub async fn remove_wal(&self, branch: BranchId) -> Result<(), ComputeError> {
        self.with_wal(branch, wal::remove).await
    }

    async fn with_wal<T: Send + 'static>(
        &self,
        branch: BranchId,
        work: fn(&Path) -> Result<T, PostgresError>,
    ) -> Result<T, ComputeError> {
        let wal_dir = self.0.places.data_dir.wal(branch);
        let done = tokio::task::spawn_blocking(move || work(&wal_dir)).await;
        Ok(done.map_err(|_stopped| ComputeError::Stopping)?.map_err(Arc::new)?)
    }

    /// Has a compute, if it runs, write a checkpoint while it is still in use, if its log has grown
    /// long. A fork is right without it, only later.
    pub async fn shorten_wal(&self, branch: BranchId) {
        let Some(compute) = self.running(branch).await else { return };
        let shortened = async {
            if compute.wants_checkpoint(WAL_BYTES_MAX).await? {
                Session::system(compute.socket_dir()).await?.checkpoint().await?;
            }
            Ok::<(), PostgresError>(())
        };
        if let Err(error) = shortened.await {
            tracing::warn!(branch = branch.get(), error = %Causes(&error), "no checkpoint before a fork");
        }
    }
}
