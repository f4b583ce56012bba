//! The life of user branches: created from a connector's trunk or from another branch, looked up
//! by endpoint, deleted.
//!
//! Invariants:
//! * A branch is reachable by its endpoint exactly when its row says `Active`. One whose hook
//!   failed is kept apart, for its operator to look at and delete.
//! * Creating and deleting one name happen one after the other ([`names::NameLocks`]).
//! * A creation or deletion that began goes on when its caller leaves, and when a step of it fails;
//!   it is finished or undone by the next server if this one dies.

mod create;
mod credential;
mod delete;
mod hooks;
mod names;
mod url;
mod verify;

use std::sync::Arc;

use dashmap::DashMap;
use storage::BranchId;
use storage::client::StoreClient;

use crate::catalog::{BranchKind, BranchRecord, BranchState, Catalog, CatalogError, ConnectorId};
use crate::compute::{ComputeError, ComputeTarget, Computes, Lease};
use crate::config::Config;
use crate::connector::{Connectors, CutError};
use crate::job::Jobs;
use crate::secret::{SecretError, SecretKey};
use crate::store::{Store, StoreError};
use credential::Credential;
use names::NameLocks;

pub use create::CreateBranch;
pub use url::{FrontDoorAddress, UrlParts};

/// What branches are made with.
pub struct BranchServices {
    /// The durable record.
    pub catalog: Arc<Catalog>,
    /// The page store.
    pub store: Arc<Store>,
    /// The computes.
    pub computes: Computes,
    /// Where trunks are cut.
    pub connectors: Arc<Connectors>,
    /// Seals passwords.
    pub key: Arc<SecretKey>,
    /// Where creations and deletions are listed while they are under way.
    pub jobs: Jobs,
    /// Limits.
    pub config: Config,
}

/// All user branches of this server.
pub struct Branches {
    services: BranchServices,
    by_endpoint: DashMap<String, Arc<BranchRecord>>,
    /// Those whose hook failed.
    failed: DashMap<BranchId, Arc<BranchRecord>>,
    /// Those whose removal has begun and did not come to its end yet.
    going: DashMap<BranchId, Arc<BranchRecord>>,
    names: NameLocks,
}

/// Why a branch operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// No branch of that name.
    #[error("branch \"{0}\" does not exist")]
    NotFound(String),
    /// The name is taken by a branch made with other parameters.
    #[error("branch \"{0}\" already exists with other parameters")]
    Taken(String),
    /// Nothing is done with a branch whose hook failed, but deleting it.
    #[error("branch \"{0}\" failed when it was created")]
    Failed(String),
    /// The server is full.
    #[error("server has reached its limit of {0} branches")]
    TooMany(usize),
    /// The trunk could not be cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// The branch's compute did not come up.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// The role asked for cannot log in.
    #[error("role \"{role}\" cannot log in to the branch: {reason}")]
    Role {
        /// The role.
        role: String,
        /// What Postgres said.
        reason: String,
    },
    /// A hook failed; the branch is kept, and nobody connects to it.
    #[error("hook \"{hook}\" failed on branch \"{branch}\": {reason}")]
    Hook {
        /// The branch.
        branch: String,
        /// The hook.
        hook: String,
        /// What Postgres said.
        reason: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The comparison with the source failed.
    #[error("compare with the source")]
    Compare(#[from] crate::replication::Error),
    /// Triggers that the trunk has switched off stay off.
    #[error("switch triggers on in the branch")]
    Triggers(#[source] crate::replication::Error),
    /// A stored password does not open.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
}

impl Branches {
    /// Reads the catalog: finishes deletions, undoes creations that a dead server left, fills the
    /// registry.
    pub async fn open(services: BranchServices) -> Result<Self, BranchError> {
        let branches = Self {
            services,
            by_endpoint: DashMap::new(),
            failed: DashMap::new(),
            going: DashMap::new(),
            names: NameLocks::default(),
        };
        for record in branches.services.catalog.branches()? {
            match (record.made.kind, record.state) {
                (BranchKind::User, BranchState::Active) => branches.register(record),
                (BranchKind::User, BranchState::Failed) => branches.keep_failed(record),
                (BranchKind::User, BranchState::Creating | BranchState::Deleting) => {
                    tracing::info!(branch = %record.made.name, "removing unfinished branch");
                    branches.remove_rest(&record).await?;
                }
                (BranchKind::Trunk, _) => {}
            }
        }
        Ok(branches)
    }

    /// The branch an endpoint leads to.
    pub fn by_endpoint(&self, endpoint: &str) -> Option<Arc<BranchRecord>> {
        self.by_endpoint.get(endpoint).map(|entry| entry.value().clone())
    }

    /// Branches that exist.
    pub fn count(&self) -> usize {
        self.by_endpoint.len()
    }

    /// The branches of one connector, by name.
    pub fn of_connector(&self, connector: ConnectorId) -> Vec<Arc<BranchRecord>> {
        let mut branches: Vec<_> =
            self.all().into_iter().filter(|branch| branch.made.connector == connector).collect();
        branches.sort_by(|a, b| a.made.name.cmp(&b.made.name));
        branches
    }

    /// One branch of a connector.
    pub fn find(
        &self,
        connector: ConnectorId,
        name: &str,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        self.all()
            .into_iter()
            .find(|branch| branch.made.connector == connector && branch.made.name == name)
            .ok_or_else(|| BranchError::NotFound(name.to_owned()))
    }

    /// One branch of a connector that did not fail.
    fn find_usable(
        &self,
        connector: ConnectorId,
        name: &str,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        let found = self.find(connector, name)?;
        match found.state {
            BranchState::Failed => Err(BranchError::Failed(name.to_owned())),
            _ => Ok(found),
        }
    }

    /// The branch of that number, if it is a user branch.
    pub fn by_number(&self, number: BranchId) -> Option<Arc<BranchRecord>> {
        let find = |entry: &dashmap::mapref::multiple::RefMulti<'_, String, Arc<BranchRecord>>| {
            entry.value().number == number
        };
        self.by_endpoint.iter().find(find).map(|entry| entry.value().clone())
    }

    /// Bytes a branch costs and shares.
    pub async fn usage(&self, branch: &BranchRecord) -> Result<storage::Usage, BranchError> {
        let number = branch.number;
        let call = move |client: &mut StoreClient| client.usage(number);
        let mut usage = self.services.store.call(call).await?;
        // Nobody shares a log.
        let wal_bytes = self.services.computes.wal_bytes(number).await?;
        usage.unique_bytes += wal_bytes;
        usage.reclaimable_bytes += wal_bytes;
        usage.logical_bytes += wal_bytes;
        Ok(usage)
    }

    /// Starts or joins the branch's compute.
    pub async fn wake(&self, branch: &BranchRecord) -> Result<Lease, BranchError> {
        Ok(self.services.computes.wake(ComputeTarget::of(branch)).await?)
    }

    /// Gives a branch a new password. The old one counts no more for new sessions.
    pub async fn rotate_password(
        &self,
        branch: &BranchRecord,
    ) -> Result<Arc<BranchRecord>, BranchError> {
        let made = &branch.made;
        let _turn = self.names.lock(made.connector, &made.name).await;
        let mut record = BranchRecord::clone(&*self.find_usable(made.connector, &made.name)?);
        let Credential { password, verifier } = Credential::new(&self.services.key);
        self.services.catalog.set_branch_password(record.number, &password, &verifier)?;
        (record.made.password, record.made.verifier) = (Some(password), Some(verifier));
        self.register(record);
        self.find(made.connector, &made.name)
    }

    fn all(&self) -> Vec<Arc<BranchRecord>> {
        let connectable = self.by_endpoint.iter().map(|entry| entry.value().clone());
        connectable.chain(self.failed.iter().map(|entry| entry.value().clone())).collect()
    }

    fn keep_failed(&self, record: BranchRecord) {
        self.failed.insert(record.number, Arc::new(record));
    }

    fn register(&self, record: BranchRecord) {
        if let Some(endpoint) = record.made.endpoint.clone() {
            self.by_endpoint.insert(endpoint, Arc::new(record));
        }
    }
}
