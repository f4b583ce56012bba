//! The moment everything is copied at: a new slot, and a transaction that keeps its snapshot.
//!
//! The slot's own snapshot dies with the next command on its connection, so a second connection
//! imports it and exports it again; that one lives as long as the holder's transaction (replication
//! notes, section 3.6).

use std::time::Duration;

use proxy::client::{Connection, ReplicationConnection, Session, quote_identifier};

use crate::lsn::Lsn;
use crate::source::{self, Identity, Plugin, Table};

use super::super::error::{Error, at_source};
use super::super::link::Link;

/// Slot creation waits for open transactions of the source; in `lock_timeout` steps, so that
/// giving up leaves no walsender behind.
const SLOT_OPTIONS: &str = "-c lock_timeout=20s";
const SLOT_ATTEMPTS: u32 = 15;
/// The applier stands still meanwhile, so this one gives up early.
const TEMPORARY_OPTIONS: &str = "-c lock_timeout=5s";
const HOLDER_OPTIONS: &str = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c lock_timeout=20s -c row_security=off";
/// One LOCK TABLE names this many tables.
const LOCK_TABLES_MAX: usize = 200;

/// A moment of the source, kept for as long as this value lives.
pub(in crate::replication) struct Snapshot {
    /// In a transaction that sees the snapshot and keeps it importable.
    pub(in crate::replication) session: Session,
    /// The name others import it by.
    pub(in crate::replication) name: String,
    /// The slot's consistent point: sees every commit before it and none after it.
    pub(in crate::replication) lsn: Lsn,
    /// The database the slot is on.
    pub(in crate::replication) identity: Identity,
}

/// Whether a slot outlives the connection that made it, and how often its making is tried.
struct NewSlot {
    name: String,
    plugin: Plugin,
    is_temporary: bool,
    attempts: u32,
    options: &'static str,
}

impl NewSlot {
    fn temporary(link: &Link, (attempts, options): (u32, &'static str)) -> Self {
        Self {
            name: format!("{}_at_{:08x}", link.slot(), rand::random::<u32>()),
            // Nothing is read from it, and every server has this one.
            plugin: Plugin::Pgoutput,
            is_temporary: true,
            attempts,
            options,
        }
    }
}

impl Snapshot {
    /// Of the connector's own slot, from which the stream then begins.
    pub(super) async fn take(link: &Link) -> Result<Self, Error> {
        let slot = NewSlot {
            name: link.slot(),
            plugin: link.plugin,
            is_temporary: false,
            attempts: SLOT_ATTEMPTS,
            options: SLOT_OPTIONS,
        };
        Self::take_of(link, &slot).await
    }

    /// For the tables that an interrupted copy left; the connector's own slot stays where it is.
    pub(super) async fn take_another(link: &Link) -> Result<Self, Error> {
        let patient = (SLOT_ATTEMPTS, SLOT_OPTIONS);
        Self::take_of(link, &NewSlot::temporary(link, patient)).await
    }

    /// Of a slot that is gone again when this returns.
    pub(in crate::replication) async fn take_temporary(link: &Link) -> Result<Self, Error> {
        let slot = NewSlot::temporary(link, (1, TEMPORARY_OPTIONS));
        Self::take_of(link, &slot).await
    }

    async fn take_of(link: &Link, slot: &NewSlot) -> Result<Self, Error> {
        let mut walsender = ReplicationConnection::open(&link.source_target(slot.options))
            .await
            .map_err(at_source)?;
        let identity = source::identity(&mut walsender).await?;
        let (lsn, exported) = create_slot(&mut walsender, slot).await?;
        let session =
            Session::open(&link.source_target(HOLDER_OPTIONS)).await.map_err(at_source)?;
        // Limits that exist in newer majors only, where they are set.
        session.query(NO_TIMEOUTS_SQL, &[]).await.map_err(at_source)?;
        session.batch_execute(&import_sql(&exported)).await.map_err(at_source)?;
        let row = session
            .query_one("SELECT pg_catalog.pg_export_snapshot()", &[])
            .await
            .map_err(at_source)?;
        walsender.close().await;
        Ok(Self { session, name: row.try_get(0).map_err(at_source)?, lsn, identity })
    }

    /// Keeps the tables as they are while their definitions are read.
    pub(in crate::replication) async fn lock(&self, tables: &[Table]) -> Result<(), Error> {
        self.session.batch_execute("SAVEPOINT locks").await.map_err(at_source)?;
        for chunk in tables.chunks(LOCK_TABLES_MAX) {
            let names: Vec<String> =
                chunk.iter().map(|table| format!("ONLY {}", table.name.quoted())).collect();
            let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
            self.session.batch_execute(&sql).await.map_err(at_source)?;
        }
        Ok(())
    }

    /// Lets go of the tables: nobody on the source is to wait for the whole copy.
    pub(super) async fn unlock(&self) -> Result<(), Error> {
        let sql = "ROLLBACK TO SAVEPOINT locks; RELEASE SAVEPOINT locks";
        self.session.batch_execute(sql).await.map_err(at_source)
    }

    /// Another session that sees the same moment, of the thread that opens it.
    pub(super) fn open_connection(
        &self,
        link: &Link,
    ) -> impl Future<Output = Result<Connection, Error>> + Send + use<> {
        let (target, import) = (link.source_target(HOLDER_OPTIONS), import_sql(&self.name));
        async move {
            let mut connection = Connection::open(&target).await.map_err(at_source)?;
            for sql in [NO_TIMEOUTS_SQL, &import] {
                connection.execute(sql).await.map_err(at_source)?;
            }
            Ok(connection)
        }
    }

    /// Lets go of the moment.
    pub(in crate::replication) async fn release(self) {
        self.session.close().await;
    }
}

fn import_sql(snapshot: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
    )
}

async fn create_slot(
    walsender: &mut ReplicationConnection,
    slot: &NewSlot,
) -> Result<(Lsn, String), Error> {
    // The form without parentheses is understood by every major.
    let command = format!(
        "CREATE_REPLICATION_SLOT {}{} LOGICAL {} EXPORT_SNAPSHOT",
        quote_identifier(&slot.name),
        if slot.is_temporary { " TEMPORARY" } else { "" },
        slot.plugin.as_str(),
    );
    let mut attempt = 0;
    let rows = loop {
        attempt += 1;
        match walsender.command(&command).await {
            Err(error) if error.sqlstate() == Some("55P03") && attempt < slot.attempts => {
                tracing::warn!(
                    slot = slot.name,
                    attempt,
                    "slot creation waits for open transactions"
                );
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            outcome => break outcome.map_err(at_source)?,
        }
    };
    let field = |name: &'static str| {
        rows.first()
            .and_then(|row| row.iter().find(|(column, _)| column == name))
            .and_then(|(_, value)| value.clone())
            .ok_or(Error::Facts(source::Error::Unexpected(name)))
    };
    let lsn = field("consistent_point")?
        .parse()
        .map_err(|_| Error::Facts(source::Error::Unexpected("a log position")))?;
    Ok((lsn, field("snapshot_name")?))
}

const NO_TIMEOUTS_SQL: &str = "\
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings
 WHERE name IN ('transaction_timeout', 'idle_session_timeout')";

/// Asks whether a table still has the file that the snapshot sees: another one has no rows that the
/// snapshot could see, and says so by no error. To be asked under a lock. The left side is read at
/// the snapshot, the right side as it is now. Schema and table are given as SQL.
pub(in crate::replication) fn file_sql(schema: &str, table: &str) -> String {
    format!(
        "SELECT coalesce(c.relfilenode = pg_catalog.pg_relation_filenode(c.oid), false)
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = {schema} AND c.relname = {table}"
    )
}
