//! What goes on beside serving: a dead store is replaced, idle branches are suspended; and what
//! is put right before serving: first copies that nobody makes any more, branches that only the
//! store knows.

use std::sync::Arc;
use std::time::Duration;

use storage::client::StoreClient;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerError;
use crate::catalog::{BranchKind, BranchRecord, BranchState, Catalog};
use crate::cause::Causes;
use crate::compute::{ComputePlaces, ComputeTarget, Computes};
use crate::config::Config;
use crate::store::{Store, StoreError};

/// Pause after a store could not be replaced; doubled with each failure in a row.
const REPLACE_PAUSE_MIN: Duration = Duration::from_millis(500);
const REPLACE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The store is greeted this often, to notice one that lives but hangs.
const GREETING_INTERVAL: Duration = Duration::from_secs(5);
/// Idle branches are looked for this often at most.
const IDLE_LOOK_MAX: Duration = Duration::from_secs(15);

/// The tasks that run beside serving.
pub(super) struct Housekeeping(TaskTracker);

impl Housekeeping {
    pub(super) fn start(
        config: &Config,
        store: &Arc<Store>,
        computes: &Computes,
        stop: &CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(replace_dead_stores(store.clone(), computes.clone(), stop.clone()));
        if config.branch.suspend_after_s > 0 {
            let limit = Duration::from_secs(config.branch.suspend_after_s);
            tasks.spawn(suspend_idle(computes.clone(), limit, stop.clone()));
        }
        tasks.close();
        Self(tasks)
    }

    pub(super) async fn join(self) {
        self.0.wait().await;
    }
}

async fn replace_dead_stores(store: Arc<Store>, computes: Computes, stop: CancellationToken) {
    let mut pause = REPLACE_PAUSE_MIN;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = store.ended() => {}
            () = silence(&store) => {
                tracing::error!("store process does not answer; killing it");
                store.kill().await;
            }
        }
        tracing::error!("store process ended; ending its computes and starting it again");
        match computes.replace_store().await {
            Ok(ended) => {
                tracing::warn!(restarted = ended, "store is back, computes are being restarted");
                pause = REPLACE_PAUSE_MIN;
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "replace store");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(REPLACE_PAUSE_MAX);
            }
        }
    }
}

/// Resolves when the store has not answered a greeting in time.
async fn silence(store: &Store) {
    let mut greetings = tokio::time::interval(GREETING_INTERVAL);
    loop {
        greetings.tick().await;
        if let Err(StoreError::Silent(_)) = store.call(|_greeted| Ok(())).await {
            return;
        }
    }
}

async fn suspend_idle(computes: Computes, limit: Duration, stop: CancellationToken) {
    let mut looks = tokio::time::interval((limit / 4).clamp(Duration::from_secs(1), IDLE_LOOK_MAX));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => computes.suspend_idle(limit).await,
        }
    }
}

/// Ends first copies that a killed server left being made, and removes them: setup begins again.
pub(super) async fn end_loads(
    catalog: &Catalog,
    places: &ComputePlaces,
) -> Result<(), ServerError> {
    let is_unfinished = |branch: &BranchRecord| {
        branch.made.kind == BranchKind::Trunk && branch.state != BranchState::Active
    };
    for trunk in catalog.branches()?.into_iter().filter(is_unfinished) {
        places.clear(&ComputeTarget::load_of(&trunk)).await?;
        places.data_dir.remove_incoming(trunk.number).await?;
    }
    Ok(())
}

/// Removes branches of the store that have no row: the server that made them died in between.
pub(super) async fn sweep(
    catalog: &Catalog,
    store: &Store,
    computes: &Computes,
) -> Result<(), ServerError> {
    let known: Vec<_> = catalog.branches()?.iter().map(|record| record.number).collect();
    for summary in store.call(StoreClient::list).await? {
        let branch = summary.branch;
        if !known.contains(&branch) {
            tracing::info!(branch = branch.get(), "removing branch without a record");
            computes.remove(branch).await?;
            store.delete(branch).await?;
        }
    }
    Ok(())
}
