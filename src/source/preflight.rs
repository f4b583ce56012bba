//! Preflight: can a working connector be made for this database, and if not, what is to be done?
//!
//! Stores nothing, and leaves nothing on the source. A failed check does not hide the next; one
//! that cannot run says why.

use proxy::client::{ReplicationConnection, Session, Target, reach};

use super::capture;
use super::decoding::Decoding;
use super::error::Error;
use super::facts::{self, Identity, TableName};
use super::grants;
use super::plugin::{PROBE_OPTIONS, Plugin};
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
    /// The plugin to follow with.
    pub plugin: PluginChoice,
}

/// Which plugin an operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PluginChoice {
    /// wal2json if it works, else pgoutput.
    #[default]
    Auto,
    /// This one or none.
    Only(Plugin),
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
    if let Err(error) = reach(&target).await {
        let remedy = format!(
            "Check host and port, and that a firewall lets this machine reach {}.",
            target.address()
        );
        report.rows.push(Row::fail("tcp reachable", server::describe(&error), remedy));
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
        let decoding = Decoding { session, target: self.target, options: self.options };
        let (row, plugin) = decoding.check(replication, &mut missing).await?;
        report.rows.push(row);
        report.plugin = plugin;
        report.rows.push(reading(&missing));
        let tables = facts::tables(session, &self.options.schemas).await?;
        report.undecided =
            tables.into_iter().filter(|table| !table.has_identity).map(|t| t.name).collect();
        report.undecided.sort();
        report.rows.extend(self.reserved_names().await?);
        report.rows.extend(capture::row(session).await?);
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

pub(super) fn listed(names: &[String]) -> String {
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

const RESERVED_SQL: &str = "\
SELECT 'schema ' || nspname FROM pg_catalog.pg_namespace WHERE nspname = 'ardent'
UNION ALL
SELECT 'role ' || rolname FROM pg_catalog.pg_roles r
 WHERE (rolname LIKE 'ardent\\_%' OR rolname = 'branch_owner')
   AND EXISTS (SELECT FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE c.relowner = r.oid AND n.nspname <> 'ardent'
                  AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)))";
