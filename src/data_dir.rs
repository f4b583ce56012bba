//! The data directory: the one place that knows what lies where below it.
//!
//! | name | mode | what |
//! |---|---|---|
//! | `catalog.db` | 0600 | the catalog |
//! | `secret.key` | 0600 | seals credentials |
//! | `server.lock` | 0600 | held by the one server of this directory |
//! | `store/` | 0711 | layers and journals, all of them 0700 or 0600 |
//! | `store/incoming/` | 0711 | first copies that are being made |
//! | `wal/` | 0711 | write-ahead logs, a folder for each branch, 0700 for its compute |
//! | `mnt/` | 0711 | where the store is mounted, one folder a branch |
//! | `run/` | 0711 | sockets and state files of what runs |
//! | `tls/` | 0711 | the server's certificate authority |
//! | `log/` | 0700 | logs of the store and of computes |
//!
//! The directory itself is 0711: computes run under their own uids and must pass through it, but
//! must not list it.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use storage::BranchId;

/// `sun_path` holds 108 bytes with its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Branch numbers have at most 31 bits.
const BRANCH_NUMBER_LONGEST: &str = "2147483647";

/// The data directory of one server.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server works here.
    #[error("data directory {0} is in use by another ardent server: stop it first")]
    InUse(String),
    /// Postgres could not be reached below this path.
    #[error(
        "data directory path {0} is too long for unix sockets: choose one of at most {1} bytes"
    )]
    TooLong(String, usize),
    /// The system refused.
    #[error("prepare data directory {path}: {source}")]
    Io {
        /// The directory or file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Proof that this process is the only server of its data directory.
#[derive(Debug)]
pub struct DataDirLock(OwnedFd);

impl DataDirLock {
    /// The descriptor, to be handed to a server that takes over: the kernel keeps the lock until
    /// all copies are closed.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A lock that was handed over.
    pub fn handed_over(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl DataDir {
    /// Makes what is missing and takes the lock.
    pub fn prepare(path: &Path) -> Result<(Self, DataDirLock), DataDirError> {
        let directory = Self::make_all(path)?;
        let lock = directory.lock()?;
        Ok((directory, lock))
    }

    /// Makes what is missing, for a server that was handed the lock.
    pub fn prepare_locked(path: &Path, _proof: &DataDirLock) -> Result<Self, DataDirError> {
        Self::make_all(path)
    }

    fn make_all(path: &Path) -> Result<Self, DataDirError> {
        make(path, 0o711)?;
        let absolute = path.canonicalize().map_err(|source| failed(path, source))?;
        let directory = Self(absolute);
        directory.check_socket_paths()?;
        let made = [
            ("store", 0o711),
            ("store/incoming", 0o711),
            ("wal", 0o711),
            ("run", 0o711),
            ("tls", 0o711),
            ("log", 0o700),
        ];
        for (name, mode) in made {
            make(&directory.0.join(name), mode)?;
        }
        // A mount, dead or alive, is left as it is: the store mends a dead one.
        match DirBuilder::new().mode(0o711).create(directory.mount()) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&directory.mount(), source));
            }
            _ => {}
        }
        Ok(directory)
    }

    fn lock(&self) -> Result<DataDirLock, DataDirError> {
        let path = self.0.join("server.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| failed(&path, source))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| DataDirError::InUse(self.0.display().to_string()))?;
        Ok(DataDirLock(file.into()))
    }

    fn check_socket_paths(&self) -> Result<(), DataDirError> {
        let longest = self.run().join(BRANCH_NUMBER_LONGEST).join(".s.PGSQL.5432");
        let excess = longest.as_os_str().as_bytes().len().saturating_sub(SOCKET_PATH_BYTES_MAX);
        if excess == 0 {
            return Ok(());
        }
        let length = self.0.as_os_str().as_bytes().len();
        Err(DataDirError::TooLong(self.0.display().to_string(), length.saturating_sub(excess)))
    }

    /// A directory that a running server has prepared: for the processes it starts.
    pub fn of_server(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The catalog file.
    pub fn catalog(&self) -> PathBuf {
        self.0.join("catalog.db")
    }

    /// The server's certificate authority.
    pub fn tls(&self) -> PathBuf {
        self.0.join("tls")
    }

    /// Where a new server asks a running one for its place.
    pub fn takeover_socket(&self) -> PathBuf {
        self.run().join("takeover.sock")
    }

    /// The sealing key, where the configuration names no other place.
    pub fn secret_key(&self) -> PathBuf {
        self.0.join("secret.key")
    }

    /// Layers and journals of the store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Where the store is mounted.
    pub fn mount(&self) -> PathBuf {
        self.0.join("mnt")
    }

    /// Sockets and state files.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The store's control socket.
    pub fn store_socket(&self) -> PathBuf {
        self.run().join("store.sock")
    }

    /// The store's log.
    pub fn store_log(&self) -> PathBuf {
        self.0.join("log").join("store.log")
    }

    /// The Postgres data directory of a branch.
    pub fn branch(&self, branch: BranchId) -> PathBuf {
        self.mount().join(branch.get().to_string())
    }

    /// The Postgres data directory of a trunk whose first copy is being made: on the host's file
    /// system, until the store takes it in.
    pub fn incoming(&self, branch: BranchId) -> PathBuf {
        storage::incoming_dir(&self.store(), branch)
    }

    /// Removes that directory, if it is there. No process may use it.
    pub async fn remove_incoming(&self, branch: BranchId) -> io::Result<()> {
        match tokio::fs::remove_dir_all(self.incoming(branch)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// The write-ahead logs of all branches.
    pub fn wal_root(&self) -> PathBuf {
        self.0.join("wal")
    }

    /// The write-ahead log of a branch.
    pub fn wal(&self, branch: BranchId) -> PathBuf {
        self.wal_root().join(branch.get().to_string())
    }

    /// The folder of a compute's socket.
    pub fn compute_socket_dir(&self, branch: BranchId) -> PathBuf {
        self.run().join(branch.get().to_string())
    }

    /// What a new server needs to find a compute again.
    pub fn compute_state(&self, branch: BranchId) -> PathBuf {
        self.run().join(format!("{}.compute", branch.get()))
    }

    /// The library by which computes take over their clients' sockets.
    pub fn handoff_library(&self) -> PathBuf {
        self.run().join("handoff.so")
    }

    /// The log of a compute.
    pub fn compute_log(&self, branch: BranchId) -> PathBuf {
        self.0.join("log").join(format!("compute-{}.log", branch.get()))
    }

    /// The socket on which operators reach the admin database.
    pub fn admin_socket(&self, port: u16) -> PathBuf {
        self.run().join(format!(".s.PGSQL.{port}"))
    }
}

/// Makes a directory with exactly this mode, or gives an existing one this mode.
fn make(path: &Path, mode: u32) -> Result<(), DataDirError> {
    match DirBuilder::new().mode(mode).recursive(true).create(path) {
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(|source| failed(path, source)),
        Err(source) => Err(failed(path, source)),
    }
}

fn failed(path: &Path, source: io::Error) -> DataDirError {
    DataDirError::Io { path: path.display().to_string(), source }
}
