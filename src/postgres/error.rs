//! What can go wrong around a compute, and whether trying again can help.

use std::io;
use std::path::PathBuf;

use super::process::Exit;

/// Why a compute, a template or a question to a compute came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No Postgres that can hold the source's data is installed.
    #[error(
        "no PostgreSQL {wanted} or newer is installed: install the Debian package \
         postgresql-{wanted}, or name its directory in compute.bin_dirs"
    )]
    NotInstalled {
        /// Major version of the source.
        wanted: u32,
    },
    /// The source's major is outside what we serve.
    #[error("PostgreSQL {0} is not supported: majors 13 to 18 are")]
    UnsupportedMajor(u32),
    /// The C library of this host does not know a locale of the source.
    #[error(
        "locale \"{0}\" is not installed on this host: add it to /etc/locale.gen and run \
         locale-gen (Debian package locales)"
    )]
    LocaleMissing(String),
    /// The operating system user that runs `initdb` does not exist.
    #[error("operating system user \"{0}\" does not exist: create it or set compute.user")]
    NoSuchUser(String),
    /// `postgres` refuses to run as root, so a compute of a root server needs its own uid.
    #[error("a compute cannot run as root: give it a uid of its own")]
    NoAccount,
    /// Stopping a compute kills every process of its uid; a real user's would be among them.
    #[error("uid {0} belongs to a user of this host: move compute.uid_base to a free range")]
    AccountTaken(u32),
    /// The compute's uid cannot get to a directory that it needs.
    #[error("directory {} cannot be entered by uid {uid}: chmod o+x it", path.display())]
    Unreachable {
        /// The directory that bars the way.
        path: PathBuf,
        /// The compute's uid.
        uid: u32,
    },
    /// The kernel takes socket paths of at most 107 bytes.
    #[error("socket path {} is longer than 107 bytes: use a shorter data directory", .0.display())]
    SocketPathTooLong(PathBuf),
    /// What a compute committed last is not where it was left.
    #[error(
        "write-ahead log {} is missing: restore it from the backup that the data directory comes from",
        .0.display()
    )]
    WalMissing(PathBuf),
    /// The data directory is served already.
    #[error("compute is already running as process {0}")]
    AlreadyRunning(u32),
    /// The server ended before it was ready.
    #[error("postgres did not start ({exit}): {last_line}")]
    StartFailed {
        /// How it ended.
        exit: Exit,
        /// Its last words in the log.
        last_line: String,
    },
    /// The server was not ready in time and was killed.
    #[error("postgres was not ready after {seconds} s: {last_line}")]
    StartTimedOut {
        /// The limit.
        seconds: u64,
        /// Its last words in the log.
        last_line: String,
    },
    /// Processes of the compute are still there after SIGKILL.
    #[error("{count} processes of the compute survive SIGKILL, one of them {pid}")]
    NotGone {
        /// How many are left.
        count: usize,
        /// One of them.
        pid: u32,
    },
    /// A program of the installation failed.
    #[error("{program}: {message}")]
    ProgramFailed {
        /// Name of the program.
        program: &'static str,
        /// The last line it wrote.
        message: String,
    },
    /// A role cannot log in to a database.
    #[error("{0}")]
    LoginRefused(String),
    /// A script of an operator's failed.
    #[error("{0}")]
    ScriptFailed(String),
    /// The compute refused or broke a connection or statement of ours.
    #[error("{action}")]
    Query {
        /// What we asked for.
        action: &'static str,
        /// What Postgres or the connection said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The operating system refused something.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The reason given.
        #[source]
        source: io::Error,
    },
}

impl PostgresError {
    /// True where the same call may succeed later with nothing changed by an operator.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::StartFailed { .. }
            | Self::StartTimedOut { .. }
            | Self::NotGone { .. }
            | Self::Query { .. }
            | Self::Io { .. } => true,
            Self::NotInstalled { .. }
            | Self::UnsupportedMajor(_)
            | Self::LocaleMissing(_)
            | Self::NoSuchUser(_)
            | Self::NoAccount
            | Self::AccountTaken(_)
            | Self::Unreachable { .. }
            | Self::SocketPathTooLong(_)
            | Self::WalMissing(_)
            | Self::AlreadyRunning(_)
            | Self::LoginRefused(_)
            | Self::ScriptFailed(_)
            | Self::ProgramFailed { .. } => false,
        }
    }

    /// For `map_err`: an I/O error with what was being done.
    pub(super) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// For `map_err`: an error of the connection with what was being asked.
    pub(super) fn query(action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Query { action, source }
    }
}
