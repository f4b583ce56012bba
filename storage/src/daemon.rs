//! The body of the `ardent store` process: opens the store, mounts it, answers the control socket,
//! and takes everything down again in the reverse order.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::claim::Claim;
use crate::control::Control;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::mount::{Kernel, Mounted};
use crate::running::Running;
use crate::store::Store;

/// Layers that could be merged and are not yet. More of them cost start-up time and descriptors,
/// fewer of them cost writes: each merge copies the pages of one and rewrites the metadata of two.
const RUN_MAX: usize = 8;

/// Records of the branch tree, some 40 bytes each, that are not worth compacting.
const RECORDS_MAX: u64 = 1024;
/// The same of a top layer: what is read again in some hundredths of a second.
const TOP_RECORDS_MAX: u64 = 16 << 10;

/// Where the store lives and how it is reached.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of layers and journals.
    pub store_dir: PathBuf,
    /// Directory under which branches appear, one each, by decimal number.
    pub mount_dir: PathBuf,
    /// Directory beside the store in which each branch may have one too, and link to it.
    pub wal_dir: PathBuf,
    /// Unix control socket.
    pub socket: PathBuf,
    /// Bytes of the disk that new branches and growing files leave alone.
    pub reserve_bytes: u64,
    /// Let requests come over `io_uring` where the kernel can.
    pub io_uring: bool,
    /// Let the kernel hold writes back where that can be bounded.
    pub hold_back: bool,
}

/// Serves the store until a `shutdown` request, SIGTERM or SIGINT.
///
/// Prints one line, `ready`, on standard output once mount and socket serve.
pub fn run(config: StoreConfig) -> Result<(), Error> {
    let io = |doing, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { doing, path, source }
    };
    let StoreConfig { store_dir, mount_dir, wal_dir, socket, reserve_bytes, .. } = config;
    let kernel = Kernel { io_uring: config.io_uring, holds_back: config.hold_back };
    let (stop, stopped) = sync_channel(1);
    // Before any other thread, so that all of them leave signals to this one.
    stop_on_signal(stop.clone()).map_err(io("take signals for", &store_dir))?;
    protect();
    fs::create_dir_all(&store_dir).map_err(io("make", &store_dir))?;
    let claim = Claim::take(&store_dir, true)?;
    let disk = RealDisk::new(&store_dir);
    disk.probe()?;
    let (open_files, run_max) = (raise_open_files(), Some(RUN_MAX));
    let running = Running {
        open_files,
        run_max,
        records_max: RECORDS_MAX,
        top_records_max: TOP_RECORDS_MAX,
        reserve: reserve_bytes,
    };
    let store = Arc::new(Store::open(Arc::new(disk), &store_dir, running)?);
    let mounted = Arc::new(Mounted::new(store.clone(), &mount_dir, wal_dir, kernel)?);
    let listener = listen(&socket).map_err(io("listen on", &socket))?;
    let control = Arc::new(Control::new(store.clone(), mounted.clone(), stop));
    std::thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || control.serve(&listener))
        .map_err(io("start a thread for", &socket))?;
    writeln!(io::stdout(), "ready").map_err(io("announce", &socket))?;
    tracing::info!(mount = %mount_dir.display(), "store is ready");
    // The sender lives as long as the control socket, that is, for ever.
    let _ = stopped.recv();
    tracing::info!("store stops");
    fs::remove_file(&socket).map_err(io("remove", &socket))?;
    mounted.unmount();
    store.close()?;
    drop(claim);
    Ok(())
}

fn stop_on_signal(stop: SyncSender<()>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            // Full means that it is being stopped already.
            if stop.try_send(()).is_err() {
                tracing::debug!("already stopping");
            }
        }
    })?;
    Ok(())
}

/// The kernel must not pick this process, which every branch hangs on, when memory is short.
fn protect() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::info!(%error, "may be killed when memory is short: not privileged");
    }
    // Nor may it wait, when it needs memory, for pages that wait for it.
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "may wait for its own mount when memory is short");
    }
}

/// Raises the limit of open files as far as may be. Returns how many idle data files to keep open.
fn raise_open_files() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(1 << 20, |maximum| maximum.max(1 << 20));
    let raised = [(wanted, Some(wanted)), (limit.maximum.unwrap_or(wanted), limit.maximum)]
        .into_iter()
        .find(|(current, maximum)| {
            let new = Rlimit { current: Some(*current), maximum: *maximum };
            rustix::process::setrlimit(Resource::Nofile, new).is_ok()
        });
    let current = raised.map_or_else(|| limit.current.unwrap_or(1024), |(current, _)| current);
    // The rest is for journals, dirty files, connections and the kernel's own limits.
    usize::try_from((current / 4).min(65_536)).unwrap_or(256)
}

/// The claim on the store directory says that no live process has the socket.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
