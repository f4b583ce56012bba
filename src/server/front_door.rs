//! Serving: connectors and branches opened, the front door before them, and what an operator asks
//! of a server that runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::{Listener, Settings, Stop};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::place::Place;
use super::signal::{self, Request, Signals};
use super::takeover::{Gate, Predecessor, Successor};
use super::{End, Parts, ServerError, key_path, monitoring};
use crate::admin::AdminConsole;
use crate::admin::row::ConfigRow;
use crate::branch::{BranchServices, Branches, FrontDoorAddress};
use crate::connector::{ConnectorServices, Connectors, Templates};
use crate::control::{ControlPlane, ControlServices};
use crate::job::Jobs;
use crate::router::Router;

/// Clients on their way in, and operations under way, have this long before a takeover ends them.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// The front door while it is open.
struct FrontDoor {
    settings: Settings,
    stop: Stop,
    task: JoinHandle<()>,
    connectors: Arc<Connectors>,
    jobs: Jobs,
}

impl Parts {
    /// Opens the front door and serves until a signal, or until another server takes over.
    pub(super) async fn serve(
        &self,
        place: Place,
        predecessor: Option<Predecessor>,
        signals: &mut Signals,
    ) -> Result<End, ServerError> {
        let front_door = self.open(&place).await?;
        let gate = Gate::open(&self.data_dir)?;
        if let Some(predecessor) = predecessor {
            predecessor.succeeded(&front_door.settings.cancels).await?;
        }
        tracing::info!(
            addresses = ?self.source.listening,
            ca_file = %self.source.authority.certificate().display(),
            "ready"
        );
        signal::tell_ready();
        let renewal = self.source.keep_fresh(&self.policy, &self.stop);
        let mut renewal = std::pin::pin!(renewal);
        loop {
            let request = tokio::select! {
                request = signals.next() => request,
                () = &mut renewal => Request::Stop,
                successor = gate.successor(&place) => {
                    drop(gate);
                    return Ok(self.let_go(front_door, place, successor, signals).await);
                }
            };
            match request {
                Request::Reload => self.source.reload(&self.policy),
                Request::Stop => break,
            }
        }
        tracing::info!("stopping");
        front_door.stop.sessions.cancel();
        // While sessions end: an operator who waits for setup is told that it stopped, and does not
        // keep the front door open until it is done.
        front_door.connectors.stop().await;
        let _ = front_door.task.await;
        let _ = std::fs::remove_file(self.data_dir.admin_socket(place.port()?));
        let _ = std::fs::remove_file(self.data_dir.takeover_socket());
        Ok(End::Stopped)
    }

    /// Leaves everything to a successor and serves the sessions that are here until they end.
    async fn let_go(
        &self,
        front_door: FrontDoor,
        place: Place,
        mut successor: Successor,
        signals: &mut Signals,
    ) -> End {
        tracing::info!("another server takes over");
        let FrontDoor { settings, stop, mut task, connectors, jobs } = front_door;
        stop.accepting.cancel();
        drop(place);
        let settled = async { tokio::join!(settings.entrants.all_settled(), jobs.all_done()) };
        if tokio::time::timeout(SETTLED_WITHIN, settled).await.is_err() {
            tracing::warn!("clients that wait for a branch, or operations, are ended");
        }
        stop.entering.cancel();
        settings.entrants.all_settled().await;
        self.computes.let_go();
        connectors.stop().await;
        self.keep_house_no_more().await;
        if !successor.release().await {
            tracing::error!("the new server did not come up: start one; store and computes run");
        }
        let cancels = tokio::spawn(successor.serve_cancels(settings.cancels));
        let limit = Duration::from_secs(self.config.current().server.drain_timeout_s);
        let end_of_patience = async {
            tokio::select! {
                () = tokio::time::sleep(limit) => {}
                () = stop_requested(signals) => {}
            }
        };
        tokio::select! {
            _ = &mut task => {}
            () = end_of_patience => {
                stop.sessions.cancel();
                let _ = task.await;
            }
        }
        cancels.abort();
        tracing::info!("the last session has ended");
        End::TakenOver
    }

    async fn open(&self, place: &Place) -> Result<FrontDoor, ServerError> {
        let (jobs, config) = (Jobs::default(), self.config.current());
        let connectors = Arc::new(Connectors::open(self.connector_services())?);
        let branch_services = BranchServices {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            computes: self.computes.clone(),
            connectors: connectors.clone(),
            key: self.key.clone(),
            jobs: jobs.clone(),
            config: (*config).clone(),
        };
        let branches = Arc::new(Branches::open(branch_services).await?);
        let settings = Settings::new(self.policy.clone(), self.mock_secret()?);
        let address = self.front_door_address(place)?;
        let control = Arc::new(ControlPlane::new(ControlServices {
            config: self.config.clone(),
            facts: self.facts(place)?,
            catalog: self.catalog.clone(),
            key: self.key.clone(),
            connectors: connectors.clone(),
            branches: branches.clone(),
            computes: self.computes.clone(),
            front_door: settings.clone(),
            jobs: jobs.clone(),
            started_at: SystemTime::now(),
            address,
        }));
        if !config.metrics.listen.is_empty() {
            let listener = bind_monitoring(&config.metrics.listen).await?;
            self.keeper.add(monitoring::serve(listener, control.clone(), self.stop.clone()));
        }
        let router = Router::new(branches, self.computes.clone(), self.catalog.clone());
        let stop = Stop::new();
        let task = tokio::spawn(proxy::serve(
            listeners(place)?,
            Arc::new(router),
            Arc::new(AdminConsole::new(control)),
            settings.clone(),
            stop.clone(),
        )?);
        Ok(FrontDoor { settings, stop, task, connectors, jobs })
    }

    fn connector_services(&self) -> ConnectorServices {
        ConnectorServices {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            computes: self.computes.clone(),
            key: self.key.clone(),
            config: (*self.config.current()).clone(),
            data_dir: self.data_dir.clone(),
            templates: Templates::default(),
        }
    }

    fn front_door_address(&self, place: &Place) -> Result<FrontDoorAddress, ServerError> {
        let proxy = &self.config.current().proxy;
        let listening = self.source.listening.first().map(SocketAddr::ip);
        let shown = listening.filter(|ip| !ip.is_unspecified());
        let shown = shown.map_or_else(|| "localhost".to_owned(), |ip| ip.to_string());
        Ok(FrontDoorAddress {
            host: if proxy.host.is_empty() { shown } else { proxy.host.clone() },
            port: place.port()?,
            domain: (!proxy.domain.is_empty()).then(|| proxy.domain.clone()),
        })
    }

    /// What `SHOW CONFIG` tells besides the configuration.
    fn facts(&self, place: &Place) -> Result<Vec<ConfigRow>, ServerError> {
        let row = |name: &str, value: String, origin: &str| ConfigRow {
            name: name.to_owned(),
            value,
            origin: origin.to_owned(),
        };
        let listening: Vec<_> = place.addresses()?.iter().map(SocketAddr::to_string).collect();
        Ok(vec![
            row("data_dir", self.data_dir.path().display().to_string(), "command line"),
            row("listen", listening.join(", "), "command line"),
            row(
                "tls_ca_file",
                self.source.authority.certificate().display().to_string(),
                "generated",
            ),
        ])
    }

    /// The secret behind the salts of unknown names: the same after a restart, so that a name
    /// does not show by its salt whether it exists.
    fn mock_secret(&self) -> Result<[u8; 32], ServerError> {
        let key = std::fs::read(key_path(&self.config.current(), &self.data_dir))?;
        let mut digest = Sha256::new();
        digest.update(b"ardent mock scram");
        digest.update(&key);
        Ok(digest.finalize().into())
    }
}

/// Copies of the place's sockets: the place itself may be handed over.
fn listeners(place: &Place) -> Result<Vec<Listener>, ServerError> {
    let mut listeners = Vec::new();
    for listener in &place.tcp {
        listeners.push(Listener::tcp(TcpListener::from_std(listener.try_clone()?)?));
    }
    let admin = place.admin.try_clone()?;
    admin.set_nonblocking(true)?;
    listeners.push(Listener::unix(UnixListener::from_std(admin)?));
    Ok(listeners)
}

async fn bind_monitoring(address: &str) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}

async fn stop_requested(signals: &mut Signals) {
    while signals.next().await != Request::Stop {}
}
