//! Checks of the server as a whole: version, writer, log level, capacity.

use proxy::client::{self, Session};

use super::error::Error;
use super::provider::Provider;
use super::report::Row;

/// Postgres 13 is the oldest source we follow.
const VERSION_MIN: i32 = 130_000;
/// From 19 on the server raises its log level by itself when a logical slot is made.
const VERSION_SELF_RAISING: i32 = 190_000;

/// Can we log in?
pub(super) fn auth(outcome: &Result<Session, client::Error>, user: &str, database: &str) -> Row {
    let name = "auth";
    let Err(error) = outcome else { return Row::pass(name) };
    let said = describe(error);
    let remedy = match error.sqlstate() {
        Some("28P01") => format!("Check the password of role {user} in the URL."),
        Some("28000") => format!(
            "Check that role {user} exists and may log in, and that pg_hba.conf lets it in \
             from here."
        ),
        Some("3D000") => format!("Check the database name in the URL: {database} does not exist."),
        Some("53300") => "Raise max_connections or close sessions on the source.".to_owned(),
        _ if matches!(error, client::Error::TlsRefused | client::Error::Tls(_)) => {
            "Check sslmode and sslrootcert in the URL.".to_owned()
        }
        _ if matches!(error, client::Error::PasswordMissing) => {
            "Put the password into the URL.".to_owned()
        }
        _ => "Check the URL and the server's log.".to_owned(),
    };
    Row::fail(name, said, remedy)
}

/// An error with the causes below it, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Version and encoding.
pub(super) async fn metadata(session: &Session) -> Result<Row, Error> {
    let name = "postgres metadata";
    let row = session.query_one(METADATA_SQL, &[]).await?;
    let (number, version): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
    let encoding: String = row.try_get(2)?;
    let fork = ["yugabyte", "cockroach", "redshift"]
        .into_iter()
        .find(|fork| version.to_ascii_lowercase().contains(fork));
    if let Some(fork) = fork {
        return Ok(Row::fail(name, format!("Server is {fork}, not Postgres"), "Use a Postgres."));
    }
    if number < VERSION_MIN {
        let major = number / 10_000;
        return Ok(Row::fail(
            name,
            format!("Postgres {major} is too old"),
            "Upgrade the source to Postgres 13 or newer.",
        ));
    }
    if encoding != "UTF8" {
        return Ok(Row::fail(
            name,
            format!("Database encoding is {encoding}"),
            "Only databases in UTF8 can be followed.",
        ));
    }
    Ok(Row::pass(name))
}

/// A replica cannot hold a slot for us and capture schema changes.
pub(super) async fn is_writer(session: &Session) -> Result<Row, Error> {
    let name = "is writer";
    let row = session.query_one(WRITER_SQL, &[]).await?;
    if row.try_get(0)? {
        return Ok(Row::fail(name, "Server is a read replica", "Use the URL of the writer."));
    }
    if row.try_get(1)? {
        return Ok(Row::fail(
            name,
            "Transactions are read-only (default_transaction_read_only)",
            "Use the URL of the writer, or let this role write.",
        ));
    }
    Ok(Row::pass(name))
}

/// wal_level.
pub(super) async fn wal_level(session: &Session, provider: &Provider) -> Result<Row, Error> {
    let name = "wal level";
    let row = session.query_one(WAL_LEVEL_SQL, &[]).await?;
    let (actual, version): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
    let detail = format!("actual: {actual}");
    let raises_itself = version >= VERSION_SELF_RAISING && actual == "replica";
    if actual == "logical" || raises_itself {
        return Ok(Row::pass(name).with_detail(detail));
    }
    Ok(Row::fail(name, detail, provider.wal_level_remedy()))
}

/// One free slot.
pub(super) async fn slots(session: &Session) -> Result<Row, Error> {
    let name = "replication slots";
    let row = session.query_one(SLOTS_SQL, &[]).await?;
    let (used, most): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
    let detail = format!("{used}/{most} used");
    if used < i64::from(most) {
        return Ok(Row::pass(name).with_detail(detail));
    }
    Ok(Row::fail(name, detail, "Raise max_replication_slots and restart, or drop an unused slot."))
}

/// A walsender we can really have: others' are not all visible, so one is opened.
pub(super) async fn senders(
    session: &Session,
    replication: Option<&client::Error>,
    user: &str,
) -> Result<Row, Error> {
    let name = "wal senders";
    let most: i32 = session.query_one(SENDERS_SQL, &[]).await?.try_get(0)?;
    let Some(error) = replication else {
        return Ok(Row::pass(name).with_detail(format!("max: {most}")));
    };
    Ok(match error.sqlstate() {
        Some("42501") => Row::fail(
            name,
            format!("Role {user} may not replicate"),
            "Run the grant script below, then re-run preflight.",
        ),
        Some("53300" | "53400") => Row::fail(
            name,
            format!("All {most} are used"),
            "Raise max_wal_senders and restart, or stop a replication client.",
        ),
        Some("28000") => Row::fail(
            name,
            describe(error),
            format!("Let role {user} make replication connections in pg_hba.conf."),
        ),
        _ => Row::fail(
            name,
            describe(error),
            "Use the server's own address: connection poolers do not pass replication on.",
        ),
    })
}

const METADATA_SQL: &str = "\
SELECT current_setting('server_version_num')::int, version(),
       (SELECT pg_encoding_to_char(encoding)::text FROM pg_catalog.pg_database
         WHERE datname = current_database())";

const WRITER_SQL: &str = "\
SELECT pg_is_in_recovery(),
       NOT pg_is_in_recovery() AND current_setting('transaction_read_only')::bool";

const WAL_LEVEL_SQL: &str = "\
SELECT current_setting('wal_level'), current_setting('server_version_num')::int";

const SLOTS_SQL: &str = "\
SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_replication_slots')::int";

const SENDERS_SQL: &str = "SELECT current_setting('max_wal_senders')::int";
