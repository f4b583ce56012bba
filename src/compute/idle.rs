//! Suspending: a branch that nobody has used for a while gives its compute back.
//!
//! The gate closes first (the slot's lock; whoever connects now waits), then the leases are
//! counted, then the compute itself is asked, and only then it is stopped. What its roles'
//! passwords were is stored before, so that a login can be checked without waking it.

use std::sync::Arc;
use std::time::Duration;

use storage::BranchId;

use super::slot::Slot;
use super::{ComputeError, ComputePhase, Computes};
use crate::catalog::RoleVerifier;
use crate::cause::Causes;
use crate::postgres::{self, Compute, ComputeKind, Session};

impl Computes {
    /// Suspends every branch that has been idle for its limit, which `limit_of` knows; none means
    /// never. Trunks are never idle.
    pub async fn suspend_idle(&self, limit_of: impl Fn(BranchId) -> Option<Duration> + Send) {
        let slots: Vec<_> = self.0.slots.iter().map(|entry| entry.value().clone()).collect();
        for slot in slots {
            let Some(limit) = limit_of(slot.target.branch) else { continue };
            let idle = slot.target.kind == ComputeKind::Branch && slot.idle_for() >= limit;
            if idle && let Err(error) = self.suspend(&slot, limit).await {
                tracing::warn!(branch = slot.target.branch.get(), error = %Causes(&error), "suspend branch");
            }
        }
    }

    pub(super) async fn suspend(
        &self,
        slot: &Arc<Slot>,
        limit: Duration,
    ) -> Result<(), ComputeError> {
        let mut guard = slot.compute.lock().await;
        let Some(compute) = guard.clone().filter(|compute| compute.is_running()) else {
            return Ok(());
        };
        if slot.idle_for() < limit || is_busy(&compute).await? {
            return Ok(());
        }
        slot.enter(ComputePhase::Stopping);
        let stopped = async {
            self.keep_verifiers(slot.target.branch, &compute).await?;
            compute.stop().await.map_err(Arc::new)?;
            Ok::<_, ComputeError>(())
        };
        if let Err(error) = stopped.await {
            slot.enter(ComputePhase::Running);
            return Err(error);
        }
        *guard = None;
        slot.enter(ComputePhase::Stopped);
        self.0.tally.note_suspend();
        tracing::info!(branch = slot.target.branch.get(), "suspended idle branch");
        Ok(())
    }

    /// Stores what a running branch's roles log in with, for the time when it does not run.
    pub(super) async fn keep_verifiers(
        &self,
        branch: BranchId,
        compute: &Compute,
    ) -> Result<(), ComputeError> {
        let roles = read_verifiers(compute).await?;
        Ok(self.0.catalog.set_role_verifiers(branch, &roles).map_err(Arc::new)?)
    }

    /// What the roles of a running branch log in with, from its own Postgres. `None`: it does not
    /// run, or not any more or not yet; what is stored is as good then, and a login does not wait.
    pub async fn verifiers(
        &self,
        branch: BranchId,
    ) -> Result<Option<Vec<RoleVerifier>>, ComputeError> {
        let phase = self.0.slots.get(&branch).map(|slot| slot.phase());
        if phase != Some(ComputePhase::Running) {
            return Ok(None);
        }
        match self.running(branch).await {
            Some(compute) => Ok(Some(read_verifiers(&compute).await?)),
            None => Ok(None),
        }
    }
}

async fn is_busy(compute: &Compute) -> Result<bool, ComputeError> {
    let session = Session::system(compute.socket_dir()).await.map_err(Arc::new)?;
    let activity = postgres::activity(&session).await.map_err(Arc::new)?;
    Ok(!activity.is_idle())
}

async fn read_verifiers(compute: &Compute) -> Result<Vec<RoleVerifier>, ComputeError> {
    let session = Session::system(compute.socket_dir()).await.map_err(Arc::new)?;
    let roles = postgres::verifiers(&session).await.map_err(Arc::new)?;
    let stored = |role: postgres::RoleVerifier| RoleVerifier {
        role: role.role,
        verifier: role.verifier.map(|verifier| verifier.reveal().to_owned()),
        valid_until: role.valid_until,
        can_login: role.can_login,
    };
    Ok(roles.into_iter().map(stored).collect())
}
