//! Preflight: can a working connector be made for this database, and if not, what is to be done?
//!
//! Stores nothing, and leaves nothing on the source. A failed check does not hide the next; one
//! that cannot run says why.

use proxy::client::{self, ReplicationConnection, Session, Target, reach};

use super::error::Error;
use super::facts::{self, Identity, TableName};
use super::grants;
use super::plugin::{PROBE_OPTIONS, Probe, probe_wal2json};
use super::privileges::Missing;
use super::provider::Provider;
use super::report::{Report, Row, RowKind, RowStatus};
use super::server;
use super::url::SourceUrl;

/// What to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightOptions {
    /// The schemas to follow; none named means all that are not the system's.
    pub schemas: Vec<String>,
    /// Why the far end of an environment was not reached, if it was not; none where no environment
    /// is gone through.
    pub unreachable: Option<String>,
}

const GRANTS_REMEDY: &str = "Run the grant script below, then re-run preflight.";
/// A check's detail names this many objects; the script has them all.
const NAMED_OBJECTS_MAX: usize = 10;
/// No question of ours takes longer on a healthy source.
const SESSION_OPTIONS: &str = "-c statement_timeout=30s -c lock_timeout=5s";
const AFTER_REACHABLE: [&str; 8] = [
    "auth",
    "postgres metadata",
    "is writer",
    "wal level",
    "replication slots",
    "wal senders",
    "wal2json",
    "can read tables",
];

/// Looks at a source. `taken_by` names the connector that follows a database already, if any.
pub async fn preflight(
    url: &SourceUrl,
    options: &PreflightOptions,
    taken_by: impl Fn(&Identity) -> Option<String> + Send,
) -> Report {
    let target = url.target().with_options(SESSION_OPTIONS);
    let mut report = Report::default();
    let unreachable = match (&options.unreachable, reach(&target).await) {
        (Some(why), _) => Some(why.clone()),
        (None, outcome) => outcome.err().map(|error| server::describe(&error)),
    };
    if let Some(why) = unreachable {
        let remedy = format!(
            "Check host and port, and that a firewall lets this machine reach {}.",
            target.address()
        );
        report.rows.push(Row::fail("tcp reachable", why, remedy));
        skip(&mut report, &AFTER_REACHABLE, "tcp reachable failed");
        return finish(report, None, None);
    }
    report.rows.push(Row::pass("tcp reachable"));
    let session = Session::open(&target).await;
    report.rows.push(server::auth(&session, &target.user, &target.database));
    let Ok(session) = session else {
        skip(&mut report, &AFTER_REACHABLE[1..], "auth failed");
        return finish(report, None, None);
    };
    let found =
        Checks { session: &session, target: &target, options }.run(&mut report, taken_by).await;
    session.close().await;
    match found {
        Ok((provider, script)) => finish(report, Some(provider), script),
        Err(error) => {
            let missing = AFTER_REACHABLE.get(report.rows.len() - 1).copied().unwrap_or("metadata");
            let remedy = "Check that the connection is stable, then re-run preflight.";
            report.rows.push(Row::fail(missing, server::describe(&error), remedy));
            finish(report, None, None)
        }
    }
}

struct Checks<'a> {
    session: &'a Session,
    target: &'a Target,
    options: &'a PreflightOptions,
}

impl Checks<'_> {
    async fn run(
        &self,
        report: &mut Report,
        taken_by: impl Fn(&Identity) -> Option<String> + Send,
    ) -> Result<(Provider, Option<String>), Error> {
        let (session, user) = (self.session, &self.target.user);
        let provider = Provider::detect(session).await?;
        report.rows.push(server::metadata(session).await?);
        report.rows.push(server::is_writer(session).await?);
        report.rows.push(server::wal_level(session, &provider).await?);
        report.rows.push(server::slots(session).await?);
        let mut replication =
            ReplicationConnection::open(&self.target.with_options(PROBE_OPTIONS)).await;
        if let Ok(connection) = &mut replication {
            report.identity = facts::identity(connection).await.ok();
        }
        report.rows.push(server::senders(session, replication.as_ref().err(), user).await?);
        let mut missing = Missing::read(session, &self.options.schemas).await?;
        missing.replication = matches!(&replication, Err(e) if e.sqlstate() == Some("42501"));
        report.rows.push(self.wal2json(replication, &mut missing).await?);
        report.rows.push(reading(&missing));
        let tables = facts::tables(session, &self.options.schemas).await?;
        report.undecided =
            tables.into_iter().filter(|table| !table.has_identity).map(|t| t.name).collect();
        report.undecided.sort();
        report.rows.extend(self.reserved_names().await?);
        report.rows.extend(identities(&report.undecided));
        if let Some(name) = report.identity.as_ref().and_then(taken_by) {
            report.rows.push(Row::fail(
                "duplicate source",
                format!("Database is already followed by connector {name}"),
                format!("Use connector {name}, or delete it first."),
            ));
        }
        let script = grants::script(&missing, &provider, user, &self.target.database);
        Ok((provider, script))
    }

    async fn wal2json(
        &self,
        replication: Result<ReplicationConnection, client::Error>,
        missing: &mut Missing,
    ) -> Result<Row, Error> {
        let name = "wal2json";
        let Ok(mut connection) = replication else {
            return Ok(Row::skip(name, "no replication connection to ask with"));
        };
        let probe = probe_wal2json(&mut connection).await;
        connection.close().await;
        Ok(match probe {
            Probe::Works { tells_nan_from_null: true } => Row::pass(name),
            Probe::Works { tells_nan_from_null: false } => self.old_wal2json().await?,
            Probe::Blocked => Row::warn(
                name,
                "A long transaction on the source holds back slot creation",
                "End transactions that are open for long before creating the connector.",
            ),
            Probe::NotInstalled => Row::fail(
                name,
                "wal2json is not installed",
                format!("Install the package {} on the source.", self.package().await?),
            ),
            Probe::NotListed => {
                let sql = self.listing_sql().await?;
                missing.plugin = Some(sql.clone());
                Row::fail(
                    name,
                    "wal2json is not in output_plugin_libraries",
                    format!(
                        "Run as superuser: {sql} (no restart; package {} must be installed)",
                        self.package().await?
                    ),
                )
            }
            Probe::Unasked(why) => Row::skip(name, why),
            Probe::Failed(said) => Row::fail(name, said, "Check the server's log."),
        })
    }

    /// wal2json before 2.6 prints NaN and infinities as null. Worth a word only where a column can
    /// hold them.
    async fn old_wal2json(&self) -> Result<Row, Error> {
        let rows = self.session.query(FLOATING_SQL, &[&self.options.schemas]).await?;
        let tables = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        if tables.is_empty() {
            return Ok(Row::pass("wal2json"));
        }
        Ok(Row::warn(
            "wal2json",
            format!("Before 2.6, NaN and infinity arrive as null in {}", listed(&tables)),
            "Upgrade wal2json to 2.6 or newer if these columns hold such values.",
        ))
    }

    /// The setting is a list of names; quoting it as a whole would store one name.
    async fn listing_sql(&self) -> Result<String, Error> {
        let row = self.session.query_opt(LIBRARIES_SQL, &[]).await?;
        let present: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        let present = present.unwrap_or_else(|| "pgoutput, test_decoding".to_owned());
        let mut names: Vec<String> = present
            .split(',')
            .map(|name| name.trim().trim_matches('"'))
            .filter(|name| !name.is_empty())
            .map(|name| format!("'{}'", name.replace('\'', "''")))
            .collect();
        names.push("'wal2json'".to_owned());
        let names = names.join(", ");
        Ok(format!("ALTER SYSTEM SET output_plugin_libraries = {names}; SELECT pg_reload_conf();"))
    }

    async fn package(&self) -> Result<String, Error> {
        let sql = "SELECT current_setting('server_version_num')::int / 10000";
        let major: i32 = self.session.query_one(sql, &[]).await?.try_get(0)?;
        Ok(format!("postgresql-{major}-wal2json"))
    }

    /// Names we keep for ourselves, where the source uses them for something that matters.
    async fn reserved_names(&self) -> Result<Option<Row>, Error> {
        let rows = self.session.query(RESERVED_SQL, &[&self.options.schemas]).await?;
        let names = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        if names.is_empty() {
            return Ok(None);
        }
        Ok(Some(Row::warn(
            "metadata schema",
            format!("Reserved by Ardent and not carried over: {}", listed(&names)),
            "Rename them on the source if branches need them.",
        )))
    }
}

fn reading(missing: &Missing) -> Row {
    let problems = missing.reading_problems();
    if problems.is_empty() {
        return Row::pass("can read tables");
    }
    let more = problems.len().saturating_sub(NAMED_OBJECTS_MAX);
    let mut lines: Vec<String> = problems.into_iter().take(NAMED_OBJECTS_MAX).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    let only_absent = missing.schemas.is_empty()
        && missing.tables.is_empty()
        && missing.hidden.is_empty()
        && missing.sequences.is_empty();
    let remedy = if only_absent { "Check the names of the schemas." } else { GRANTS_REMEDY };
    Row::fail("can read tables", lines.join("\n"), remedy)
}

fn identities(undecided: &[TableName]) -> Option<Row> {
    if undecided.is_empty() {
        return None;
    }
    let names: Vec<String> = undecided.iter().map(TableName::to_string).collect();
    Some(Row::warn(
        "replica identity",
        format!("No usable replica identity: {}", listed(&names)),
        "Decide per table: exclude, add_pk or replica_identity_full.",
    ))
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_OBJECTS_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_OBJECTS_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn skip(report: &mut Report, names: &[&str], why: &str) {
    report.rows.extend(names.iter().map(|name| Row::skip(name, why)));
}

fn finish(mut report: Report, provider: Option<Provider>, script: Option<String>) -> Report {
    report.passed = !report.rows.iter().any(|row| row.status == RowStatus::Fail);
    if let Some(provider) = provider {
        let name = provider.to_string();
        report.rows.push(Row { kind: RowKind::Provider, ..Row::pass(&name) });
    }
    if let Some(script) = script {
        let row = Row::pass("grant script").with_detail(script);
        report.rows.push(Row { kind: RowKind::Script, ..row });
    }
    let status = if report.passed { RowStatus::Pass } else { RowStatus::Fail };
    report.rows.push(Row { kind: RowKind::Verdict, status, ..Row::pass("preflight") });
    report
}

const LIBRARIES_SQL: &str =
    "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries'";

const FLOATING_SQL: &str = "\
SELECT DISTINCT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = 'r' AND c.relpersistence = 'p'
   AND a.atttypid = ANY ('{float4,float8,numeric}'::regtype[])
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY 1";

const RESERVED_SQL: &str = "\
SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname = 'ardent'
UNION ALL
SELECT 'role ' || rolname FROM pg_catalog.pg_roles r
 WHERE (rolname LIKE 'ardent\\_%' OR rolname = 'branch_owner')
   AND EXISTS (SELECT FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relowner = r.oid AND n.nspname <> 'ardent'
                  AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)))";
