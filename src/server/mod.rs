//! The server process: builds everything bottom-up, stops it top-down, and holds no other logic.
//!
//! Order of the start, each step needing those before it: configuration, data directory and its
//! lock, listener (a taken port is told before anything is started), catalog, store, computes
//! (those of an earlier server are adopted), connectors, branches, front door.
//!
//! An orderly stop goes the other way and leaves nothing: sessions, streams (each at a transaction
//! boundary), computes, store and mount. Killing the server leaves store and computes running; the
//! next server finds them.

mod housekeeping;
mod signal;
mod tls;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy::{Limits, Listener, Sessions, Settings};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::admin::AdminConsole;
use crate::branch::{BranchError, BranchServices, Branches, FrontDoorAddress};
use crate::catalog::{Catalog, CatalogError};
use crate::cause::Causes;
use crate::compute::{ComputeError, ComputePlaces, ComputeTarget, Computes};
use crate::config::{Config, ConfigError};
use crate::connector::{ConnectorError, ConnectorServices, Connectors};
use crate::control::{ControlPlane, ControlServices};
use crate::data_dir::{DataDir, DataDirError};
use crate::postgres;
use crate::router::Router;
use crate::secret::{SecretError, SecretKey};
use crate::store::{Store, StoreError, StorePaths};

/// What `ardent serve` is told.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// `host:port` to listen on; port 0 takes a free one.
    pub listen: String,
    /// The operator's configuration file.
    pub config: Option<PathBuf>,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// No Postgres is installed.
    #[error(
        "no PostgreSQL 13 to 18 found: install the Debian package postgresql-15, \
         or name its directory in compute.bin_dirs"
    )]
    NoPostgres,
    /// Another server uses these uids.
    #[error(
        "another ardent server on this host runs computes from uid {0} on: \
         set compute.uid_base to a range of its own"
    )]
    UidsTaken(u32),
    /// The address cannot be listened on.
    #[error("listen on {address}: {source}: choose another address with --listen")]
    Listen {
        /// As given.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate cannot be used.
    #[error("TLS certificate {path}: {reason}")]
    Tls {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The catalog cannot be used.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The sealing key cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The store did not come up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Computes could not be adopted.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// Connectors could not be opened.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// Branches could not be opened.
    #[error(transparent)]
    Branch(#[from] BranchError),
    /// The system refused.
    #[error("start server: {0}")]
    Io(#[from] std::io::Error),
}

/// Runs the server until SIGTERM or SIGINT.
pub fn run(options: &ServeOptions) -> Result<(), ServerError> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

/// Every session takes two descriptors, so the soft limit of 1024 is raised as far as it goes.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

async fn serve(options: &ServeOptions) -> Result<(), ServerError> {
    let config = Config::load(options.config.as_deref())?;
    let mut signals = signal::Signals::listen()?;
    let installations = postgres::find(&config.compute.bin_dirs);
    if installations.is_empty() {
        return Err(ServerError::NoPostgres);
    }
    let (data_dir, _lock) = DataDir::prepare(&options.data_dir)?;
    let _uids = claim_uids(config.compute.uid_base)?;
    let socket = bind(&options.listen).await?;
    let address = socket.local_addr()?;
    let listener = tls::listener(socket, &config.proxy)?;
    let catalog = Arc::new(Catalog::open(&data_dir.catalog())?);
    let key = Arc::new(open_key(&config, &data_dir)?);
    let places =
        ComputePlaces { data_dir: data_dir.clone(), config: config.clone(), installations };
    housekeeping::end_loads(&catalog, &places).await?;
    let store = Arc::new(open_store(&catalog, &places).await?);
    let computes = Computes::new(places, store.clone(), catalog.clone());
    adopt(&catalog, &computes).await?;
    housekeeping::sweep(&catalog, &store, &computes).await?;
    let stop = CancellationToken::new();
    let keeper = housekeeping::Housekeeping::start(&config, &store, &computes, &stop);
    let parts = Parts { config, data_dir, catalog, key, store, computes };
    let served = parts.serve(listener, address, &mut signals).await;
    stop.cancel();
    keeper.join().await;
    parts.stop().await;
    served
}

/// What stands below connectors and branches.
struct Parts {
    config: Config,
    data_dir: DataDir,
    catalog: Arc<Catalog>,
    key: Arc<SecretKey>,
    store: Arc<Store>,
    computes: Computes,
}

impl Parts {
    /// Opens the front door and serves until a signal.
    async fn serve(
        &self,
        listener: Listener,
        address: std::net::SocketAddr,
        signals: &mut signal::Signals,
    ) -> Result<(), ServerError> {
        let connectors = Arc::new(Connectors::open(self.connector_services())?);
        let branches = Arc::new(Branches::open(self.branch_services(&connectors)).await?);
        let sessions = Sessions::new();
        let control = ControlPlane::new(ControlServices {
            config: self.config.clone(),
            catalog: self.catalog.clone(),
            key: self.key.clone(),
            connectors: connectors.clone(),
            branches: branches.clone(),
            computes: self.computes.clone(),
            sessions: sessions.clone(),
            address: self.front_door_address(address),
        });
        let router = Router::new(branches, self.computes.clone(), self.catalog.clone());
        let admin_socket = self.data_dir.admin_socket(address.port());
        let unix = self.bind_admin_socket(&admin_socket)?;
        let stop = CancellationToken::new();
        let front_door = tokio::spawn(proxy::serve(
            vec![listener, Listener::unix(unix)],
            Arc::new(router),
            Arc::new(AdminConsole::new(Arc::new(control))),
            Settings { limits: self.limits(), mock_secret: self.mock_secret()?, sessions },
            stop.clone(),
        ));
        tracing::info!(%address, "ready");
        signal::tell_ready();
        signals.stop_requested().await;
        tracing::info!("stopping");
        stop.cancel();
        // While sessions end: an operator who waits for setup is told that it stopped, and does not
        // keep the front door open until it is done.
        connectors.stop().await;
        let _ = front_door.await;
        let _ = std::fs::remove_file(&admin_socket);
        Ok(())
    }

    /// Stops what outlives a killed server, within the configured time.
    async fn stop(&self) {
        let limit = Duration::from_secs(self.config.server.stop_timeout_s);
        if tokio::time::timeout(limit, self.computes.stop_all()).await.is_err() {
            tracing::error!("computes did not stop in time");
        }
        if let Err(error) = self.store.shutdown(limit).await {
            tracing::error!(error = %Causes(&error), "stop store");
            self.store.kill().await;
        }
    }

    fn connector_services(&self) -> ConnectorServices {
        ConnectorServices {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            computes: self.computes.clone(),
            key: self.key.clone(),
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
        }
    }

    fn branch_services(&self, connectors: &Arc<Connectors>) -> BranchServices {
        BranchServices {
            catalog: self.catalog.clone(),
            store: self.store.clone(),
            computes: self.computes.clone(),
            connectors: connectors.clone(),
            key: self.key.clone(),
            config: self.config.clone(),
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            preauth_connections: self.config.proxy.preauth_max,
            sessions: self.config.proxy.sessions_max,
            sessions_per_endpoint: self.config.proxy.sessions_per_branch_max,
            ..Limits::default()
        }
    }

    fn front_door_address(&self, listening: std::net::SocketAddr) -> FrontDoorAddress {
        let proxy = &self.config.proxy;
        let shown = if listening.ip().is_unspecified() {
            "localhost".to_owned()
        } else {
            listening.ip().to_string()
        };
        FrontDoorAddress {
            host: if proxy.host.is_empty() { shown } else { proxy.host.clone() },
            port: listening.port(),
            domain: (!proxy.domain.is_empty()).then(|| proxy.domain.clone()),
        }
    }

    /// Sockets of earlier servers are removed: the CLI expects to find exactly one.
    fn bind_admin_socket(&self, path: &std::path::Path) -> Result<UnixListener, ServerError> {
        for entry in std::fs::read_dir(self.data_dir.run())?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
                std::fs::remove_file(entry.path())?;
            }
        }
        let listener = UnixListener::bind(path)?;
        // Who may do what is decided by peer credentials and passwords, not by the file's mode.
        let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(path, everyone)?;
        Ok(listener)
    }

    /// The secret behind the salts of unknown names: the same after a restart, so that a name
    /// does not show by its salt whether it exists.
    fn mock_secret(&self) -> Result<[u8; 32], ServerError> {
        let key = std::fs::read(key_path(&self.config, &self.data_dir))?;
        let mut digest = Sha256::new();
        digest.update(b"ardent mock scram");
        digest.update(&key);
        Ok(digest.finalize().into())
    }
}

/// Claims the range of uids for this server: every process of a compute's uid is taken for the
/// compute's, so two servers with one range would end each other's. The name is given back by the
/// kernel with this process.
fn claim_uids(base: u32) -> Result<Option<UnixDatagram>, ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let name = SocketAddr::from_abstract_name(format!("ardent-uids-{base}"))?;
    match UnixDatagram::bind_addr(&name) {
        Ok(claim) => Ok(Some(claim)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(ServerError::UidsTaken(base))
        }
        Err(error) => Err(error.into()),
    }
}

async fn bind(address: &str) -> Result<TcpListener, ServerError> {
    let failed = |source| ServerError::Listen { address: address.to_owned(), source };
    TcpListener::bind(address).await.map_err(failed)
}

fn key_path(config: &Config, data_dir: &DataDir) -> PathBuf {
    let configured = &config.server.secret_key;
    if configured.as_os_str().is_empty() { data_dir.secret_key() } else { configured.clone() }
}

fn open_key(config: &Config, data_dir: &DataDir) -> Result<SecretKey, SecretError> {
    SecretKey::load_or_create(&key_path(config, data_dir))
}

fn store_paths(data_dir: &DataDir, config: &Config) -> StorePaths {
    StorePaths {
        data_dir: data_dir.path().to_owned(),
        socket: data_dir.store_socket(),
        log: data_dir.store_log(),
        reserve_bytes: config.store.reserve_mb.saturating_mul(1 << 20),
    }
}

/// Adopts the store, or starts one after whatever ran on the last one is gone for certain.
async fn open_store(catalog: &Catalog, places: &ComputePlaces) -> Result<Store, ServerError> {
    let paths = store_paths(&places.data_dir, &places.config);
    if let Some(store) = Store::adopt(&paths).await {
        return Ok(store);
    }
    for record in catalog.branches()? {
        places.clear(&ComputeTarget::of(&record)).await?;
    }
    Ok(Store::start(&paths).await?)
}

/// Finds the computes that a killed server left running.
async fn adopt(catalog: &Catalog, computes: &Computes) -> Result<(), ServerError> {
    for record in catalog.branches()? {
        if computes.adopt(ComputeTarget::of(&record)).await? {
            tracing::info!(branch = record.number.get(), "adopted running compute");
        }
    }
    Ok(())
}
