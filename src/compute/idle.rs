//! Suspending: a branch that nobody has used for a while gives its compute back.
//!
//! The gate closes first (the slot's lock; whoever connects now waits), then the leases are
//! counted, then the compute itself is asked, and only then it is stopped. What its roles'
//! passwords were is stored before, so that a login can be checked without waking it.

use std::sync::Arc;
use std::time::Duration;

use super::slot::Slot;
use super::{ComputeError, Computes};
use crate::catalog::RoleVerifier;
use crate::postgres::{self, Compute, ComputeKind};

impl Computes {
    /// Suspends every branch that has been idle for `limit`. Trunks are never idle.
    pub async fn suspend_idle(&self, limit: Duration) {
        let slots: Vec<_> = self.0.slots.iter().map(|entry| entry.value().clone()).collect();
        for slot in slots {
            let idle = slot.target.kind == ComputeKind::Branch && slot.idle_for() >= limit;
            if idle && let Err(error) = self.suspend(&slot, limit).await {
                tracing::warn!(branch = slot.target.branch.get(), %error, "suspend branch");
            }
        }
    }

    async fn suspend(&self, slot: &Arc<Slot>, limit: Duration) -> Result<(), ComputeError> {
        let mut guard = slot.compute.lock().await;
        let Some(compute) = guard.clone().filter(|compute| compute.is_running()) else {
            return Ok(());
        };
        if slot.idle_for() < limit || self.is_busy(&compute).await? {
            return Ok(());
        }
        self.store_verifiers(slot, &compute).await?;
        compute.stop(self.stop_limits()).await.map_err(Arc::new)?;
        *guard = None;
        tracing::info!(branch = slot.target.branch.get(), "suspended idle branch");
        Ok(())
    }

    async fn is_busy(&self, compute: &Compute) -> Result<bool, ComputeError> {
        Ok(postgres::is_busy(compute.socket_dir()).await.map_err(Arc::new)?)
    }

    async fn store_verifiers(&self, slot: &Slot, compute: &Compute) -> Result<(), ComputeError> {
        let roles = postgres::verifiers(compute.socket_dir()).await.map_err(Arc::new)?;
        let roles: Vec<_> = roles
            .into_iter()
            .map(|role| RoleVerifier {
                role: role.name,
                verifier: role.verifier,
                valid_until: role.valid_until,
                can_login: role.can_login,
            })
            .collect();
        let stored = self.0.catalog.set_role_verifiers(slot.target.branch, &roles);
        Ok(stored.map_err(Arc::new)?)
    }
}
