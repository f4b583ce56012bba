//! May the stream go on from where the trunk stands? If the slot could have forgotten anything the
//! trunk lacks, it must not (replication notes, section 3.3).

use proxy::client::{self, ReplicationConnection};

use crate::lsn::Lsn;
use crate::source;

use super::decoder::Decoder;
use super::error::{Error, at_source};
use super::link::Link;
use super::progress::Progress;
use super::{timeline, wal2json};

/// The walsender decodes with these; a large transaction is kept in memory rather than spilled,
/// and a slow applier is no reason to end the connection.
const STREAM_OPTIONS: &str = "-c wal_sender_timeout=5min -c logical_decoding_work_mem=256MB";

/// A stream that has begun, and the timeline it is of.
pub(super) struct Started {
    pub(super) connection: ReplicationConnection,
    pub(super) timeline: u32,
}

/// Connects, checks and starts streaming.
pub(super) async fn start(link: Link, progress: Progress) -> Result<Started, Error> {
    let mut connection = ReplicationConnection::open(&link.source_target(STREAM_OPTIONS))
        .await
        .map_err(at_source)?;
    let timeline = check(&mut connection, &link, &progress).await?;
    let mut options = Decoder::options(&link);
    let position = progress.start().to_string();
    loop {
        let Err(error) = connection.start(&link.slot(), &position, &options).await else {
            return Ok(Started { connection, timeline });
        };
        let unknown = unknown_option(&error);
        let before = options.len();
        options.retain(|(name, _)| unknown.as_deref() != Some(name));
        if options.len() == before {
            return Err(refused(error));
        }
        // Preflight has said what the lack of an option means for this source.
        tracing::info!(option = unknown, "option is unknown to this wal2json");
    }
}

fn unknown_option(error: &client::Error) -> Option<String> {
    wal2json::unknown_option(&error.server_message()?.message).map(str::to_owned)
}

/// 55000 at this point says that the slot's log is gone.
fn refused(error: client::Error) -> Error {
    match error.sqlstate() {
        Some("55000") => Error::Unsafe(format!("slot cannot be read any more: {error}")),
        _ => at_source(error),
    }
}

/// Refuses if the slot may have forgotten what comes after the position. Returns the timeline.
pub(super) async fn check(
    connection: &mut ReplicationConnection,
    link: &Link,
    progress: &Progress,
) -> Result<u32, Error> {
    let identity = source::identity(connection).await?;
    if !identity.is_same_database(&progress.identity) {
        return Err(unsafe_because("source is another database than the one that was copied"));
    }
    if progress.slot != link.slot() {
        return Err(unsafe_because("trunk belongs to another connector"));
    }
    let slot = read_slot(connection, &link.slot()).await?;
    let Some(slot) = slot else {
        return Err(unsafe_because("slot is gone from the source: changes may have been missed"));
    };
    if slot.is_lost {
        return Err(unsafe_because("source has removed log that the slot still needed"));
    }
    if slot.confirmed > progress.start() {
        let (confirmed, start) = (slot.confirmed, progress.start());
        return Err(Error::Unsafe(format!(
            "slot stands at {confirmed}, past the trunk's {start}: changes between were missed"
        )));
    }
    timeline::check(connection, identity.timeline, progress).await?;
    Ok(identity.timeline)
}

fn unsafe_because(reason: &str) -> Error {
    Error::Unsafe(reason.to_owned())
}

struct Slot {
    confirmed: Lsn,
    is_lost: bool,
}

async fn read_slot(
    connection: &mut ReplicationConnection,
    slot: &str,
) -> Result<Option<Slot>, Error> {
    // A slot's name holds lower-case letters, digits and underscores only.
    let sql = format!(
        "SELECT confirmed_flush_lsn, coalesce(wal_status, 'lost') AS wal_status
           FROM pg_catalog.pg_replication_slots WHERE slot_name = '{slot}'"
    );
    let rows = connection.command(&sql).await.map_err(at_source)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let value = |name: &str| {
        row.iter().find(|(column, _)| column == name).and_then(|(_, value)| value.as_deref())
    };
    let lsn = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Some(Slot {
        confirmed: lsn("confirmed_flush_lsn"),
        is_lost: value("wal_status") == Some("lost"),
    }))
}
