//! Connectors: the durable link from one source to one trunk, and the task that keeps it.
//!
//! ```text
//!  CREATE / RETRY ------> [worker] --set up--> template -> trunk -> roles -> copy
//!  CUT (branch create) -> [worker] --follow--> stream applied to the trunk
//!  DELETE --------------> [worker] --clean up-> trunk, slot, row
//! ```
//!
//! Invariants:
//! * One worker a connector; it alone moves the connector's state, its trunk and its stream.
//! * A state is in the catalog before anyone is told of it.
//! * The work goes on when whoever asked for it leaves.

mod cleanup;
mod cut;
mod follow;
mod setup;
mod template;
mod worker;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use proxy::client::Target;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{
    Catalog, CatalogError, ConnectorId, ConnectorRecord, ConnectorState, NewConnector,
};
use crate::compute::{ComputeError, Computes};
use crate::config::Config;
use crate::replication;
use crate::secret::{Secret, SecretError, SecretKey};
use crate::store::{Store, StoreError};
use worker::{Command, Worker};

pub use cut::{Cut, CutError, CutRequest};

/// Requests that wait for a worker; more are refused by waiting.
const COMMANDS_MAX: usize = 256;

/// What connectors are made with.
pub struct ConnectorServices {
    /// The durable record.
    pub catalog: Arc<Catalog>,
    /// The page store.
    pub store: Arc<Store>,
    /// The computes.
    pub computes: Computes,
    /// Seals source URLs.
    pub key: Arc<SecretKey>,
    /// Limits.
    pub config: Config,
    /// Where branch data directories and sockets are.
    pub data_dir: crate::data_dir::DataDir,
    /// One template is made at a time.
    pub templates: tokio::sync::Mutex<()>,
}

/// All connectors of this server.
pub struct Connectors {
    services: Arc<ConnectorServices>,
    live: Arc<DashMap<ConnectorId, Arc<Connector>>>,
    stop: CancellationToken,
    workers: TaskTracker,
}

/// One connector, as the rest of the server sees it.
pub struct Connector {
    record: ConnectorRecord,
    source: Target,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<ConnectorView>,
}

/// What can be seen of a connector at a moment.
#[derive(Clone, Debug)]
pub struct ConnectorView {
    /// Where it stands.
    pub state: ConnectorState,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Major version of the trunk, once chosen.
    pub major: Option<u32>,
    /// How far setup and stream are.
    pub status: replication::Status,
    /// When the row was made.
    pub created_at: SystemTime,
}

/// Why a connector operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// No connector of that name.
    #[error("connector \"{0}\" does not exist")]
    NotFound(String),
    /// The stored URL does not open or parse.
    #[error("stored credentials of connector \"{0}\" cannot be used")]
    Credentials(String),
    /// The connector's objects on the source could not be removed yet.
    #[error("source cannot be cleaned up now: {0}")]
    SourceCleanup(String),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A stored URL was sealed with another key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The trunk's compute failed.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
}

impl Connectors {
    /// Reads the catalog and starts a worker for every connector in it.
    pub fn open(services: ConnectorServices) -> Result<Self, ConnectorError> {
        let connectors = Self {
            services: Arc::new(services),
            live: Arc::new(DashMap::new()),
            stop: CancellationToken::new(),
            workers: TaskTracker::new(),
        };
        for record in connectors.services.catalog.connectors()? {
            connectors.start(record)?;
        }
        Ok(connectors)
    }

    /// Stores a new connector and starts its setup.
    pub fn create(&self, new: &NewConnector) -> Result<Arc<Connector>, ConnectorError> {
        self.services.catalog.insert_connector(new)?;
        let record = self.services.catalog.connector(&new.name)?;
        self.start(record.ok_or_else(|| ConnectorError::NotFound(new.name.clone()))?)
    }

    /// Stores a new connector that waits for decisions.
    pub fn create_pending(
        &self,
        new: &NewConnector,
        message: &str,
    ) -> Result<Arc<Connector>, ConnectorError> {
        let id = self.services.catalog.insert_connector(new)?;
        let pending = ConnectorState::SetupPending;
        self.services.catalog.set_connector_state(id, pending, Some(message))?;
        let record = self.services.catalog.connector(&new.name)?;
        self.start(record.ok_or_else(|| ConnectorError::NotFound(new.name.clone()))?)
    }

    fn start(&self, record: ConnectorRecord) -> Result<Arc<Connector>, ConnectorError> {
        let credentials = |()| ConnectorError::Credentials(record.made.name.clone());
        let url = self.services.key.open(&record.made.url)?;
        let source: Target = url.reveal().parse().map_err(|_| credentials(()))?;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (publish, view) = watch::channel(ConnectorView {
            state: record.state,
            message: record.message.clone(),
            major: None,
            status: replication::Status::default(),
            created_at: record.created_at,
        });
        let id = record.id;
        let connector =
            Arc::new(Connector { record: record.clone(), source: source.clone(), commands, view });
        self.live.insert(id, connector.clone());
        let worker = Worker::new(
            self.services.clone(),
            (record, source),
            (queue, publish),
            self.stop.child_token(),
        );
        let live = self.live.clone();
        self.workers.spawn(async move {
            if worker.run().await.is_deleted() {
                live.remove(&id);
            }
        });
        Ok(connector)
    }

    /// All connectors, oldest first.
    pub fn list(&self) -> Vec<Arc<Connector>> {
        let mut connectors: Vec<_> = self.live.iter().map(|entry| entry.value().clone()).collect();
        connectors.sort_by_key(|connector| connector.id());
        connectors
    }

    /// The connector of that name.
    pub fn find(&self, name: &str) -> Result<Arc<Connector>, ConnectorError> {
        self.list()
            .into_iter()
            .find(|connector| connector.name() == name)
            .ok_or_else(|| ConnectorError::NotFound(name.to_owned()))
    }

    /// Ends every worker at a transaction boundary; trunks are left running.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.workers.close();
        self.workers.wait().await;
    }

    /// Seals a source URL for the catalog.
    pub fn seal(&self, url: &Secret) -> Vec<u8> {
        self.services.key.seal(url)
    }
}

impl Connector {
    /// Its number.
    pub fn id(&self) -> ConnectorId {
        self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.made.name
    }

    /// What it was made with.
    pub fn made(&self) -> &NewConnector {
        &self.record.made
    }

    /// Name of the source database, which branches have too.
    pub fn database(&self) -> &str {
        &self.record.made.database
    }

    /// How the source is reached.
    pub fn source(&self) -> &Target {
        &self.source
    }

    /// What can be seen of it now.
    pub fn view(&self) -> ConnectorView {
        self.view.borrow().clone()
    }

    /// Sees every change.
    pub fn watch(&self) -> watch::Receiver<ConnectorView> {
        self.view.clone()
    }

    /// Refuses unless branches can be cut.
    pub fn check_ready(&self) -> Result<(), CutError> {
        let view = self.view.borrow();
        match view.state {
            ConnectorState::Ready => Ok(()),
            state => Err(CutError::NotReady {
                name: self.name().to_owned(),
                state: state.as_str(),
                message: view.message.clone(),
            }),
        }
    }

    /// Major version of its trunk.
    pub fn major(&self) -> Result<u32, CutError> {
        self.check_ready()?;
        let view = self.view.borrow();
        view.major.ok_or_else(|| CutError::Trunk("trunk is not running yet".to_owned()))
    }

    /// Cuts a branch from the trunk: it holds everything the source had committed when this was
    /// called, unless it comes back stale.
    pub async fn cut(&self, request: CutRequest) -> Result<Cut, CutError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Cut(request, reply);
        self.commands.send(command).await.map_err(|_| CutError::Stopping)?;
        answer.await.map_err(|_| CutError::Stopping)?
    }

    /// Begins setup again if it is not running or done; `decisions` replace the stored ones.
    pub async fn retry_setup(&self, decisions: Option<String>) -> Result<(), ConnectorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Retry(decisions, reply);
        self.commands.send(command).await.map_err(|_| ConnectorError::Stopping)?;
        answer.await.map_err(|_| ConnectorError::Stopping)?
    }

    /// Deletes the connector; its branches must be gone. `drain` is the longest wait for what
    /// the source has committed to be applied.
    pub async fn delete(&self, drain: Option<Duration>) -> Result<(), ConnectorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Delete(drain, reply);
        self.commands.send(command).await.map_err(|_| ConnectorError::Stopping)?;
        answer.await.map_err(|_| ConnectorError::Stopping)?
    }

    /// Resolves when setup has ended, one way or the other.
    pub async fn settled(&self) -> ConnectorView {
        let mut view = self.view.clone();
        let settled = |view: &ConnectorView| view.state != ConnectorState::Validating;
        match view.wait_for(settled).await {
            Ok(view) => view.clone(),
            Err(_) => self.view.borrow().clone(),
        }
    }
}
