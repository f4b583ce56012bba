//! Loads Postgres ahead of the next start.

use std::sync::Arc;
use std::time::Duration;

use super::Computes;
use crate::cause::Causes;
use crate::postgres::Compute;

/// Who waited for the compute that has just come up sends its first query now.
const AFTER_START: Duration = Duration::from_millis(100);

impl Computes {
    /// Has the program of this compute loaded for the next one, in a while.
    pub(super) fn prepare_next(&self, compute: Arc<Compute>) {
        let computes = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(AFTER_START).await;
            if computes.is_stopping() {
                return;
            }
            let work = move || compute.prepare_next(&computes.0.spares);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
                tracing::debug!(error = %Causes(&error), "the next compute is loaded when it starts");
            }
        });
    }
}
