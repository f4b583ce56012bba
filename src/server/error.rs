//! Why the server does not start, each with what to do about it.

use crate::branch::BranchError;
use crate::catalog::CatalogError;
use crate::compute::ComputeError;
use crate::config::ConfigError;
use crate::connector::ConnectorError;
use crate::data_dir::DataDirError;
use crate::secret::SecretError;
use crate::store::StoreError;

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
    /// The dynamic linker would misread the name of the library.
    #[error("proxy.handoff needs a data directory without blanks and colons in its path: {0}")]
    HandoffPath(String),
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
    /// There is no server to take over from, or it refused.
    #[error("take over: {0}")]
    Takeover(String),
    /// The system refused.
    #[error("start server: {0}")]
    Io(#[from] std::io::Error),
}
