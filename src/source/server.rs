//! Checks of the server as a whole: version, writer, log level, capacity.

use proxy::client::{self, Session, quote_identifier};

use super::error::Error;
use super::provider::Provider;
use super::report::Row;

/// Postgres 13 is the oldest source we follow.
const VERSION_MIN: i32 = 130_000;
/// From 19 on the server raises its log level by itself when a logical slot is made.
const VERSION_SELF_RAISING: i32 = 190_000;

/// Room that a remedy makes.
const SLOTS_MORE: i32 = 10;
const SENDERS_MORE: i32 = 10;
const SLOTS_NAMED_MAX: usize = 3;
/// A password that ends sooner is named while there is time to change it.
const PASSWORD_DAYS_MIN: i32 = 30;
/// Less log than this is used up by one long transaction or one slow hour.
const KEEP_MB_MIN: i64 = 1024;

/// Can we log in?
pub(super) fn auth(outcome: &Result<Session, client::Error>, user: &str, database: &str) -> Row {
    let name = "auth";
    let Err(error) = outcome else { return Row::pass(name) };
    let said = describe(error);
    let (role, place) = (quote_identifier(user), quote_identifier(database));
    let remedy = match (error.sqlstate(), error) {
        // The server tells nobody from outside that a password was right once.
        (Some("28P01"), _) => format!(
            "Check the password of role {user} in the URL. If it is right it has run out: ALTER ROLE \
             {role} VALID UNTIL 'infinity';"
        ),
        (Some("28000"), _) if said.contains("is not permitted to log in") => {
            format!("Run ALTER ROLE {role} LOGIN; as a superuser.")
        }
        (Some("28000"), _) => format!(
            "Check that role {user} exists and may log in, and that pg_hba.conf lets it in \
             from here."
        ),
        (Some("3D000"), _) => {
            format!("Check the database name in the URL: {database} does not exist.")
        }
        (Some("42501"), _) => {
            format!("Run GRANT CONNECT ON DATABASE {place} TO {role}; as its owner.")
        }
        (Some("55000"), _) => {
            format!("Run ALTER DATABASE {place} ALLOW_CONNECTIONS true; as a superuser.")
        }
        (Some("53300"), _) if said.contains("for role") => {
            format!("Run ALTER ROLE {role} CONNECTION LIMIT -1; as a superuser.")
        }
        (Some("53300"), _) if said.contains("for database") => {
            format!("Run ALTER DATABASE {place} CONNECTION LIMIT -1; as its owner.")
        }
        (Some("53300"), _) => "Raise max_connections or close sessions on the source.".to_owned(),
        (Some("57P03"), _) => "Wait until the server has started, then try again.".to_owned(),
        (Some("08P01"), _) if said.contains("unsupported startup parameter") => POOLER.to_owned(),
        (_, client::Error::TlsRefused) => {
            "Set ssl = on at the source, or take sslmode out of the URL.".to_owned()
        }
        (_, client::Error::Tls(_)) => tls_remedy(&said),
        (_, client::Error::PasswordMissing) => "Put the password into the URL.".to_owned(),
        _ => "Check the URL and the server's log.".to_owned(),
    };
    Row::fail(name, said, remedy)
}

/// A password that runs out ends the stream at its next connection; said only where it will soon.
pub(super) async fn password(session: &Session, user: &str) -> Result<Option<Row>, Error> {
    let row = session.query_opt(PASSWORD_SQL, &[&PASSWORD_DAYS_MIN]).await?;
    let Some(row) = row else { return Ok(None) };
    let until: String = row.try_get(0)?;
    Ok(Some(Row::warn(
        "password",
        format!("The password of role {user} runs out at {until}; the connector stops then"),
        format!("Run ALTER ROLE {} VALID UNTIL 'infinity';", quote_identifier(user)),
    )))
}

/// Logical replication needs the server itself.
const POOLER: &str = "This is a connection pooler (PgBouncer, a -pooler host, port 6432 or 6543): \
    use the server's own host and port, the direct connection string.";

fn tls_remedy(said: &str) -> String {
    let lower = said.to_lowercase();
    if lower.contains("expired") {
        "Renew the source's TLS certificate: the one it shows has expired.".to_owned()
    } else if lower.contains("notvalidforname") || lower.contains("not valid for name") {
        "Use the host name that is in the source's certificate, or sslmode=verify-ca.".to_owned()
    } else if lower.contains("unknownissuer") {
        "Name the authority of the source's certificate: sslrootcert=<file> in the URL.".to_owned()
    } else {
        "Check sslmode and sslrootcert in the URL.".to_owned()
    }
}

/// A string literal, whatever is in it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
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
pub(super) async fn is_writer(session: &Session, user: &str) -> Result<Row, Error> {
    let name = "is writer";
    let row = session.query_one(WRITER_SQL, &[]).await?;
    if row.try_get(0)? {
        // Where this role may see whom the replica follows, that is the answer.
        let writer: Option<String> = row.try_get(2)?;
        let remedy = match writer {
            Some(writer) => format!("Use the URL of the writer: this one follows {writer}."),
            None => "Use the URL of the writer.".to_owned(),
        };
        return Ok(Row::fail(name, "Server is a read replica", remedy));
    }
    if row.try_get(1)? {
        return Ok(Row::fail(
            name,
            "Transactions are read-only (default_transaction_read_only)",
            format!(
                "Use the URL of the writer, or run ALTER ROLE {} SET default_transaction_read_only \
                 = off;",
                quote_identifier(user)
            ),
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

/// One free slot, and log kept for it long enough.
pub(super) async fn slots(session: &Session, provider: &Provider) -> Result<Row, Error> {
    let name = "replication slots";
    let row = session.query_one(SLOTS_SQL, &[]).await?;
    let (used, most): (i64, i32) = (row.try_get(0)?, row.try_get(1)?);
    let keep_mb: Option<i64> = row.try_get(2)?;
    let detail = format!("{used}/{most} used");
    if used >= i64::from(most) {
        let more = (most + SLOTS_MORE).to_string();
        let unused: Vec<String> = row.try_get(3)?;
        let drop = unused.iter().take(SLOTS_NAMED_MAX);
        let drop = drop.map(|slot| format!("SELECT pg_drop_replication_slot({});", literal(slot)));
        let drop = drop.collect::<Vec<_>>().join(" ");
        let remedy = provider.setting_remedy("max_replication_slots", &more);
        let remedy = match drop.as_str() {
            "" => remedy,
            drop => format!("{remedy} Or drop a slot nobody uses: {drop}"),
        };
        return Ok(Row::fail(name, detail, remedy));
    }
    match keep_mb {
        Some(kept) if (0..KEEP_MB_MIN).contains(&kept) => Ok(Row::warn(
            name,
            format!(
                "{detail}\nOnly {kept} MB of log are kept for a slot that lags \
                 (max_slot_wal_keep_size): once they are used up, everything is copied anew"
            ),
            "Run ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf(); or \
             change it where the provider keeps it.",
        )),
        _ => Ok(Row::pass(name).with_detail(detail)),
    }
}

/// A walsender we can really have: others' are not all visible, so one is opened.
pub(super) async fn senders(
    session: &Session,
    provider: &Provider,
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
            format!("max: {most}\nAll are used"),
            provider.setting_remedy("max_wal_senders", &(most + SENDERS_MORE).to_string())
                + " Or stop a replication client.",
        ),
        Some("28000") => Row::fail(
            name,
            describe(error),
            format!("Let role {user} make replication connections in pg_hba.conf."),
        ),
        _ => Row::fail(name, describe(error), POOLER),
    })
}

const PASSWORD_SQL: &str = "\
SELECT to_char(rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC'
  FROM pg_catalog.pg_roles
 WHERE rolname = session_user AND rolvaliduntil < now() + make_interval(days => $1)
   AND rolvaliduntil > '-infinity'";

const METADATA_SQL: &str = "\
SELECT current_setting('server_version_num')::int, version(),
       (SELECT pg_encoding_to_char(encoding)::text FROM pg_catalog.pg_database
         WHERE datname = current_database())";

const WRITER_SQL: &str = "\
SELECT pg_is_in_recovery(),
       NOT pg_is_in_recovery() AND current_setting('transaction_read_only')::bool,
       (SELECT sender_host || ':' || sender_port FROM pg_catalog.pg_stat_wal_receiver)";

const WAL_LEVEL_SQL: &str = "\
SELECT current_setting('wal_level'), current_setting('server_version_num')::int";

const SLOTS_SQL: &str = "\
SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots),
       current_setting('max_replication_slots')::int,
       (SELECT setting::bigint FROM pg_catalog.pg_settings
         WHERE name = 'max_slot_wal_keep_size'),
       ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots
              WHERE NOT active AND NOT temporary ORDER BY 1)";

const SENDERS_SQL: &str = "SELECT current_setting('max_wal_senders')::int";
