//! What the stream says about itself.

use std::time::{Duration, SystemTime};

use crate::lsn::Lsn;
use crate::source::TableName;

/// What `CONNECTOR STATUS` shows of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What the stream is doing.
    pub phase: Phase,
    /// The output plugin in use.
    pub plugin: &'static str,
    /// How schema changes are learnt of: `event triggers` or `polling`.
    pub ddl_mode: &'static str,
    /// The slot on the source.
    pub slot: String,
    /// Everything before this has arrived here.
    pub received_lsn: Lsn,
    /// Everything before this is durable in the trunk.
    pub applied_lsn: Lsn,
    /// Everything before this has been reported to the source as durable.
    pub confirmed_lsn: Lsn,
    /// How far the source's log end is ahead of `applied_lsn`, as of the last look.
    pub lag_bytes: u64,
    /// Log the source keeps for our slot, as of the last look.
    pub retained_wal_bytes: u64,
    /// The transaction that has been open longest on the source and keeps log there.
    pub oldest_transaction: Option<OpenTransaction>,
    /// When the last applied transaction committed on the source.
    pub commit_time: Option<SystemTime>,
    /// The trunk has switched triggers off that a branch has to switch on.
    pub has_disabled_triggers: bool,
    /// Tables of the first copy stand at several positions: no branch may be cut.
    pub is_uneven: bool,
    /// Transactions applied since the stream started.
    pub transactions: u64,
    /// What an operator should know, each once.
    pub warnings: Vec<String>,
    /// Tables that are no longer followed, by name, with the reason.
    pub quarantined: Vec<Quarantined>,
}

/// A transaction that is open on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Who: a session's process and role, or the name of a prepared transaction.
    pub holder: String,
    /// For how long, as of the last look.
    pub age: Duration,
}

/// What a stream is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Connecting to source and trunk, for the first time.
    #[default]
    Starting,
    /// Applying what arrives.
    Streaming,
    /// Standing at a transaction boundary with the trunk released.
    Paused,
    /// Waiting to connect again after a transient failure.
    Retrying {
        /// What failed.
        reason: String,
    },
    /// Stopped for good: going on would skip or corrupt data.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// The source commit the trunk stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// End of that commit in the source's log.
    pub lsn: Lsn,
    /// When it committed there; none until the first transaction after setup.
    pub commit_time: Option<SystemTime>,
}

/// A table whose changes are dropped until it is copied again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The table.
    pub table: TableName,
    /// What went wrong.
    pub reason: String,
    /// The source position from which its rows are not to be trusted.
    pub lsn: Lsn,
    /// Since when they are not followed.
    pub since: SystemTime,
    /// It is to be copied again by itself, and followed then.
    pub is_resync_due: bool,
}
