//! Which computes run: started on demand by whoever comes first, stopped when idle, adopted from
//! a server that died, killed for certain before the store under them is replaced.
//!
//! Invariants:
//! * One slot a branch, and everything that starts or stops its compute holds the slot's lock: a
//!   compute is started once however many clients ask, and a client that arrives while it stops
//!   waits and is served by the next one.
//! * A slot's lease count is raised under that lock; nothing is suspended while a lease is out.
//! * No compute starts while the store recovers ([`Computes::replace_store`]), and the store is
//!   not replaced before every process of every compute is gone.

mod fork;
mod idle;
mod places;
mod slot;
mod spare;
mod tally;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use storage::BranchId;
use storage::client::StoreClient;
use tokio::sync::{RwLock, Semaphore};

use crate::catalog::{BranchKind, BranchRecord, Catalog, CatalogError};
use crate::cause::Causes;
use crate::postgres::{self, Compute, ComputeKind, PostgresError, Spares};
use crate::store::{Store, StoreError};
use slot::Slot;
use tally::Tally;

pub use places::ComputePlaces;
pub use slot::{ComputePhase, Lease};
pub use tally::ComputeTally;

/// What a compute serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeTarget {
    /// The branch of the store.
    pub branch: BranchId,
    /// Major version of its Postgres.
    pub major: u32,
    /// Trunk or branch.
    pub kind: ComputeKind,
    /// The database clients use.
    pub database: String,
}

impl ComputeTarget {
    /// The compute that makes the first copy of a trunk, on files that are not in the store yet.
    pub fn load_of(trunk: &BranchRecord) -> Self {
        Self { kind: ComputeKind::Load, ..Self::of(trunk) }
    }

    /// The compute of a branch.
    pub fn of(branch: &BranchRecord) -> Self {
        Self {
            branch: branch.number,
            major: branch.made.major,
            kind: match branch.made.kind {
                BranchKind::Trunk => ComputeKind::Trunk,
                BranchKind::User => ComputeKind::Branch,
            },
            database: branch.made.database.clone(),
        }
    }
}

/// Why a compute does not run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ComputeError {
    /// Postgres did not come up, or not down.
    #[error(transparent)]
    Postgres(#[from] Arc<PostgresError>),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] Arc<CatalogError>),
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
    /// The branch is going away.
    #[error("branch is being deleted")]
    Removed,
    /// A start failed a moment ago; it is not tried again at once.
    #[error("compute did not start: {0}")]
    FailedRecently(String),
}

/// A compute that is there, for whoever wants to list them.
#[derive(Clone, Debug)]
pub struct ComputeInfo {
    /// What it serves.
    pub target: ComputeTarget,
    /// What is happening to it; never `Stopped`.
    pub phase: ComputePhase,
    /// Its postmaster and when that was started; none while it starts or stops.
    pub process: Option<(u32, SystemTime)>,
    /// Leases on it.
    pub leases: usize,
}

/// All computes of this server.
#[derive(Clone)]
pub struct Computes(Arc<Shared>);

struct Shared {
    places: ComputePlaces,
    store: Arc<Store>,
    catalog: Arc<Catalog>,
    slots: DashMap<BranchId, Arc<Slot>>,
    /// Held shared by every start, and alone while the store is replaced.
    store_in_use: Arc<RwLock<()>>,
    /// One permit a start: a host that is asked for a thousand branches starts them in turn.
    starts: Semaphore,
    spares: Arc<Spares>,
    tally: Tally,
    stopping: std::sync::atomic::AtomicBool,
}

impl Computes {
    /// No compute yet; [`Computes::adopt`] finds those that run.
    pub fn new(places: ComputePlaces, store: Arc<Store>, catalog: Arc<Catalog>) -> Self {
        let starts = Semaphore::new(places.config.compute.starts_max.max(1));
        Self(Arc::new(Shared {
            places,
            starts,
            spares: Arc::default(),
            tally: Tally::default(),
            store,
            catalog,
            slots: DashMap::new(),
            store_in_use: Arc::default(),
            stopping: std::sync::atomic::AtomicBool::new(false),
        }))
    }

    /// Where computes are and under which accounts they run.
    pub fn places(&self) -> &ComputePlaces {
        &self.0.places
    }

    /// Takes over a compute that an earlier server started, if it still runs.
    pub async fn adopt(&self, target: ComputeTarget) -> Result<bool, ComputeError> {
        let spec = self.0.places.spec(&target)?;
        let slot = self.slot(target);
        let mut compute = slot.compute.lock().await;
        let adopted = Compute::adopt(spec).await.map_err(Arc::new)?;
        *compute = adopted.map(Arc::new);
        let Some(running) = compute.clone() else { return Ok(false) };
        slot.enter(ComputePhase::Running);
        self.watch(slot.clone(), running);
        Ok(true)
    }

    /// Returns a lease on the target's compute, starting it if it does not run.
    ///
    /// The start goes on when the caller leaves; whoever asks next is served by it.
    pub async fn wake(&self, target: ComputeTarget) -> Result<Lease, ComputeError> {
        let slot = self.slot(target);
        // Before the slot's lock, as in `replace_store`, or the two would wait for each other.
        let store = self.0.store_in_use.clone().read_owned().await;
        let guard = slot.compute.clone().lock_owned().await;
        if let Some(compute) = guard.as_ref().filter(|compute| compute.is_running()) {
            return Ok(slot.lease(compute.clone()));
        }
        if let Some(reason) = slot.recent_failure() {
            return Err(ComputeError::FailedRecently(reason));
        }
        let computes = self.clone();
        let start = tokio::spawn(async move {
            let started = computes.start(&slot, guard).await;
            drop(store);
            started
        });
        start.await.map_err(|_| ComputeError::Stopping)?
    }

    async fn start(&self, slot: &Arc<Slot>, mut guard: slot::Guard) -> Result<Lease, ComputeError> {
        if self.is_stopping() {
            return Err(ComputeError::Stopping);
        }
        if slot.is_retired() {
            return Err(ComputeError::Removed);
        }
        if let Some(previous) = guard.take() {
            // Its postmaster is dead; what it forked may not be yet.
            previous.kill().await.map_err(Arc::new)?;
        }
        slot.enter(ComputePhase::Starting);
        let started = self.start_fresh(slot).await;
        slot.note_start(&started);
        self.0.tally.note_start(started.is_ok());
        slot.enter(if started.is_ok() { ComputePhase::Running } else { ComputePhase::Stopped });
        let compute = Arc::new(started?);
        *guard = Some(compute.clone());
        self.watch(slot.clone(), compute.clone());
        self.prepare_next(compute.clone());
        Ok(slot.lease(compute))
    }

    async fn start_fresh(&self, slot: &Slot) -> Result<Compute, ComputeError> {
        let _turn = self.0.starts.acquire().await.map_err(|_closed| ComputeError::Stopping)?;
        let target = &slot.target;
        let spec = self.0.places.spec(target)?;
        let branch = target.branch;
        if target.kind != ComputeKind::Load {
            let call = move |client: &mut StoreClient| client.begin_compute(branch);
            self.0.store.call(call).await.map_err(Arc::new)?;
        }
        let mut confirmed = Ok(());
        let confirming = async {
            if slot.is_tentative() {
                confirmed = self.confirm(slot).await;
            }
        };
        let compute = Compute::start(spec, &self.0.spares, confirming).await.map_err(Arc::new)?;
        if let Err(error) = confirmed {
            compute.kill().await.map_err(Arc::new)?;
            return Err(error);
        }
        Ok(compute)
    }

    /// The compute of a target, if it runs now. Starts nothing.
    pub async fn running(&self, branch: BranchId) -> Option<Arc<Compute>> {
        let slot = self.0.slots.get(&branch)?.clone();
        let compute = slot.compute.lock().await;
        compute.clone().filter(|compute| compute.is_running())
    }

    /// Time since a branch was last used in this server's life; none while a lease is out.
    pub fn idle_for(&self, branch: BranchId) -> Option<Duration> {
        let idle = self.0.slots.get(&branch)?.idle_for();
        (idle > Duration::ZERO).then_some(idle)
    }

    /// Stops a compute in order, whoever uses it, and sees it gone.
    pub async fn stop(&self, branch: BranchId) -> Result<(), ComputeError> {
        let Some(slot) = self.0.slots.get(&branch).map(|slot| slot.clone()) else { return Ok(()) };
        let mut compute = slot.compute.lock().await;
        let Some(running) = compute.clone() else { return Ok(()) };
        slot.enter(ComputePhase::Stopping);
        if slot.target.kind == ComputeKind::Branch
            && running.is_running()
            && let Err(error) = self.keep_verifiers(branch, &running).await
        {
            tracing::warn!(branch = branch.get(), error = %Causes(&error), "keep verifiers of branch");
        }
        running.stop().await.map_err(Arc::new)?;
        *compute = None;
        slot.enter(ComputePhase::Stopped);
        Ok(())
    }

    /// Stops a compute in order and forgets its slot, so that its branch may run as another kind.
    pub async fn release(&self, branch: BranchId) -> Result<(), ComputeError> {
        self.stop(branch).await?;
        self.0.slots.remove(&branch);
        Ok(())
    }

    /// Kills a compute and forgets its slot: its branch is going away.
    pub async fn remove(&self, branch: BranchId) -> Result<(), ComputeError> {
        let Some((_, slot)) = self.0.slots.remove(&branch) else { return Ok(()) };
        let mut compute = slot.compute.lock().await;
        slot.retire();
        if let Some(running) = compute.take() {
            running.kill().await.map_err(Arc::new)?;
        }
        slot.enter(ComputePhase::Stopped);
        let data_dir = &self.0.places.data_dir;
        // What is not there needs no removal, and what cannot be removed is only a log.
        let _ = std::fs::remove_file(data_dir.compute_log(branch));
        let _ = std::fs::remove_dir_all(data_dir.compute_socket_dir(branch));
        Ok(())
    }

    /// Every compute that is there.
    pub fn list(&self) -> Vec<ComputeInfo> {
        let slots: Vec<_> = self.0.slots.iter().map(|entry| entry.value().clone()).collect();
        let mut computes: Vec<_> = slots
            .into_iter()
            .filter(|slot| slot.phase() != ComputePhase::Stopped)
            .map(|slot| {
                // Not waited for: whoever starts or stops it holds the lock.
                let compute = slot.compute.try_lock().ok().and_then(|compute| compute.clone());
                let process = compute.map(|compute| (compute.pid(), compute.started_at()));
                let (target, phase) = (slot.target.clone(), slot.phase());
                ComputeInfo { target, phase, process, leases: slot.leases() }
            })
            .collect();
        computes.sort_by_key(|compute| compute.target.branch);
        computes
    }

    /// The socket directory of the compute that a process is a backend of.
    pub fn socket_dir_of(&self, backend_pid: u32) -> Option<PathBuf> {
        let postmaster = postgres::parent_of(backend_pid)?;
        let computes = self.list().into_iter();
        let mut computes =
            computes.filter(|compute| compute.process.is_some_and(|(pid, _)| pid == postmaster));
        let branch = computes.next()?.target.branch;
        Some(self.0.places.data_dir.compute_socket_dir(branch))
    }

    /// What has happened to computes since this server started.
    pub fn tally(&self) -> ComputeTally {
        self.0.tally.read()
    }

    /// Replaces a store that died: ends every compute on it, starts the store again, and starts
    /// again what ran. Returns how many computes had to end.
    pub async fn replace_store(&self) -> Result<usize, ComputeError> {
        let alone = self.0.store_in_use.write().await;
        let slots: Vec<_> = self.0.slots.iter().map(|entry| entry.value().clone()).collect();
        let mut ended = Vec::new();
        for slot in slots.into_iter().filter(|slot| slot.target.kind != ComputeKind::Load) {
            let mut compute = slot.compute.lock().await;
            if let Some(running) = compute.take() {
                running.kill().await.map_err(Arc::new)?;
                slot.enter(ComputePhase::Stopped);
                ended.push(slot.target.clone());
            }
        }
        self.0.store.respawn().await.map_err(Arc::new)?;
        drop(alone);
        let count = ended.len();
        for target in ended {
            let computes = self.clone();
            let branch = target.branch;
            tokio::spawn(async move {
                if let Err(error) = computes.wake(target).await {
                    tracing::error!(branch = branch.get(), error = %Causes(&error), "restart after store crash");
                }
            });
        }
        Ok(count)
    }

    /// Stops every compute in order; nothing starts any more.
    pub async fn stop_all(&self) {
        self.let_go();
        let branches: Vec<_> = self.0.slots.iter().map(|entry| *entry.key()).collect();
        let stops = branches.into_iter().map(|branch| async move {
            if let Err(error) = self.stop(branch).await {
                tracing::error!(branch = branch.get(), error = %Causes(&error), "stop compute");
            }
        });
        futures_util::future::join_all(stops).await;
        self.0.spares.end().await;
    }

    /// Leaves every compute to another server: nothing is started or restarted from here any
    /// more, and nothing is stopped.
    pub fn let_go(&self) {
        self.0.stopping.store(true, std::sync::atomic::Ordering::Release);
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(std::sync::atomic::Ordering::Acquire)
    }

    fn slot(&self, target: ComputeTarget) -> Arc<Slot> {
        let branch = target.branch;
        self.0.slots.entry(branch).or_insert_with(|| Arc::new(Slot::new(target))).clone()
    }
}
