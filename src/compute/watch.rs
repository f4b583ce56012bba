//! Computes that end unasked. What their roles log in with may have changed since it was stored,
//! and no login may wake a compute to find out: so each is started once more, by the server.
//!
//! | found | by | done |
//! |---|---|---|
//! | a running compute ends | its watcher | started again, at most once a minute |
//! | the record of a dead one | [`Computes::died_unseen`], at start | woken, then suspended |

use std::sync::Arc;
use std::time::Duration;

use super::slot::Slot;
use super::{ComputeError, ComputePhase, ComputeTarget, Computes};
use crate::cause::Causes;
use crate::postgres::{Compute, ComputeKind};

impl Computes {
    /// Whether a branch's compute ended while no server watched. Ask before [`Computes::adopt`]
    /// cleans up, and only of what was not adopted.
    pub fn died_unseen(&self, target: &ComputeTarget) -> bool {
        let record = self.0.places.data_dir.compute_state(target.branch);
        target.kind == ComputeKind::Branch && record.exists()
    }

    /// Stores what the roles of a branch log in with, waking it for that.
    pub async fn refresh(&self, target: ComputeTarget) -> Result<(), ComputeError> {
        let slot = self.slot(target.clone());
        drop(self.wake(target).await?);
        self.suspend(&slot, Duration::ZERO).await
    }

    /// Watches a compute that has just come up, or was adopted, until it ends.
    pub(super) fn watch(&self, slot: Arc<Slot>, compute: Arc<Compute>) {
        let computes = self.clone();
        tokio::spawn(async move {
            let exit = compute.wait_exit().await;
            let branch = slot.target.branch.get();
            if !computes.note_end(&slot, &compute).await {
                return;
            }
            tracing::warn!(branch, %exit, "compute ended unasked");
            if slot.target.kind == ComputeKind::Branch && slot.may_revive() {
                let woken = computes.wake(slot.target.clone()).await;
                if let Err(error) = woken {
                    tracing::error!(branch, error = %Causes(&error), "start compute again");
                }
            }
        });
    }

    /// True if the compute ended unasked: whoever stops one holds the lock, and takes it out.
    async fn note_end(&self, slot: &Slot, compute: &Arc<Compute>) -> bool {
        let current = slot.compute.lock().await;
        let stays = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, compute));
        if stays && !slot.is_retired() {
            slot.enter(ComputePhase::Stopped);
            self.0.tally.note_death();
        }
        stays && !slot.is_retired() && !self.is_stopping()
    }
}
