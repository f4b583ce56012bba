//! Waiting for a starting server: told by it, then proved by a query.
//!
//! Debian's Postgres sends `READY=1` to `NOTIFY_SOCKET` the moment it accepts connections. A
//! build without libsystemd does not, so line 8 of `postmaster.pid` is read as well, by polling:
//! file change notices do not cross the store's mount.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_postgres::error::SqlState;

use super::error::PostgresError;
use super::process::Account;
use super::roles::SYSTEM_DATABASE;
use super::session::Session;

/// Only servers that send no notice ever wait this long.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The socket a server reports to while it starts; its file goes when this is dropped.
pub(super) struct ReadyNotice {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ReadyNotice {
    /// Binds the socket inside the compute's directory, writable for its account only.
    pub(super) fn bind(socket_dir: &Path, account: Option<Account>) -> io::Result<Self> {
        let path = Self::path(socket_dir);
        let socket = StdDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        if let Some(Account { uid, gid }) = account {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
        }
        Ok(Self { socket: UnixDatagram::from_std(socket)?, path })
    }

    /// What `NOTIFY_SOCKET` is set to.
    pub(super) fn path(socket_dir: &Path) -> PathBuf {
        socket_dir.join("notify")
    }

    /// Returns when the server said that it accepts connections.
    pub(super) async fn received(&self, data_dir: &Path) -> io::Result<()> {
        let mut poll = interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut message = [0; 512];
        loop {
            tokio::select! {
                length = self.socket.recv(&mut message) => {
                    let text = message.get(..length?).unwrap_or_default();
                    if text.split(|&byte| byte == b'\n').any(|line| line == b"READY=1") {
                        return Ok(());
                    }
                }
                _tick = poll.tick() => {
                    let text = tokio::fs::read_to_string(data_dir.join("postmaster.pid")).await;
                    if text.is_ok_and(|text| says_ready(&text)) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Drop for ReadyNotice {
    fn drop(&mut self) {
        // The directory may have been removed with the compute; nothing else can go wrong with it.
        drop(fs::remove_file(&self.path));
    }
}

/// Line 8 of the file (miscadmin.h, `LOCK_FILE_LINE_PM_STATUS`).
pub(super) fn says_ready(pid_file: &str) -> bool {
    const STATUS_LINE: usize = 8;
    pid_file.lines().nth(STATUS_LINE - 1).is_some_and(|status| status.trim() == "ready")
}

/// `SELECT 1` as a client would send it, in the database a client would use, which leaves that
/// database's caches warm. A client may have dropped or barred that database; then the server's
/// own one answers.
pub(super) async fn answers(socket_dir: &Path, database: &str) -> Result<(), PostgresError> {
    let mut outcome = select_one(socket_dir, database).await;
    for other in [SYSTEM_DATABASE, "postgres"] {
        match &outcome {
            Err(error) if is_about_the_database(error) => {
                outcome = select_one(socket_dir, other).await;
            }
            _ => break,
        }
    }
    outcome.map_err(PostgresError::query("ask compute for SELECT 1"))
}

async fn select_one(socket_dir: &Path, database: &str) -> Result<(), tokio_postgres::Error> {
    let session = Session::open(socket_dir, database).await?;
    session.client().simple_query("SELECT 1").await?;
    Ok(())
}

fn is_about_the_database(error: &tokio_postgres::Error) -> bool {
    let barred = [
        SqlState::INVALID_CATALOG_NAME,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::TOO_MANY_CONNECTIONS,
    ];
    error.code().is_some_and(|code| barred.contains(code))
}

/// The last thing a server said, from what it appended to its log since `offset`: the line that
/// says why it ended, if there is one.
pub(super) fn last_line(log_file: &Path, offset: u64) -> String {
    let text = read_tail(log_file, offset).unwrap_or_default();
    let lines = || text.lines().rev().filter(|line| !line.trim().is_empty());
    let grave = |line: &&str| line.contains("FATAL:") || line.contains("PANIC:");
    lines().find(grave).or_else(|| lines().next()).unwrap_or("no word in its log").to_owned()
}

fn read_tail(log_file: &Path, offset: u64) -> io::Result<String> {
    const TAIL_BYTES_MAX: u64 = 16 * 1024;
    let mut file = fs::File::open(log_file)?;
    let start = offset.max(file.metadata()?.len().saturating_sub(TAIL_BYTES_MAX));
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_status_line() {
        let file = "4711\n/data\n1732223000\n5432\n/run/7\n\n  1234 5\nready   \n";
        assert!(says_ready(file));
        assert!(!says_ready(&file.replace("ready   ", "starting")));
        assert!(!says_ready(""));
    }

    #[test]
    fn quotes_the_reason_rather_than_the_farewell() {
        let log = std::env::temp_dir().join(format!("compute-log-{}", std::process::id()));
        let old = "FATAL:  of an earlier run\n";
        fs::write(&log, format!("{old}LOG:  starting\nFATAL:  no memory\nLOG:  shut down\n\n"))
            .unwrap();
        let offset = u64::try_from(old.len()).unwrap();
        assert_eq!(last_line(&log, offset), "FATAL:  no memory");
        fs::remove_file(&log).unwrap();
        assert_eq!(last_line(&log, 0), "no word in its log");
    }
}
