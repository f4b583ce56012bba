//! The server process: builds everything bottom-up, stops it top-down, and holds no other logic.
//!
//! Order of the start, each step needing those before it: configuration, the place (lock,
//! listeners: a taken port is told before anything is started), identity, catalog, store, computes
//! (those of an earlier server are adopted), connectors, branches, front door.
//!
//! | end | by | sessions | store and computes |
//! |---|---|---|---|
//! | stop | SIGTERM, SIGINT | ended | stopped, nothing is left |
//! | takeover | a server started with `--takeover` | go on until they end | left to it |
//! | death | kill -9 | broken | left; the next server finds them |

mod authority;
mod error;
mod front_door;
mod handoff;
mod housekeeping;
mod listen;
mod monitoring;
mod place;
mod reload;
mod signal;
mod takeover;
mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proxy::LivePolicy;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::cause::Causes;
use crate::compute::{ComputePlaces, ComputeTarget, Computes};
use crate::config::{Config, LiveConfig, ProxyConfig};
use crate::data_dir::DataDir;
use crate::postgres;
use crate::secret::{SecretError, SecretKey};
use crate::store::{Store, StorePaths};
use authority::Authority;
use housekeeping::Housekeeping;
use place::Place;
use reload::PolicySource;
use takeover::Predecessor;

pub use error::ServerError;

/// What `ardent serve` is told.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Each `host:port` to listen on; port 0 takes a free one.
    pub listen: Vec<String>,
    /// The operator's configuration file.
    pub config: Option<PathBuf>,
    /// Take the place of a running server; its listeners count then, not `listen`.
    pub takeover: bool,
}

/// Runs the server until SIGTERM or SIGINT, or until another takes over.
pub fn run(options: &ServeOptions) -> Result<(), ServerError> {
    let config = Config::load(options.config.as_deref())?;
    raise_file_limit(&config.proxy);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options, config))
}

/// Every session takes two descriptors, and one before it has authenticated. The limit is raised to
/// what the configured sessions need; without the right to that, as far as it goes.
fn raise_file_limit(proxy: &ProxyConfig) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Listeners, pipes to the store and to sources, three for each compute.
    const OTHERS: usize = 4096;
    let sessions = proxy.sessions_max.saturating_mul(2);
    let needed = sessions.saturating_add(proxy.preauth_max).saturating_add(OTHERS);
    let needed = u64::try_from(needed).unwrap_or(u64::MAX);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    for maximum in [maximum.map(|maximum| maximum.max(needed)), maximum] {
        if setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
            return;
        }
    }
}

async fn serve(options: &ServeOptions, config: Config) -> Result<(), ServerError> {
    let mut signals = signal::Signals::listen()?;
    let installations = postgres::find(&config.compute.bin_dirs);
    if installations.is_empty() {
        return Err(ServerError::NoPostgres);
    }
    let (place, mut predecessor) = take_place(options, &config).await?;
    let data_dir = place.data_dir.clone();
    let source = policy_source(options, &config, &place)?;
    let policy = LivePolicy::new(source.policy(&config)?);
    if let Some(predecessor) = &mut predecessor {
        predecessor.released().await?;
    }
    if config.proxy.handoff {
        handoff::lay_down(&data_dir.handoff_library())?;
    }
    let catalog = Arc::new(Catalog::open(&data_dir.catalog())?);
    let key = Arc::new(open_key(&config, &data_dir)?);
    let places =
        ComputePlaces { data_dir: data_dir.clone(), config: config.clone(), installations };
    housekeeping::end_loads(&catalog, &places).await?;
    let store = Arc::new(open_store(&catalog, &places).await?);
    let computes = Computes::new(places, store.clone(), catalog.clone());
    let died = adopt(&catalog, &computes).await?;
    housekeeping::sweep(&catalog, &store, &computes).await?;
    let stop = CancellationToken::new();
    let keeper = Housekeeping::start(&source.config, &catalog, (&store, &computes), &stop);
    keeper.add(housekeeping::refresh(computes.clone(), died, stop.clone()));
    let parts = Parts {
        config: source.config.clone(),
        source,
        policy,
        data_dir,
        catalog,
        key,
        store,
        computes,
        keeper,
        stop,
    };
    let ended = parts.serve(place, predecessor, &mut signals).await;
    parts.keep_house_no_more().await;
    if !matches!(ended, Ok(End::TakenOver)) {
        parts.stop().await;
    }
    ended.map(drop)
}

async fn take_place(
    options: &ServeOptions,
    config: &Config,
) -> Result<(Place, Option<Predecessor>), ServerError> {
    if options.takeover {
        let (place, predecessor) = Predecessor::ask(&options.data_dir).await?;
        return Ok((place, Some(predecessor)));
    }
    Ok((Place::take(options, config).await?, None))
}

fn policy_source(
    options: &ServeOptions,
    config: &Config,
    place: &Place,
) -> Result<PolicySource, ServerError> {
    let directory = place.data_dir.tls();
    let authority = Authority::open(&directory).map_err(|error| ServerError::Tls {
        path: directory.display().to_string(),
        reason: Causes(&error).to_string(),
    })?;
    Ok(PolicySource {
        file: options.config.clone(),
        config: LiveConfig::new(config.clone()),
        authority,
        listening: place.addresses()?,
    })
}

/// How serving ended.
enum End {
    Stopped,
    TakenOver,
}

/// What stands below connectors and branches.
struct Parts {
    config: LiveConfig,
    source: PolicySource,
    policy: LivePolicy,
    data_dir: DataDir,
    catalog: Arc<Catalog>,
    key: Arc<SecretKey>,
    store: Arc<Store>,
    computes: Computes,
    keeper: Housekeeping,
    stop: CancellationToken,
}

impl Parts {
    async fn keep_house_no_more(&self) {
        self.stop.cancel();
        self.keeper.join().await;
    }

    /// Stops what outlives a killed server, within the configured time.
    async fn stop(&self) {
        let limit = Duration::from_secs(self.config.current().server.stop_timeout_s);
        if tokio::time::timeout(limit, self.computes.stop_all()).await.is_err() {
            tracing::error!("computes did not stop in time");
        }
        if let Err(error) = self.store.shutdown(limit).await {
            tracing::error!(error = %Causes(&error), "stop store");
            self.store.kill().await;
        }
    }
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
        io_uring: config.store.io_uring,
        hold_back: config.store.hold_back,
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

/// Finds the computes that an earlier server left running. Returns those that have died since.
async fn adopt(catalog: &Catalog, computes: &Computes) -> Result<Vec<ComputeTarget>, ServerError> {
    let mut died = Vec::new();
    for record in catalog.branches()? {
        let target = ComputeTarget::of(&record);
        let was_running = computes.died_unseen(&target);
        if computes.adopt(target.clone()).await? {
            tracing::info!(branch = record.number.get(), "adopted running compute");
        } else if was_running {
            died.push(target);
        }
    }
    Ok(died)
}
