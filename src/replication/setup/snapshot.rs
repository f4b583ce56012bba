//! The moment everything is copied at: a new slot, and a transaction that keeps its snapshot.
//!
//! The slot's own snapshot dies with the next command on its connection, so a second connection
//! imports it and exports it again; that one lives as long as the holder's transaction (replication
//! notes, section 3.6).

use std::time::Duration;

use proxy::client::{ReplicationConnection, Session, quote_identifier};

use crate::lsn::Lsn;
use crate::source::{self, Identity, Table};

use super::super::error::{Error, at_source};
use super::super::link::Link;

/// Slot creation waits for open transactions of the source; in `lock_timeout` steps, so that
/// giving up leaves no walsender behind.
const SLOT_OPTIONS: &str = "-c lock_timeout=20s";
const SLOT_ATTEMPTS: u32 = 15;
const HOLDER_OPTIONS: &str = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 \
    -c lock_timeout=20s -c row_security=off";
/// One LOCK TABLE names this many tables.
const LOCK_TABLES_MAX: usize = 200;

pub(in super::super) struct Snapshot {
    /// In a transaction that sees the snapshot and keeps it importable.
    pub(in super::super) session: Session,
    /// The name others import it by.
    pub(super) name: String,
    /// The slot's consistent point: the stream begins with the first commit after it.
    pub(in super::super) lsn: Lsn,
    /// The database the slot is on.
    pub(super) identity: Identity,
}

impl Snapshot {
    pub(super) async fn take(link: &Link) -> Result<Self, Error> {
        // The form without parentheses is understood by every major.
        let slot = quote_identifier(&link.slot());
        Self::take_with(link, &format!("{slot} LOGICAL wal2json")).await
    }

    /// A moment of its own for copying a table later. Its slot is gone when this returns; any
    /// plugin will do, as nothing is read from it.
    pub(in super::super) async fn take_temporary(link: &Link) -> Result<Self, Error> {
        let slot = quote_identifier(&format!("{}_copy", link.slot()));
        Self::take_with(link, &format!("{slot} TEMPORARY LOGICAL pgoutput")).await
    }

    async fn take_with(link: &Link, slot: &str) -> Result<Self, Error> {
        let mut walsender = ReplicationConnection::open(&link.source_target(SLOT_OPTIONS))
            .await
            .map_err(at_source)?;
        let identity = source::identity(&mut walsender).await?;
        let (lsn, exported) = create_slot(&mut walsender, slot).await?;
        let session =
            Session::open(&link.source_target(HOLDER_OPTIONS)).await.map_err(at_source)?;
        // Limits that exist in newer majors only, where they are set.
        session.query(NO_TIMEOUTS_SQL, &[]).await.map_err(at_source)?;
        import(&session, &exported).await?;
        let row = session
            .query_one("SELECT pg_catalog.pg_export_snapshot()", &[])
            .await
            .map_err(at_source)?;
        walsender.close().await;
        Ok(Self { session, name: row.try_get(0).map_err(at_source)?, lsn, identity })
    }

    /// Keeps the tables from being rewritten or truncated before they are copied: after either, a
    /// COPY at this snapshot would silently see no rows (replication notes, section 6.2).
    pub(in super::super) async fn lock(&self, tables: &[Table]) -> Result<(), Error> {
        for chunk in tables.chunks(LOCK_TABLES_MAX) {
            let names: Vec<String> =
                chunk.iter().map(|table| format!("ONLY {}", table.name.quoted())).collect();
            let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
            self.session.batch_execute(&sql).await.map_err(at_source)?;
        }
        Ok(())
    }

    /// Another session that sees the same moment.
    pub(super) async fn open_session(&self, link: &Link) -> Result<Session, Error> {
        let session =
            Session::open(&link.source_target(HOLDER_OPTIONS)).await.map_err(at_source)?;
        session.query(NO_TIMEOUTS_SQL, &[]).await.map_err(at_source)?;
        import(&session, &self.name).await?;
        Ok(session)
    }

    pub(in super::super) async fn release(self) {
        self.session.close().await;
    }
}

async fn import(session: &Session, snapshot: &str) -> Result<(), Error> {
    let sql = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
    );
    session.batch_execute(&sql).await.map_err(at_source)
}

async fn create_slot(
    walsender: &mut ReplicationConnection,
    slot: &str,
) -> Result<(Lsn, String), Error> {
    let command = format!("CREATE_REPLICATION_SLOT {slot} EXPORT_SNAPSHOT");
    let mut attempt = 0;
    let rows = loop {
        attempt += 1;
        match walsender.command(&command).await {
            Err(error) if error.sqlstate() == Some("55P03") && attempt < SLOT_ATTEMPTS => {
                tracing::warn!(slot, attempt, "slot creation waits for open transactions");
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
