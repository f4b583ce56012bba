//! Why a connector operation was refused or failed.

use proxy::client;

use crate::catalog::CatalogError;
use crate::compute::ComputeError;
use crate::postgres::PostgresError;
use crate::secret::SecretError;
use crate::store::StoreError;
use crate::{replication, source};

/// Why an operator's request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// No connector of that name.
    #[error("connector \"{0}\" does not exist")]
    NotFound(String),
    /// The environment or private link is gone, or leads nowhere.
    #[error("environment \"{0}\" has no such way to the source")]
    NoWay(String),
    /// The stored environment does not parse.
    #[error(transparent)]
    Way(#[from] crate::environment::InvalidWay),
    /// The sockets of the way cannot be made.
    #[error("open the way to the source")]
    Gateway(#[source] std::io::Error),
    /// What the source has committed was not applied in time.
    #[error("replication did not drain within {} s", .0.as_secs())]
    NotDrained(std::time::Duration),
    /// The stored URL does not parse.
    #[error("stored credentials of connector \"{0}\" cannot be used")]
    Credentials(String),
    /// The trunk could not be removed yet.
    #[error("trunk cannot be removed now: {0}")]
    TrunkCleanup(String),
    /// The connector's objects on the source could not be removed yet.
    #[error("source cannot be cleaned up now: {reason}")]
    SourceCleanup {
        /// What failed.
        reason: String,
        /// What an operator can run there instead.
        sql: String,
    },
    /// Nothing is followed now.
    #[error("connector does not follow its source now")]
    NotFollowing(#[source] Option<replication::Error>),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A stored URL was sealed with another key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
}

/// Why setup ended early.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The source cannot be reached.
    #[error("reach source")]
    Source(#[from] client::Error),
    /// The source does not answer as a source should.
    #[error(transparent)]
    Facts(#[from] source::Error),
    /// The copy or the stream failed.
    #[error(transparent)]
    Replication(#[from] replication::Error),
    /// Postgres on our side failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The trunk's compute failed.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The first copy would leave less of the disk than is kept for branches that exist.
    #[error(
        "the first copy takes about {needed} bytes, {available} are left on the disk and {reserve} \
         of them are kept: make room, then run ARDENT CONNECTOR RETRY SETUP"
    )]
    NoRoom {
        /// Bytes of the tables with their indexes on the source.
        needed: u64,
        /// Bytes that are left.
        available: u64,
        /// Bytes that are kept.
        reserve: u64,
    },
    /// The system refused.
    #[error("prepare the first copy")]
    Io(#[from] std::io::Error),
    /// The trunk is gone from the catalog.
    #[error("connector has no trunk: run ARDENT CONNECTOR RETRY SETUP")]
    NoTrunk,
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
}

impl SetupError {
    /// The first copy was cut short by what may pass, and can go on.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Replication(replication::Error::Interrupted(_)))
    }
}
