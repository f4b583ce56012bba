//! A running compute: started or found again, then watched and stopped.
//!
//! Must never: start in a data directory whose previous processes were not seen gone, or stop
//! anything because a handle is dropped.
//!
//! ```text
//! start:  clear remains -> record without process -> exec -> record -> READY=1 -> SELECT 1
//! adopt:  record names a live process of this compute -> SELECT 1, else kill and clear
//! end:    SIGINT -> SIGQUIT -> SIGKILL of every process -> all seen gone -> remove the record
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::time::timeout;

use super::error::PostgresError;
use super::installation::Installation;
use super::precheck;
use super::process::{Account, Exit, Process, Streams, spawn_detached};
use super::ready::{self, ReadyNotice};
use super::remains::{self, Identity};
use super::settings::{self, ComputeKind};
use super::spare::Spares;
use super::state::{self, RecordedProcess};
use super::wal;

/// After SIGQUIT Postgres itself gives its children 5 s before it kills them.
const IMMEDIATE_STOP_WITHIN: Duration = Duration::from_secs(6);

/// A log longer than this is set aside, once, before a start.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Everything that describes one compute.
#[derive(Clone, Debug)]
pub struct ComputeSpec {
    /// The binaries.
    pub installation: Installation,
    /// `PGDATA`; owned by the account.
    pub data_dir: PathBuf,
    /// Where its write-ahead log lies; none: in the data directory.
    pub wal_dir: Option<PathBuf>,
    /// Directory of the socket `.s.PGSQL.5432`; made anew at each start, 0700 for the account.
    pub socket_dir: PathBuf,
    /// Where stdout and stderr are appended.
    pub log_file: PathBuf,
    /// The record by which a new server finds the compute.
    pub state_file: PathBuf,
    /// The compute's own account when the server is root, else `None`.
    pub account: Option<Account>,
    /// Trunk or branch.
    pub kind: ComputeKind,
    /// The database clients use; readiness is asked there.
    pub database: String,
    /// A library that is preloaded into it, with its children.
    pub preload: Option<PathBuf>,
    /// Settings on top of those of the kind; the last one of a name wins.
    pub settings: Vec<(String, String)>,
    /// Longest wait for readiness; recovery after a crash counts.
    pub start_timeout: Duration,
    /// Longest wait for a fast shutdown before it becomes an immediate one.
    pub stop_timeout: Duration,
}

/// A compute that has answered. Dropping it leaves the compute running.
#[derive(Debug)]
pub struct Compute {
    spec: ComputeSpec,
    identity: Identity,
    process: Process,
    started_at: SystemTime,
}

impl Compute {
    /// Starts the compute and returns once it answered; `once_accepting` is done beside that
    /// answer, after recovery. What a previous one left is cleared away first; a previous one that
    /// still lives is an error: adopt it.
    pub async fn start(
        spec: ComputeSpec,
        spares: &Arc<Spares>,
        once_accepting: impl Future<Output = ()>,
    ) -> Result<Self, PostgresError> {
        let (spec, identity, remains) = blocking(move || {
            let remains = precheck::check(&spec)?;
            let identity = Identity::of(spec.account, &spec.data_dir);
            Ok((spec, identity, remains))
        })
        .await?;
        if remains {
            clear(&spec, &identity).await?;
        }
        let spares = spares.clone();
        let attach_and_launch = move || wal::attach(&spec).and_then(|()| launch(spec, &spares));
        let (spec, launched) = blocking(attach_and_launch).await?;
        let Launched { process, notice, log_offset, started_at } = launched;
        let compute = Self { spec, identity, process, started_at };
        match compute.wait_ready(&notice, log_offset, once_accepting).await {
            Ok(()) => Ok(compute),
            Err(error) => {
                clear(&compute.spec, &compute.identity).await?;
                Err(error)
            }
        }
    }

    /// Finds the compute that an earlier server started. `None`: there is none, and nothing of
    /// one is left. A compute that lives but does not answer is killed.
    pub async fn adopt(spec: ComputeSpec) -> Result<Option<Self>, PostgresError> {
        let identity = Identity::of(spec.account, &spec.data_dir);
        let recorded = state::read(&spec.state_file, &spec.data_dir);
        if let Some((process, started_at)) = recorded.and_then(|record| find(&record, &identity)) {
            let compute = Self { spec, identity, process, started_at };
            let answer = ready::answers(&compute.spec.socket_dir, &compute.spec.database);
            if matches!(timeout(compute.spec.start_timeout, answer).await, Ok(Ok(()))) {
                return Ok(Some(compute));
            }
            clear(&compute.spec, &compute.identity).await?;
            return Ok(None);
        }
        clear(&spec, &identity).await?;
        Ok(None)
    }

    /// Ends whatever runs for this spec and removes what it left, for deletion of a branch whose
    /// compute nobody holds.
    pub async fn clear(spec: &ComputeSpec) -> Result<(), PostgresError> {
        clear(spec, &Identity::of(spec.account, &spec.data_dir)).await
    }

    /// Loads the program of this compute once more, for the next one that is started. Blocks.
    pub fn prepare_next(&self, spares: &Spares) -> Result<(), PostgresError> {
        let prepared = spares.prepare(&command(&self.spec), self.pid());
        prepared.map_err(PostgresError::io("load postgres ahead"))
    }

    /// Whether a checkpoint would spare a fork much of its recovery (see [`wal`]).
    pub async fn wants_checkpoint(&self, log_bytes: u64) -> Result<bool, PostgresError> {
        let spec = self.spec.clone();
        blocking(move || wal::wants_checkpoint(&spec, log_bytes)).await
    }

    /// What it was started with.
    pub fn spec(&self) -> &ComputeSpec {
        &self.spec
    }

    /// Directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        &self.spec.socket_dir
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// When the process was started; adoption keeps it.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// False once the end of the postmaster was seen; never waits.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Returns when the postmaster has ended. Children may live a moment longer; the next start
    /// sees to them.
    pub async fn wait_exit(&self) -> Exit {
        self.process.exited().await
    }

    /// Fast shutdown; immediate if that takes longer than `stop_timeout`, SIGKILL if that hangs
    /// too. Returns once every process of the compute is gone.
    pub async fn stop(&self) -> Result<Exit, PostgresError> {
        for (signal, patience) in
            [(Signal::INT, self.spec.stop_timeout), (Signal::QUIT, IMMEDIATE_STOP_WITHIN)]
        {
            self.process.signal(signal).map_err(PostgresError::io("signal compute"))?;
            if timeout(patience, self.process.exited()).await.is_ok() {
                break;
            }
        }
        self.kill().await
    }

    /// SIGKILL of every process. Returns once all are gone. Committed data stays: the next start
    /// recovers.
    pub async fn kill(&self) -> Result<Exit, PostgresError> {
        self.process.signal(Signal::KILL).map_err(PostgresError::io("signal compute"))?;
        clear(&self.spec, &self.identity).await?;
        Ok(self.process.exited().await)
    }

    async fn wait_ready(
        &self,
        notice: &ReadyNotice,
        log_offset: u64,
        once_accepting: impl Future<Output = ()>,
    ) -> Result<(), PostgresError> {
        let spec = &self.spec;
        let last_line = || ready::last_line(&spec.log_file, log_offset);
        let answered = async {
            let received = notice.received(&spec.data_dir).await;
            received.map_err(PostgresError::io("wait for compute"))?;
            let answer = ready::answers(&spec.socket_dir, &spec.database);
            tokio::join!(answer, once_accepting).0
        };
        tokio::select! {
            exit = self.process.exited() => {
                Err(PostgresError::StartFailed { exit, last_line: last_line() })
            }
            outcome = timeout(spec.start_timeout, answered) => outcome.unwrap_or_else(|_elapsed| {
                let seconds = spec.start_timeout.as_secs();
                Err(PostgresError::StartTimedOut { seconds, last_line: last_line() })
            }),
        }
    }
}

/// A process that was just executed.
struct Launched {
    process: Process,
    notice: ReadyNotice,
    log_offset: u64,
    started_at: SystemTime,
}

fn launch(spec: ComputeSpec, spares: &Spares) -> Result<(ComputeSpec, Launched), PostgresError> {
    make_socket_dir(&spec).map_err(PostgresError::io("make socket directory of compute"))?;
    let notice = ReadyNotice::bind(&spec.socket_dir, spec.account)
        .map_err(PostgresError::io("bind notification socket of compute"))?;
    let log = open_log(&spec.log_file).map_err(PostgresError::io("open log of compute"))?;
    let log_offset = log.metadata().map_err(PostgresError::io("open log of compute"))?.len();
    // First without a process: killed between the next two steps, we leave a record behind.
    state::write(&spec.state_file, &spec.data_dir, None)
        .map_err(PostgresError::io("record compute"))?;
    let started_at = SystemTime::now();
    let process = execute(&spec, spares, &log).map_err(PostgresError::io("execute postgres"))?;
    let recorded = RecordedProcess::of(process.pid(), started_at);
    state::write(&spec.state_file, &spec.data_dir, recorded)
        .map_err(PostgresError::io("record compute"))?;
    Ok((spec, Launched { process, notice, log_offset, started_at }))
}

fn execute(spec: &ComputeSpec, spares: &Spares, log: &File) -> io::Result<Process> {
    let mut command = command(spec);
    if let Some(spare) = spares.take(&command) {
        match spare.run(&command, spec.account, log) {
            Ok(process) => return Ok(process),
            Err(error) => tracing::debug!(error = %error, "a spare process is of no use"),
        }
    }
    Process::watch(spawn_detached(&mut command, spec.account, Streams::to(log)?)?)
}

fn command(spec: &ComputeSpec) -> Command {
    let mut command = Command::new(spec.installation.program("postgres"));
    command.arg("-D").arg(&spec.data_dir);
    command.args(settings::arguments(spec.kind, spec.installation.major));
    let mut directory = std::ffi::OsString::from("unix_socket_directories=");
    directory.push(&spec.socket_dir);
    command.arg("-c").arg(directory);
    for (name, value) in &spec.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
        .env_clear()
        .envs([("LANG", "C"), ("LC_ALL", "C"), ("TZ", "UTC"), ("PATH", "/usr/bin:/bin")])
        .env("NOTIFY_SOCKET", ReadyNotice::path(&spec.socket_dir))
        .envs(spec.preload.iter().map(|library| ("LD_PRELOAD", library)))
        .current_dir(&spec.data_dir);
    command
}

fn make_socket_dir(spec: &ComputeSpec) -> io::Result<()> {
    remove_dir(&spec.socket_dir)?;
    fs::DirBuilder::new().mode(0o700).create(&spec.socket_dir)?;
    if let Some(Account { uid, gid }) = spec.account {
        std::os::unix::fs::chown(&spec.socket_dir, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// The live process that a record names, if it is one of this compute.
fn find(record: &RecordedProcess, identity: &Identity) -> Option<(Process, SystemTime)> {
    let process = Process::watch(record.pid).ok()?;
    // Asked after the descriptor was opened: from here on it means this process and no other.
    let same = record.is_alive() && identity.includes(record.pid);
    same.then(|| (process, record.started_at()))
}

/// Kills what is left of a compute, sees it gone, and removes every trace outside its data.
async fn clear(spec: &ComputeSpec, identity: &Identity) -> Result<(), PostgresError> {
    remains::end_processes(identity).await?;
    let (spec, identity) = (spec.clone(), identity.clone());
    blocking(move || {
        remains::sweep(&identity, &spec.data_dir)
            .and_then(|()| remove_dir(&spec.socket_dir))
            .and_then(|()| state::remove(&spec.state_file))
            .map_err(PostgresError::io("remove remains of compute"))
    })
    .await
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs file work where it may block: the data directory is on a mount served by another process.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PostgresError> + Send + 'static,
) -> Result<T, PostgresError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|stopped| PostgresError::io("run file work")(io::Error::other(stopped)))
        .and_then(|outcome| outcome)
}
