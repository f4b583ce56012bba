//! The end of a compute, for certain: every process of it is killed and seen gone.
//!
//! Why not wait for Postgres: a postmaster that was killed leaves backends that notice only at
//! their next wait, and on the store a descriptor of theirs outlives a mount. Sessions and process
//! groups do not name them (each backend makes its own session) and their parent changes when the
//! postmaster dies. What stays is the uid where the compute has one of its own, and otherwise the
//! working directory, which Postgres sets to the data directory and never leaves.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tokio::time::{Instant, timeout_at};

use super::error::PostgresError;
use super::process::{Account, Pidfd, start_ticks};
use super::shared_memory;

/// After SIGKILL a process goes at once, unless a request to a hung store holds it.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// What tells the processes of one compute from all others.
#[derive(Clone, Debug)]
pub(super) enum Identity {
    /// Everything that runs as this uid.
    Uid(u32),
    /// Every `postgres` of our own user whose working directory this is.
    Directory(PathBuf),
}

impl Identity {
    pub(super) fn of(account: Option<Account>, data_dir: &Path) -> Self {
        match account {
            Some(account) => Self::Uid(account.uid),
            // The kernel reports directories without symbolic links.
            None => Self::Directory(
                fs::canonicalize(data_dir).unwrap_or_else(|_gone| data_dir.to_owned()),
            ),
        }
    }

    /// True for a live process of this compute; a zombie holds nothing and does not count.
    pub(super) fn includes(&self, pid: u32) -> bool {
        let process = Path::new("/proc").join(pid.to_string());
        let Ok(owner) = fs::metadata(&process).map(|meta| meta.uid()) else { return false };
        let ours = match self {
            Self::Uid(uid) => owner == *uid,
            Self::Directory(data_dir) => {
                owner == geteuid().as_raw() && serves(&process, data_dir).unwrap_or(false)
            }
        };
        ours && start_ticks(pid).is_some()
    }

    fn members(&self) -> io::Result<Vec<u32>> {
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            members.extend(pid.filter(|&pid| self.includes(pid)));
        }
        Ok(members)
    }
}

fn serves(process: &Path, data_dir: &Path) -> io::Result<bool> {
    let program = fs::read_link(process.join("exe"))?;
    let program = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // The kernel appends " (deleted)" once an upgrade replaced the binary or a branch was removed.
    let is_postgres = program.trim_end_matches(" (deleted)") == "postgres";
    let directory = fs::read_link(process.join("cwd"))?;
    let directory = directory.to_str().unwrap_or_default().trim_end_matches(" (deleted)");
    Ok(is_postgres && Path::new(directory) == data_dir)
}

/// Kills every process of a compute and returns when all are seen gone.
pub(super) async fn end_processes(identity: &Identity) -> Result<(), PostgresError> {
    let deadline = Instant::now() + GONE_AFTER;
    // More than one round only if a process forked while it was being killed.
    loop {
        let members = members(identity.clone()).await?;
        let Some(&pid) = members.first() else { return Ok(()) };
        let not_gone = PostgresError::NotGone { count: members.len(), pid };
        if Instant::now() >= deadline {
            return Err(not_gone);
        }
        let killed = kill_each(identity, &members).map_err(PostgresError::io("kill compute"))?;
        for process in killed {
            if timeout_at(deadline, process.ended()).await.is_err() {
                return Err(not_gone);
            }
        }
    }
}

/// Removes what dead processes leave in the kernel and in the data directory. Only after
/// [`end_processes`]: it takes away what would keep a second postmaster out.
pub(super) fn sweep(identity: &Identity, data_dir: &Path) -> io::Result<()> {
    let pid_file = data_dir.join("postmaster.pid");
    shared_memory::remove_orphans(identity, &pid_file)?;
    // A stale one stops Postgres if by now another process of the same user has its pid. When the
    // store is gone it cannot be removed now; the next start, with a store, comes here again.
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %pid_file.display(), %error, "stale pid file stays");
        }
        Ok(()) | Err(_) => {}
    }
    Ok(())
}

async fn members(identity: Identity) -> Result<Vec<u32>, PostgresError> {
    tokio::task::spawn_blocking(move || identity.members())
        .await
        .map_err(io::Error::other)
        .and_then(|members| members)
        .map_err(PostgresError::io("list processes of compute"))
}

fn kill_each(identity: &Identity, members: &[u32]) -> io::Result<Vec<Pidfd>> {
    let mut killed = Vec::with_capacity(members.len());
    for &pid in members {
        // Gone since the listing is what we want.
        let Ok(pidfd) = Pidfd::open(pid) else { continue };
        // Asked again now that the descriptor pins the process: the pid may have been reused.
        if identity.includes(pid) {
            pidfd.signal(Signal::KILL)?;
            killed.push(pidfd);
        }
    }
    Ok(killed)
}
