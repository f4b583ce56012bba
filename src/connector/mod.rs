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
mod error;
mod follow;
mod setup;
mod templates;
mod warm;
mod way;
mod worker;
mod write_out;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{
    Catalog, ConnectorId, ConnectorRecord, ConnectorState, NewConnector, Verification,
};
use crate::compute::Computes;
use crate::config::Config;
use crate::replication::{self, SetupProgress};
use crate::secret::{Secret, SecretKey};
use crate::source::{SourceUrl, TableName};
use crate::store::Store;
use worker::{Command, Worker};

pub use cut::{Cut, CutError, CutRequest, ReferenceCut};
pub use error::{ConnectorError, SetupError};
pub use setup::EXCLUDE;
pub use templates::Templates;
pub use way::Route;

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
    /// What the next trunk begins with.
    pub templates: Templates,
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
    source: SourceUrl,
    locked: std::sync::RwLock<Option<String>>,
    /// Replica identity decisions in force; RETRY SETUP replaces those the row was made with.
    decisions: std::sync::RwLock<String>,
    drop_extensions: std::sync::RwLock<Vec<String>>,
    verification: std::sync::RwLock<Option<Verification>>,
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
    /// How far setup is, while it runs.
    pub setup: Option<SetupProgress>,
    /// What the stream does.
    pub status: replication::Status,
    /// What setup could not carry as it is on the source.
    pub warnings: Vec<String>,
    /// When the row was made.
    pub created_at: SystemTime,
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
        connectors.remove_dead_gateways();
        if let Err(error) = templates::remove_left(&connectors.services.data_dir) {
            tracing::warn!(%error, "templates of an earlier server are left");
        }
        let records = connectors.services.catalog.connectors()?;
        if records.is_empty() {
            templates::prepare(Arc::clone(&connectors.services));
        }
        for record in records {
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
        let url = self.services.key.open(&record.made.url)?;
        let source = SourceUrl::parse(&url)
            .map_err(|_| ConnectorError::Credentials(record.made.name.clone()))?;
        let (source, gateway) = self.gateway(&record, source)?;
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (publish, view) = watch::channel(ConnectorView {
            state: record.state,
            message: record.message.clone(),
            major: None,
            setup: None,
            status: replication::Status::default(),
            warnings: record.warnings.clone(),
            created_at: record.created_at,
        });
        let id = record.id;
        let connector = Arc::new(Connector {
            record: record.clone(),
            source: source.clone(),
            locked: std::sync::RwLock::new(record.locked.clone()),
            decisions: std::sync::RwLock::new(record.made.decisions.clone()),
            drop_extensions: std::sync::RwLock::new(record.made.drop_extensions.clone()),
            verification: std::sync::RwLock::new(record.verification),
            commands,
            view,
        });
        self.live.insert(id, connector.clone());
        let worker = Worker::new(
            self.services.clone(),
            (record, source),
            (queue, publish),
            self.stop.child_token(),
        );
        let live = self.live.clone();
        self.workers.spawn(async move {
            // The way to the source stays open as long as somebody may use it.
            let _gateway = gateway;
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

    /// Refuses deletion of a connector with a reason, or allows it again.
    pub fn lock(
        &self,
        connector: &Connector,
        reason: Option<String>,
    ) -> Result<(), ConnectorError> {
        self.services.catalog.set_connector_lock(connector.id(), reason.as_deref())?;
        *connector.locked.write().unwrap_or_else(std::sync::PoisonError::into_inner) = reason;
        Ok(())
    }

    /// Changes the extensions that branches are made without.
    pub fn set_drop_extensions(
        &self,
        connector: &Connector,
        extensions: Vec<String>,
    ) -> Result<(), ConnectorError> {
        self.services.catalog.set_drop_extensions(connector.id(), &extensions)?;
        *connector.drop_extensions.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            extensions;
        Ok(())
    }

    /// Remembers what a comparison with the source came to.
    pub fn set_verification(
        &self,
        connector: &Connector,
        verification: Verification,
    ) -> Result<(), ConnectorError> {
        self.services.catalog.set_verification(connector.id(), &verification)?;
        *connector.verification.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(verification);
        Ok(())
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
    pub fn source(&self) -> &SourceUrl {
        &self.source
    }

    /// Replica identity decisions in force, a JSON object.
    pub fn decisions(&self) -> String {
        self.decisions.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Extensions that branches are made without.
    pub fn drop_extensions(&self) -> Vec<String> {
        self.drop_extensions.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What the last comparison with the source came to.
    pub fn verification(&self) -> Option<Verification> {
        *self.verification.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Why its deletion is refused, if it is; may be empty.
    pub fn locked(&self) -> Option<String> {
        self.locked.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What can be seen of it now.
    pub fn view(&self) -> ConnectorView {
        self.view.borrow().clone()
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

    /// Cuts a branch that equals the source as a snapshot of it shows, to compare the two. Its
    /// freshness timeout does not count: it comes exactly there or not at all.
    pub async fn cut_at_reference(&self, request: CutRequest) -> Result<ReferenceCut, CutError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::CutAtReference(request, reply);
        self.commands.send(command).await.map_err(|_| CutError::Stopping)?;
        answer.await.map_err(|_| CutError::Stopping)?
    }

    /// Begins setup again if it is not running or done; `decisions` replace the stored ones.
    pub async fn retry_setup(&self, decisions: Option<String>) -> Result<(), ConnectorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Retry(decisions.clone(), reply);
        self.commands.send(command).await.map_err(|_| ConnectorError::Stopping)?;
        answer.await.map_err(|_| ConnectorError::Stopping)??;
        if let Some(decisions) = decisions {
            *self.decisions.write().unwrap_or_else(std::sync::PoisonError::into_inner) = decisions;
        }
        Ok(())
    }

    /// Has a table in quarantine copied again, and followed then; false if it is in none.
    pub async fn release(&self, table: TableName) -> Result<bool, ConnectorError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Release(table, reply);
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
