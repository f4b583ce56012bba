//! What is followed and where it goes: the two ends of a connector.

use std::path::PathBuf;
use std::time::Duration;

use proxy::client::{ReplicationConnection, Target, quote_identifier};

use crate::source::{PINNED_OPTIONS, Plugin, SourceUrl, TableName};

use super::ddl;
use super::error::{Error, at_source};
use super::publication;

/// The superuser of a trunk, used for a closed list of things only.
pub(super) const SYSTEM_ROLE: &str = "ardent_system";
/// The role that loads and applies.
pub(super) const APPLY_ROLE: &str = "ardent_apply";
/// Computes listen on this number, which only names their socket.
const TRUNK_PORT: u16 = 5432;

/// A connector, as replication sees it.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its identifier, such as `c1`. Names the slot.
    pub connector: String,
    /// The source.
    pub source: SourceUrl,
    /// The schemas to follow; none named means all that are not the system's.
    pub schemas: Vec<String>,
    /// Tables inside them that are not followed. They exist in the trunk, empty.
    pub excluded: Vec<TableName>,
    /// What decodes the source's log.
    pub plugin: Plugin,
    /// How much log the source may be made to keep.
    pub slot_wal: SlotWal,
}

/// Limits of the log that the source keeps for our slot; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotWal {
    /// Beyond this, status says so.
    pub alarm_bytes: u64,
    /// Beyond this, our slot is dropped: production's disk goes before our stream, which has to be
    /// set up again then.
    pub drop_bytes: u64,
}

/// A running trunk: a socket directory that trusts us, and the database in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkAccess {
    /// The directory with `.s.PGSQL.5432`.
    pub socket_dir: PathBuf,
    /// The source database's name.
    pub database: String,
}

impl Link {
    /// The slot on the source.
    pub fn slot(&self) -> String {
        slot_name(&self.connector)
    }

    /// The publications that pgoutput reads: of all changes, and of inserts and truncations.
    pub(super) fn publications(&self) -> [String; 2] {
        publication_names(&self.connector)
    }

    /// The source, with values printed as both sides agree.
    pub(super) fn source_target(&self, options: &str) -> Target {
        self.source.pinned().with_options(options)
    }

    /// True if the table is to be followed.
    pub(crate) fn follows(&self, table: &TableName) -> bool {
        !self.excluded.contains(table)
    }
}

impl TrunkAccess {
    /// The trunk's database, as the role that applies.
    pub(super) fn as_apply(&self, options: &str) -> Target {
        Target::unix(&self.socket_dir, TRUNK_PORT, APPLY_ROLE, &self.database)
            .with_options(PINNED_OPTIONS)
            .with_options(options)
    }

    /// A database of the trunk, as its superuser; the empty search path keeps objects of the source
    /// from being found by name.
    pub(super) fn as_system(&self, database: &str) -> Target {
        Target::unix(&self.socket_dir, TRUNK_PORT, SYSTEM_ROLE, database)
            .with_options("-c search_path=")
    }
}

fn slot_name(connector: &str) -> String {
    format!("ardent_{connector}")
}

fn publication_names(connector: &str) -> [String; 2] {
    [format!("ardent_{connector}"), format!("ardent_{connector}_inserts")]
}

/// A walsender that has not noticed yet that its client is gone gets this long to go.
const DROP_ATTEMPTS: u32 = 50;
const DROP_PAUSE: Duration = Duration::from_millis(200);

/// Drops everything a connector has on its source. Done already is done well.
pub async fn drop_source_objects(source: &SourceUrl, connector: &str) -> Result<(), Error> {
    drop_slot(source, connector).await?;
    publication::drop_all(source, &publication_names(connector)).await?;
    ddl::drop_capture(source).await
}

/// What an operator can run on the source instead.
pub fn drop_sql(connector: &str) -> String {
    let slot = slot_name(connector);
    let [all, inserts] = publication_names(connector);
    format!(
        "SELECT pg_drop_replication_slot('{slot}'); DROP PUBLICATION IF EXISTS {all}, {inserts}; {}",
        ddl::drop_schema_sql()
    )
}

/// Drops the slot; a stream of ours that still holds it is ended.
pub(super) async fn drop_slot(source: &SourceUrl, connector: &str) -> Result<(), Error> {
    let slot = slot_name(connector);
    let mut connection = ReplicationConnection::open(source.target()).await.map_err(at_source)?;
    let mut attempt = 0;
    let outcome = loop {
        attempt += 1;
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(&slot));
        let error = match connection.command(&command).await {
            Ok(_) => break Ok(()),
            Err(error) if error.sqlstate() == Some("42704") => break Ok(()),
            Err(error) => error,
        };
        if error.sqlstate() != Some("55006") || attempt >= DROP_ATTEMPTS {
            break Err(at_source(error));
        }
        // Allowed between sessions of one role; where it is not, waiting has to do. A slot's name
        // holds lower-case letters, digits and underscores only.
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(active_pid)
               FROM pg_catalog.pg_replication_slots
              WHERE slot_name = '{slot}' AND active_pid IS NOT NULL"
        );
        drop(connection.command(&end).await);
        tokio::time::sleep(DROP_PAUSE).await;
    };
    connection.close().await;
    outcome
}
