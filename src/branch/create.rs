//! Creating a branch. Each step leaves something that the next server can find and undo:
//!
//! | step | durable after it | undone by |
//! |---|---|---|
//! | row | `Creating` with its number, endpoint and sealed password | deleting the row |
//! | cut | that there is a fork in the store, and its limit | deleting the branch from the store |
//! | start | what the branch holds | killing the compute, and as above |
//! | hooks | `Failed` if one failed: kept for its operator | DELETE, or CREATE again |
//! | proof | `Active`: the URL works | DELETE |

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credential::Credential;
use super::{BranchError, Branches};
use crate::catalog::{BranchKind, BranchRecord, BranchState, CatalogError, NewBranch, SettingKey};
use crate::cause::Causes;
use crate::compute::{ComputeError, ComputeTarget};
use crate::connector::{Connector, Cut, CutRequest};
use crate::name::Name;
use crate::postgres::{self, OWNER_ROLE, Session};
use crate::replication::{TrunkAccess, enable_triggers};

/// What an operator asks for.
#[derive(Clone)]
pub struct CreateBranch {
    /// The connector whose data it holds.
    pub connector: Arc<Connector>,
    /// Its name.
    pub name: Name,
    /// The branch to cut from; none means the trunk.
    pub from: Option<Name>,
    /// The role of its URL; none means [`OWNER_ROLE`].
    pub role: Option<String>,
    /// The most bytes it may come to hold of its own.
    pub max_size_bytes: Option<u64>,
    /// Longest wait for the trunk to reach the source's present position.
    pub freshness_timeout: Option<Duration>,
}

impl Branches {
    /// Creates a branch and returns once it has answered a query. The same request again returns
    /// the branch that is there.
    pub async fn create(
        self: &Arc<Self>,
        request: CreateBranch,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        let branches = self.clone();
        let work = tokio::spawn(async move {
            let name = request.name.as_str();
            let _job = branches.services.jobs.begin("create branch", name);
            let _turn = branches.names.lock(request.connector.id(), name).await;
            match branches.find(request.connector.id(), name) {
                Ok(failed) if failed.state == BranchState::Failed => {
                    branches.remove(&failed).await?;
                    branches.create_new(&request).await
                }
                Ok(existing) => branches.check_same(existing, &request),
                Err(_) => {
                    branches.free_name(request.connector.id(), name).await?;
                    branches.create_new(&request).await
                }
            }
        });
        work.await.map_err(|_| BranchError::Stopping)?
    }

    fn check_same(
        &self,
        existing: Arc<BranchRecord>,
        request: &CreateBranch,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        let parent = self.parent(request)?.map(|parent| parent.number);
        let role = request.role.as_deref().unwrap_or(OWNER_ROLE);
        let made = &existing.made;
        let is_same = made.role == role
            && made.parent == parent
            && made.max_size_bytes == request.max_size_bytes;
        if is_same { Ok(existing) } else { Err(BranchError::Taken(existing.made.name.clone())) }
    }

    fn parent(&self, request: &CreateBranch) -> Result<Option<Arc<BranchRecord>>, BranchError> {
        let find = |name: &Name| self.find_usable(request.connector.id(), name.as_str());
        request.from.as_ref().map(find).transpose()
    }

    async fn create_new(
        self: &Arc<Self>,
        request: &CreateBranch,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        let limit = self.services.config.branch.branches_max;
        if self.by_endpoint.len() + self.failed.len() + self.going.len() >= limit {
            return Err(BranchError::TooMany(limit));
        }
        let parent = self.parent(request)?;
        request.connector.check_ready()?;
        let mut record = self.insert_row(request, parent.as_deref())?;
        match self.bring_up(&mut record, request, parent).await {
            Ok(()) => {
                self.register(record.clone());
                Ok(Arc::new(record))
            }
            Err(error @ BranchError::Hook { .. }) => {
                self.fail(record, &error).await?;
                Err(error)
            }
            Err(error) => {
                let branch = &record.made.name;
                tracing::warn!(%branch, error = %Causes(&error), "undoing branch creation");
                if let Err(error) = self.remove(&Arc::new(record)).await {
                    tracing::warn!(error = %Causes(&error), "creation is undone later");
                }
                Err(error)
            }
        }
    }

    /// Keeps a branch whose hook failed, its compute stopped and its endpoint leading nowhere.
    async fn fail(&self, mut record: BranchRecord, error: &BranchError) -> Result<(), BranchError> {
        let failure = error.to_string();
        let branch = &record.made.name;
        tracing::warn!(%branch, error = %failure, "new branch is kept unconnectable");
        record.state = BranchState::Failed;
        record.failure = Some(failure);
        self.services.catalog.settle_branch(&record)?;
        self.services.computes.stop(record.number).await?;
        self.keep_failed(record);
        Ok(())
    }

    /// Stores the row under the first endpoint that is free: the branch's name, then with the
    /// connector's name, then with a number.
    fn insert_row(
        &self,
        request: &CreateBranch,
        parent: Option<&BranchRecord>,
    ) -> Result<BranchRecord, BranchError> {
        let Credential { password, verifier } = Credential::new(&self.services.key);
        let mut new = NewBranch {
            kind: BranchKind::User,
            connector: request.connector.id(),
            name: request.name.to_string(),
            endpoint: None,
            parent: parent.map(|parent| parent.number),
            major: request.connector.major()?,
            database: request.connector.database().to_owned(),
            role: request.role.clone().unwrap_or_else(|| OWNER_ROLE.to_owned()),
            password: Some(password),
            verifier: Some(verifier),
            default_database: self.setting(request, SettingKey::DefaultDb)?,
            max_size_bytes: request.max_size_bytes,
        };
        let candidates = endpoint_candidates(&request.name, request.connector.name());
        for endpoint in candidates.take(self.services.config.branch.branches_max + 2) {
            new.endpoint = Some(endpoint);
            match self.services.catalog.insert_branch(&new) {
                Err(CatalogError::Taken(_)) => {}
                inserted => return Ok(inserted?),
            }
        }
        Err(BranchError::Taken(request.name.to_string()))
    }

    async fn bring_up(
        &self,
        record: &mut BranchRecord,
        request: &CreateBranch,
        parent: Option<Arc<BranchRecord>>,
    ) -> Result<(), BranchError> {
        let begun = Instant::now();
        let cut = match parent {
            Some(parent) => self.fork_branch(record, &parent).await?,
            None => {
                let freshness_timeout = self.freshness_timeout(request)?;
                let cut = CutRequest { branch: record.number, freshness_timeout };
                request.connector.cut(cut).await?
            }
        };
        (record.lsn, record.commit_time, record.stale) = (cut.lsn, cut.commit_time, cut.stale);
        self.limit(record).await?;
        let was_cut = Instant::now();
        let computes = &self.services.computes;
        let (lease, durable) = tokio::join!(
            computes.wake(ComputeTarget::of(record)),
            computes.sync_wal(record.number)
        );
        let lease = lease?;
        durable?;
        if record.made.parent.is_some() {
            forget_passwords(lease.compute().socket_dir()).await?;
        } else if request.connector.view().status.has_disabled_triggers {
            let socket_dir = lease.compute().socket_dir().to_owned();
            let database = record.made.database.clone();
            let branch = TrunkAccess { socket_dir, database };
            enable_triggers(&branch).await.map_err(BranchError::Triggers)?;
        }
        self.dress(record, &request.connector, lease.compute().socket_dir()).await?;
        self.prove(record, request, lease.compute().socket_dir()).await?;
        record.state = BranchState::Active;
        self.services.catalog.settle_branch(record)?;
        tracing::info!(
            branch = %record.made.name,
            number = record.number.get(),
            freshness_ms = millis(cut.freshness_wait),
            quiesce_ms = millis(cut.quiesce),
            fork_ms = millis(cut.fork),
            start_ms = millis(was_cut.elapsed()),
            total_ms = millis(begun.elapsed()),
            "created branch"
        );
        Ok(())
    }

    fn setting(
        &self,
        request: &CreateBranch,
        key: SettingKey,
    ) -> Result<Option<String>, BranchError> {
        Ok(self.services.catalog.settings(request.connector.id())?.remove(&key))
    }

    /// As the request says, else the connector's setting, else the configuration.
    fn freshness_timeout(&self, request: &CreateBranch) -> Result<Duration, BranchError> {
        let key = SettingKey::FreshnessTimeout;
        let set = self.services.catalog.duration_setting(request.connector.id(), key)?;
        let configured = self.services.config.freshness_timeout();
        Ok(request.freshness_timeout.or(set).unwrap_or(configured))
    }

    /// A role other than the owner, or another database, is proved by a login, since only Postgres
    /// knows whether it exists and may log in. The owner was proved when its trunk was made.
    async fn prove(
        &self,
        record: &BranchRecord,
        request: &CreateBranch,
        socket_dir: &std::path::Path,
    ) -> Result<(), BranchError> {
        if record.made.role == OWNER_ROLE && record.made.default_database.is_none() {
            return Ok(());
        }
        let role = record.made.role.clone();
        let database = record.made.default_database.as_deref();
        Session::check_login(socket_dir, &role, database.unwrap_or(request.connector.database()))
            .await
            .map_err(|error| BranchError::Role { role, reason: error.to_string() })
    }

    /// Tells the store what the branch may come to hold, before anybody can write to it.
    async fn limit(&self, record: &BranchRecord) -> Result<(), BranchError> {
        let (number, max_size) = (record.number, record.made.max_size_bytes);
        if max_size.is_some() {
            self.services.store.call(move |client| client.limit(number, max_size)).await?;
        }
        Ok(())
    }

    /// Forks a running or suspended branch as it is. A running one is forked at a moment between
    /// two writes, without those that the kernel still holds back, which is what Postgres recovers
    /// from as from a loss of power.
    async fn fork_branch(
        &self,
        child: &BranchRecord,
        parent: &BranchRecord,
    ) -> Result<Cut, BranchError> {
        let begun = Instant::now();
        let computes = &self.services.computes;
        computes.shorten_wal(parent.number).await;
        computes.fork(&ComputeTarget::of(parent), child.number).await?;
        Ok(Cut {
            lsn: parent.lsn,
            commit_time: parent.commit_time,
            stale: parent.stale,
            freshness_wait: Duration::ZERO,
            quiesce: Duration::ZERO,
            fork: begun.elapsed(),
        })
    }
}

/// A child has no password but its own fresh one, whatever its parent's roles had.
async fn forget_passwords(socket_dir: &std::path::Path) -> Result<(), ComputeError> {
    let session = Session::system(socket_dir).await.map_err(Arc::new)?;
    Ok(postgres::forget_passwords(&session).await.map_err(Arc::new)?)
}

fn endpoint_candidates(branch: &Name, connector: &str) -> impl Iterator<Item = String> {
    let plain = branch.to_string();
    let with_connector = format!("{branch}-{connector}");
    let numbered = (2_u32..).map({
        let plain = plain.clone();
        move |number| format!("{plain}-{number}")
    });
    [plain, with_connector]
        .into_iter()
        .chain(numbered)
        .filter(|candidate| candidate.parse::<Name>().is_ok())
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
