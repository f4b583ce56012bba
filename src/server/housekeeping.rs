//! What goes on beside serving: a dead store is replaced, idle branches are suspended; and what
//! is put right before serving: first copies that nobody makes any more, branches that only the
//! store knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use storage::BranchId;
use storage::client::StoreClient;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerError;
use crate::catalog::{BranchKind, BranchRecord, BranchState, Catalog};
use crate::cause::Causes;
use crate::compute::{ComputePlaces, ComputeTarget, Computes};
use crate::config::LiveConfig;
use crate::store::{Store, StoreError};

/// Pause after a store could not be replaced; doubled with each failure in a row.
const REPLACE_PAUSE_MIN: Duration = Duration::from_millis(500);
const REPLACE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The store is greeted this often, to notice one that lives but hangs.
const GREETING_INTERVAL: Duration = Duration::from_secs(5);
/// Idle branches are looked for at most and at least this often.
const IDLE_LOOK_MIN: Duration = Duration::from_secs(1);
const IDLE_LOOK_MAX: Duration = Duration::from_secs(15);

/// The tasks that run beside serving.
pub(super) struct Housekeeping(TaskTracker);

impl Housekeeping {
    pub(super) fn start(
        config: &LiveConfig,
        catalog: &Arc<Catalog>,
        (store, computes): (&Arc<Store>, &Computes),
        stop: &CancellationToken,
    ) -> Self {
        let tasks = TaskTracker::new();
        tasks.spawn(replace_dead_stores(store.clone(), computes.clone(), stop.clone()));
        let idle =
            Idle { config: config.clone(), catalog: catalog.clone(), computes: computes.clone() };
        tasks.spawn(idle.suspend(stop.clone()));
        tasks.close();
        Self(tasks)
    }

    /// Runs one more task beside serving; it ends with the others.
    pub(super) fn add(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(task);
    }

    pub(super) async fn join(&self) {
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

/// Suspends what nobody uses.
struct Idle {
    /// Has the limit of branches whose connector sets none; zero means never.
    config: LiveConfig,
    catalog: Arc<Catalog>,
    computes: Computes,
}

impl Idle {
    async fn suspend(self, stop: CancellationToken) {
        loop {
            // A failed look at the settings is made up for by the next one.
            let set = self.catalog.suspend_limits().unwrap_or_else(|error| {
                tracing::error!(error = %Causes(&error), "read settings");
                BTreeMap::new()
            });
            let limit = Duration::from_secs(self.config.current().branch.suspend_after_s);
            let shortest = set.values().copied().chain([limit]).filter(|l| !l.is_zero()).min();
            let pause = (shortest.unwrap_or(IDLE_LOOK_MAX) / 4).clamp(IDLE_LOOK_MIN, IDLE_LOOK_MAX);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
            let limit_of = |branch: BranchId| {
                let limit = set.get(&branch).copied().unwrap_or(limit);
                (!limit.is_zero()).then_some(limit)
            };
            self.computes.suspend_idle(limit_of).await;
        }
    }
}

/// Brings what is stored of branches up to date whose computes died while no server ran, one
/// after the other: they are asleep for everybody else.
pub(super) async fn refresh(computes: Computes, died: Vec<ComputeTarget>, stop: CancellationToken) {
    for target in died {
        let branch = target.branch.get();
        let Some(refreshed) = stop.run_until_cancelled(computes.refresh(target)).await else {
            return;
        };
        match refreshed {
            Ok(()) => tracing::info!(branch, "read roles of a branch whose compute had died"),
            Err(error) => tracing::warn!(branch, error = %Causes(&error), "read roles of branch"),
        }
    }
}

/// Ends first copies that a killed server left being made. Setup goes on with what is whole of
/// them; what survived the host's own end is removed, for it may be damaged.
pub(super) async fn end_loads(
    catalog: &Catalog,
    places: &ComputePlaces,
) -> Result<(), ServerError> {
    let is_unfinished = |branch: &BranchRecord| {
        branch.made.kind == BranchKind::Trunk && branch.state != BranchState::Active
    };
    for trunk in catalog.branches()?.into_iter().filter(is_unfinished) {
        places.clear(&ComputeTarget::load_of(&trunk)).await?;
        if !places.data_dir.is_incoming_noted(trunk.number) {
            places.data_dir.remove_incoming(trunk.number).await?;
        }
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
