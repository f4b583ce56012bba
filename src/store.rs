//! The store process as the server sees it: spawned or adopted, watched for its end, called.
//!
//! The store runs in its own session and outlives this server; a new server finds it by its
//! control socket. Every call opens its own connection to that socket (tens of microseconds), so
//! a store that was replaced in between is met without any state of ours to mend.
//!
//! Must never: start a second store while one lives, or signal a process it has not just seen
//! at the other end of the control socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use storage::client::StoreClient;
use storage::{BranchId, Owner, RefusalCode};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

/// A store that has not answered a request for so long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// An import makes durable what it takes in, at the pace of the disk: 1 TB at 300 MB/s.
const IMPORT_MAX: Duration = Duration::from_secs(3600);
/// Opening a store replays its journals; with thousands of branches that takes seconds.
const START_MAX: Duration = Duration::from_secs(120);

/// Where the store's files are; all below the data directory.
#[derive(Clone, Debug)]
pub struct StorePaths {
    /// The data directory, as `ardent store` is told.
    pub data_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// What the store logs.
    pub log: PathBuf,
    /// Disk space that it keeps for what exists.
    pub reserve_bytes: u64,
    /// Whether requests may come over `io_uring`.
    pub io_uring: bool,
    /// Whether the kernel may hold writes back.
    pub hold_back: bool,
}

/// A running store process.
pub struct Store {
    paths: StorePaths,
    process: std::sync::Mutex<StoreProcess>,
}

struct StoreProcess {
    pid: Pid,
    pidfd: std::sync::Arc<AsyncFd<OwnedFd>>,
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store itself refused or failed.
    #[error("store: {0}")]
    Refused(#[source] storage::Error),
    /// The store did not come up.
    #[error("store did not start: {0}")]
    Start(String),
    /// The store does not answer.
    #[error("store did not answer within {0} s")]
    Silent(u64),
    /// The system refused.
    #[error("reach store process")]
    Io(#[from] io::Error),
}

/// Everything that is not as it must be in a store: asked of the process that serves it, else read
/// from its files.
pub fn check(store_dir: &Path, socket: &Path) -> Result<Vec<storage::Finding>, storage::Error> {
    match StoreClient::connect(socket) {
        Ok(mut client) => client.check(),
        Err(storage::Error::Unreachable { .. }) => storage::offline::check(store_dir),
        Err(error) => Err(error),
    }
}

impl Store {
    /// Adopts the store of this data directory, if one runs.
    pub async fn adopt(paths: &StorePaths) -> Option<Self> {
        let process = find(&paths.socket).await?;
        tracing::info!(pid = process.pid.as_raw_nonzero().get(), "adopted running store");
        Some(Self { paths: paths.clone(), process: std::sync::Mutex::new(process) })
    }

    /// Starts the store of this data directory. Call it only when no store and no compute runs.
    pub async fn start(paths: &StorePaths) -> Result<Self, StoreError> {
        let process = spawn(paths).await?;
        Ok(Self { paths: paths.clone(), process: std::sync::Mutex::new(process) })
    }

    /// Runs one request on a blocking thread.
    pub async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&mut StoreClient) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call_within(SILENCE_MAX, request).await
    }

    /// Makes a branch of its incoming directory, which no process uses.
    pub async fn import(&self, branch: BranchId, owner: Owner) -> Result<(), StoreError> {
        self.call_within(IMPORT_MAX, move |client| client.import(branch, owner)).await
    }

    async fn call_within<T: Send + 'static>(
        &self,
        limit: Duration,
        request: impl FnOnce(&mut StoreClient) -> Result<T, storage::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let socket = self.paths.socket.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut client = StoreClient::connect(&socket)?;
            request(&mut client)
        });
        match timeout(limit, task).await {
            Ok(joined) => joined.map_err(io::Error::other)?.map_err(StoreError::Refused),
            Err(_) => Err(StoreError::Silent(limit.as_secs())),
        }
    }

    /// Deletes a branch; one that is gone already is deleted well.
    pub async fn delete(&self, branch: BranchId) -> Result<(), StoreError> {
        match self.call(move |client| client.delete(branch)).await {
            Err(StoreError::Refused(storage::Error::Refused {
                code: RefusalCode::NoSuchBranch,
                ..
            })) => Ok(()),
            outcome => outcome,
        }
    }

    /// Resolves when the present store process has ended.
    pub async fn ended(&self) {
        let pidfd = self.lock().pidfd.clone();
        // A pidfd becomes readable once its process has ended; an error says the same.
        let _ = pidfd.ready(Interest::READABLE).await;
    }

    /// Ends what is left of the present process and starts a new one. Call it only after every
    /// compute is gone.
    pub async fn respawn(&self) -> Result<(), StoreError> {
        self.kill().await;
        let process = spawn(&self.paths).await?;
        *self.lock() = process;
        Ok(())
    }

    /// Kills the present process and sees it gone. The kernel then fails every request that its
    /// mount has not answered.
    pub async fn kill(&self) {
        let pidfd = self.lock().pidfd.clone();
        let _ = pidfd_send_signal(&*pidfd, Signal::KILL);
        let _ = pidfd.ready(Interest::READABLE).await;
    }

    /// Asks the store to unmount and end, and sees it gone.
    pub async fn shutdown(&self, limit: Duration) -> Result<(), StoreError> {
        self.call(StoreClient::shutdown).await?;
        timeout(limit, self.ended()).await.map_err(|_| StoreError::Silent(limit.as_secs()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, StoreProcess> {
        self.process.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The process that listens on the control socket, if one does.
async fn find(socket: &Path) -> Option<StoreProcess> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid()?;
    watch(Pid::from_raw(pid)?).ok()
}

fn watch(pid: Pid) -> io::Result<StoreProcess> {
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    // SAFETY: the descriptor stays open and the same inside the AsyncFd until that is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    Ok(StoreProcess { pid, pidfd: std::sync::Arc::new(registered) })
}

/// Starts `ardent store` in its own session and waits for its `ready` line; after that line the
/// store writes nothing to the pipe, so the end of this server does not reach it.
async fn spawn(paths: &StorePaths) -> Result<StoreProcess, StoreError> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&paths.log)?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .arg("store")
        .arg("--data-dir")
        .arg(&paths.data_dir)
        .arg("--reserve-bytes")
        .arg(paths.reserve_bytes.to_string())
        .args(paths.io_uring.then_some("--io-uring"))
        .args(paths.hold_back.then_some("--hold-back"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    // SAFETY: setsid is async-signal-safe and touches nothing of this process.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?)) };
    let mut child = Command::from(command).spawn()?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let process = watch(pid.ok_or_else(|| io::Error::other("store ended at once"))?)?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("store has no stdout"))?;
    let mut line = String::new();
    let mut reader = BufReader::new(stdout);
    let read = timeout(START_MAX, reader.read_line(&mut line)).await;
    // Dropping the handle leaves the child running; tokio reaps it when it ends.
    drop(child);
    match read {
        Ok(Ok(_)) if line.trim() == "ready" => Ok(process),
        Ok(_) => Err(StoreError::Start(last_line(&paths.log))),
        Err(_) => Err(StoreError::Start("no answer in time".to_owned())),
    }
}

/// The last line of the store's log: why it ended.
fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("see its log").to_owned()
}
