//! What the server is doing: rows of `ARDENT SHOW`.

use std::time::SystemTime;

use crate::name::Name;

/// One row of `ARDENT SHOW COMPUTES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeRow {
    /// The branch, or `trunk of <connector>`.
    pub branch: String,
    /// The connector.
    pub connector: Name,
    /// `starting`, `running`, `stopping`.
    pub state: String,
    /// The postmaster.
    pub pid: Option<i64>,
    /// Postgres major version.
    pub major: Option<i64>,
    /// When it was started.
    pub started_at: Option<SystemTime>,
    /// Sessions through the front door.
    pub sessions: i64,
}

/// One row of `ARDENT SHOW SESSIONS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The endpoint, or none for the admin database.
    pub endpoint: Option<String>,
    /// The role it logged in as.
    pub role: String,
    /// The peer's address.
    pub client: String,
    /// When it was accepted.
    pub connected_at: SystemTime,
    /// Number, unique while the server runs.
    pub id: i64,
    /// `waking`, `idle`, `in transaction` or `active`.
    pub state: String,
    /// The compute's backend, once connected.
    pub backend_pid: Option<i64>,
    /// Bytes from the client.
    pub bytes_in: i64,
    /// Bytes to the client.
    pub bytes_out: i64,
}

/// One row of `ARDENT SHOW JOBS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// What is done: `create branch`, `connector setup`, ...
    pub job: String,
    /// What it is done to.
    pub object: String,
    /// How far it is.
    pub phase: Option<String>,
    /// When it began.
    pub started_at: Option<SystemTime>,
    /// Bytes that are done, where they are counted.
    pub bytes_done: Option<i64>,
    /// Bytes in all, an estimate.
    pub bytes_total: Option<i64>,
}

/// One row of `ARDENT SHOW CONFIG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRow {
    /// `section.key`.
    pub name: String,
    /// As written in the configuration file. Secrets are shown as `***`.
    pub value: String,
    /// `default`, `file` or `command line`.
    pub origin: String,
}
