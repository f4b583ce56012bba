//! Preflight: can a working connector be made for this database, and if not, what is to be done?
//!
//! Stores nothing, and leaves nothing on the source. A failed check does not hide the next; one
//! that cannot run says why.

use proxy::client::{ReplicationConnection, Session, Target};

use super::capture;
use super::decoding::Decoding;
use super::error::Error;
use super::facts::{self, Identity, TableName};
use super::grants;
use super::plugin::{PROBE_OPTIONS, Plugin};
use super::privileges::Missing;
use super::provider::Provider;
use super::reach;
use super::report::{NAMED_OBJECTS_MAX, Report, Row, RowKind, RowStatus, listed};
use super::server;
use super::url::SourceUrl;

/// What to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightOptions {
    /// The schemas to follow; none named means all that are not the system's.
    pub schemas: Vec<String>,
    /// Whether the far end of an environment was reached, or why not; none where no environment is
    /// gone through.
    pub beyond: Option<Result<(), String>>,
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
    report.rows.push(reach::row(&target, options.beyond.as_ref()).await);
    if report.rows.iter().any(|row| row.status == RowStatus::Fail) {
        skip(&mut report, &AFTER_REACHABLE, "tcp reachable failed");
        return finish(report, None, None);
    }
    let session = Session::open(&target).await;
    report.rows.push(server::auth(&session, &target.user, &target.database));
    let Ok(session) = session else {
        skip(&mut report, &AFTER_REACHABLE[1..], "auth failed");
        return finish(report, None, None);
    };
    let checks = Checks { session: &session, target: &target, options };
    let (provider, script) = checks.run(&mut report, taken_by).await;
    session.close().await;
    finish(report, provider, script)
}

struct Checks<'a> {
    session: &'a Session,
    target: &'a Target,
    options: &'a PreflightOptions,
}

impl Checks<'_> {
    /// Runs what can be run; a check that fails to answer does not hide the next.
    async fn run(
        &self,
        report: &mut Report,
        taken_by: impl Fn(&Identity) -> Option<String> + Send,
    ) -> (Option<Provider>, Option<String>) {
        let (session, user) = (self.session, &self.target.user);
        let detected = Provider::detect(session).await.ok();
        let provider = detected.clone().unwrap_or_else(Provider::vanilla);
        let rows = &mut report.rows;
        rows.push(answered("postgres metadata", server::metadata(session).await));
        rows.push(answered("is writer", server::is_writer(session, user).await));
        rows.push(answered("wal level", server::wal_level(session, &provider).await));
        rows.push(answered("replication slots", server::slots(session, &provider).await));
        let mut replication =
            ReplicationConnection::open(&self.target.with_options(PROBE_OPTIONS)).await;
        if let Ok(connection) = &mut replication {
            report.identity = facts::identity(connection).await.ok();
        }
        let refused = replication.as_ref().err();
        let may_not_replicate = refused.is_some_and(|e| e.sqlstate() == Some("42501"));
        let senders = server::senders(session, &provider, refused, user).await;
        report.rows.push(answered("wal senders", senders));
        let read = Missing::read(session, &self.options.schemas).await;
        let (mut missing, reading) = match read {
            Ok(missing) => {
                let row = reading(&missing);
                (missing, Ok(row))
            }
            Err(error) => (Missing::default(), Err(error)),
        };
        missing.replication = may_not_replicate;
        let decoding = Decoding { session, target: self.target, options: self.options };
        let checked = decoding.check(replication, &mut missing).await;
        report.plugin = checked.as_ref().ok().and_then(|(_, plugin)| *plugin);
        report.rows.push(answered("wal2json", checked.map(|(row, _)| row)));
        report.rows.push(answered("can read tables", reading));
        self.run_quiet(report, taken_by).await;
        let script = grants::script(&missing, &provider, user, &self.target.database);
        (detected, script)
    }

    /// Checks that are shown only where something is to be said.
    async fn run_quiet(
        &self,
        report: &mut Report,
        taken_by: impl Fn(&Identity) -> Option<String> + Send,
    ) {
        if let Some(row) = server::password(self.session, &self.target.user).await.transpose() {
            report.rows.push(answered("password", row));
        }
        if let Some(row) = self.reserved_names().await.transpose() {
            report.rows.push(answered("metadata schema", row));
        }
        if let Some(row) = capture::row(self.session).await.transpose() {
            report.rows.push(answered("ddl capture", row));
        }
        match facts::tables_without_identity(self.session, &self.options.schemas).await {
            Ok(tables) => {
                report.undecided = tables;
                report.rows.extend(identities(&report.undecided));
            }
            Err(error) => report.rows.push(answered("replica identity", Err(error))),
        }
        if let Some(name) = report.identity.as_ref().and_then(taken_by) {
            report.rows.push(Row::fail(
                "duplicate source",
                format!("Database is already followed by connector {name}"),
                format!("Use connector {name}, or delete it first."),
            ));
        }
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

/// A check that did not come to an answer has failed, and says why.
fn answered(name: &str, outcome: Result<Row, Error>) -> Row {
    outcome.unwrap_or_else(|error| {
        let remedy = "Check that the connection is stable, then re-run preflight.";
        Row::fail(name, server::describe(&error), remedy)
    })
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
