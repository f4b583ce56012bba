//! The durable record of connectors, branches and operators, in `catalog.db` (SQLite, WAL mode,
//! `synchronous=FULL`): what is written here before a step survives a crash in that step.
//!
//! Must never: hold an unsealed secret, or hand out a branch number twice.
//!
//! Calls are short and synchronous; one connection behind one lock makes every write ordered.

mod branch;
mod connector;
mod environment;
mod operator;
mod schema;
mod setting;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use storage::BranchId;

pub use branch::{BranchKind, BranchRecord, BranchState, NewBranch, RoleVerifier};
pub use connector::{ConnectorId, ConnectorRecord, ConnectorState, NewConnector, Verification};
pub use environment::{EnvironmentRecord, PrivateLinkRecord};
pub use operator::{AdminRole, Selection};
pub use setting::{Hook, SettingKey};

/// The catalog. Cheap to share by reference; all methods take `&self`.
pub struct Catalog(Mutex<Connection>);

/// Why the catalog could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A name is taken.
    #[error("{0} already exists")]
    Taken(String),
    /// The file was written by another version of the server.
    #[error(
        "data directory has catalog format {found}, this server reads {expected}: \
         start the server version that wrote it"
    )]
    Format {
        /// What the file says.
        found: i64,
        /// What we read.
        expected: i64,
    },
    /// A stored value is not one we write.
    #[error("catalog holds an invalid {0}")]
    Damaged(&'static str),
    /// The file cannot be made.
    #[error("open catalog: {0}")]
    Io(#[from] std::io::Error),
    /// SQLite refused.
    #[error("use catalog")]
    Sqlite(#[from] rusqlite::Error),
}

impl Catalog {
    /// Opens the catalog file, making it on first use.
    pub fn open(path: &Path) -> Result<Self, CatalogError> {
        // SQLite gives its log the mode of the database file, so that is made first, for us alone.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let connection = Connection::open(path)?;
        schema::prepare(&connection)?;
        Ok(Self(Mutex::new(connection)))
    }

    /// A poisoned lock only says that another caller panicked between two statements; every
    /// change is one transaction, so the record is whole.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Turns SQLite's unique violation into the name that is taken.
fn taken(error: rusqlite::Error, what: impl FnOnce() -> String) -> CatalogError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation) => CatalogError::Taken(what()),
        _ => CatalogError::Sqlite(error),
    }
}

/// A branch number as read from a row.
fn stored_number(number: u32) -> Result<BranchId, CatalogError> {
    BranchId::new(number).map_err(|_| CatalogError::Damaged("branch number"))
}

/// Times are kept as microseconds since 1970.
fn to_micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn from_micros(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests;
