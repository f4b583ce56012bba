//! Records of the layers below as rows that operators see. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::refuse;
use crate::admin::Outcome;
use crate::admin::request::Decision;
use crate::admin::row::{
    ConfigRow, ConnectorRow, ConnectorState as Shown, ConnectorStatusRow, CopyRow, JobRow,
    PreflightKind, PreflightRow, PreflightStatus, QuarantineRow, RoleRecord, SessionRow,
    VerificationRow, VerifyRow,
};
use crate::catalog::{AdminRole, ConnectorState};
use crate::config::Config;
use crate::connector::{Connector, ConnectorView, EXCLUDE};
use crate::job::JobInfo;
use crate::lsn::Lsn;
use crate::name::Name;
use crate::replication::{Finding, Phase, Quarantined, SetupProgress};
use crate::secret::Secret;
use crate::source::{Report, RowKind, RowStatus};

pub(super) fn preflight(report: &Report) -> Vec<PreflightRow> {
    let numbered = report.rows.iter().zip(1_i64..);
    numbered
        .map(|(row, ordinal)| PreflightRow {
            ordinal,
            kind: match row.kind {
                RowKind::Check => PreflightKind::Check,
                RowKind::Provider => PreflightKind::Provider,
                RowKind::Script => PreflightKind::Script,
                RowKind::Verdict => PreflightKind::Verdict,
            },
            name: row.name.clone(),
            status: match row.status {
                RowStatus::Pass => PreflightStatus::Pass,
                RowStatus::Warn => PreflightStatus::Warn,
                RowStatus::Fail => PreflightStatus::Fail,
                RowStatus::Skip => PreflightStatus::Skip,
            },
            detail: row.detail.clone(),
            remedy: row.remedy.clone(),
        })
        .collect()
}

/// The failed checks of a report, a sentence each.
pub(super) fn failures(report: &Report) -> String {
    let failed = report
        .rows
        .iter()
        .filter(|row| row.kind == RowKind::Check && row.status == RowStatus::Fail);
    let lines: Vec<_> = failed
        .map(|row| format!("{}: {}", row.name, row.detail.as_deref().unwrap_or("failed")))
        .collect();
    lines.join("\n")
}

pub(super) fn connector(connector: &Connector, current: bool) -> Outcome<ConnectorRow> {
    let view = connector.view();
    Ok(ConnectorRow {
        name: name(connector.name())?,
        id: connector.id().to_string(),
        state: shown(connector, &view),
        warnings: warnings(connector),
        current,
        source: format!("{}/{}", connector.source().address(), connector.database()),
        locked: connector.locked(),
        undecided: Vec::new(),
        created_at: view.created_at,
    })
}

pub(super) fn connector_status(connector: &Connector) -> Outcome<ConnectorStatusRow> {
    let view = connector.view();
    let status = &view.status;
    let known = |lsn: Lsn| (lsn != Lsn::default()).then_some(lsn);
    let is_known = known(status.applied_lsn).is_some();
    let setup = view.setup.as_ref();
    Ok(ConnectorStatusRow {
        name: name(connector.name())?,
        state: shown(connector, &view),
        warnings: warnings(connector),
        plugin: Some(connector.made().plugin.clone()),
        ddl_mode: Some(status.ddl_mode).filter(|mode| !mode.is_empty()).map(str::to_owned),
        received_lsn: known(status.received_lsn),
        applied_lsn: known(status.applied_lsn),
        confirmed_lsn: known(status.confirmed_lsn),
        lag_bytes: is_known.then(|| count(status.lag_bytes)).flatten(),
        retained_wal_bytes: is_known.then(|| count(status.retained_wal_bytes)).flatten(),
        slot: Some(format!("ardent_{}", connector.id())),
        phase: Some(phase(&view)),
        bytes_done: setup.and_then(|setup| count(setup.bytes_done)),
        bytes_total: setup.and_then(|setup| count(setup.bytes_total)),
        error: view.message.clone(),
        oldest_transaction: status
            .oldest_transaction
            .as_ref()
            .map(|open| (open.holder.clone(), open.age)),
        copy: setup.map(copy),
        verification: connector.verification().map(|seen| VerificationRow {
            lsn: seen.lsn,
            at: seen.at,
            differences: count(seen.differences).unwrap_or(i64::MAX),
        }),
    })
}

fn copy(setup: &SetupProgress) -> CopyRow {
    let tables = setup.copying.iter().map(|table| {
        let (done, total) = (bytes(table.bytes_done), bytes(table.bytes_total));
        format!("{}: {done} of {total}, {} rows", table.table, table.rows)
    });
    let left = setup.bytes_total.saturating_sub(setup.bytes_done);
    CopyRow {
        rows: count(setup.rows).unwrap_or(i64::MAX),
        tables_done: count(setup.tables_done).unwrap_or(i64::MAX),
        tables_total: count(setup.tables_total).unwrap_or(i64::MAX),
        bytes_per_second: count(setup.bytes_per_second).unwrap_or(i64::MAX),
        remaining: left.checked_div(setup.bytes_per_second).map(Duration::from_secs),
        tables: tables.collect(),
    }
}

fn phase(view: &ConnectorView) -> String {
    match (view.state, &view.setup, &view.status.phase) {
        (ConnectorState::Validating, Some(setup), _) => setup.stage.as_str().to_owned(),
        (ConnectorState::Validating, None, _) => "preparing trunk".to_owned(),
        (ConnectorState::SetupPending, ..) => "waiting for retry-setup".to_owned(),
        (ConnectorState::Deleting, ..) => "deleting".to_owned(),
        (ConnectorState::Ready | ConnectorState::Broken, _, phase) => match phase {
            Phase::Starting => "starting".to_owned(),
            Phase::Streaming => "streaming".to_owned(),
            Phase::Paused => "paused".to_owned(),
            Phase::Retrying { .. } => "retrying".to_owned(),
            Phase::Stopped { .. } => "stopped".to_owned(),
        },
    }
}

/// A ready connector is shown as degraded while objects of the source are left out of branches, or
/// are known to differ there.
fn shown(connector: &Connector, view: &ConnectorView) -> Shown {
    let is_left_out = !view.status.quarantined.is_empty()
        || !excluded(connector).is_empty()
        || !left_behind(connector, view).is_empty()
        || differences(connector).is_some();
    match view.state {
        ConnectorState::SetupPending => Shown::SetupPending,
        ConnectorState::Validating => Shown::Validating,
        ConnectorState::Ready if is_left_out => Shown::Degraded,
        ConnectorState::Ready => Shown::Ready,
        ConnectorState::Broken | ConnectorState::Deleting => Shown::Broken,
    }
}

/// What an operator should know about a connector and the branches of it.
pub(super) fn warnings(connector: &Connector) -> Vec<String> {
    let view = connector.view();
    let mut warnings: Vec<String> = view.message.iter().cloned().collect();
    if let Phase::Retrying { reason } = &view.status.phase {
        warnings.push(format!("reconnecting: {reason}"));
    }
    warnings.extend(excluded(connector).into_iter().map(|table| format!("{table} is excluded")));
    for quarantined in &view.status.quarantined {
        let (table, reason) = (&quarantined.table, &quarantined.reason);
        warnings.push(format!("{table} is quarantined: {reason}"));
    }
    warnings.extend(left_behind(connector, &view));
    warnings.extend(differences(connector));
    warnings.extend(view.status.warnings.iter().cloned());
    warnings
}

/// What the last comparison saw, if it was not equality.
fn differences(connector: &Connector) -> Option<String> {
    let seen = connector.verification().filter(|seen| seen.differences > 0)?;
    let objects = if seen.differences == 1 { "object" } else { "objects" };
    Some(format!(
        "{} {objects} differed from the source at {}: ARDENT CONNECTOR VERIFY {} names them",
        seen.differences,
        seen.lsn,
        connector.name()
    ))
}

/// What setup could not carry, but for extensions that are not wanted anyway.
fn left_behind(connector: &Connector, view: &ConnectorView) -> Vec<String> {
    let dropped = connector.drop_extensions();
    let is_wanted = |warning: &&String| {
        !dropped.iter().any(|name| warning.starts_with(&format!("extension {name} ")))
    };
    view.warnings.iter().filter(is_wanted).cloned().collect()
}

/// The tables that are not followed, by name.
pub(super) fn quarantine(connector: &Connector) -> Vec<QuarantineRow> {
    let mut tables = connector.view().status.quarantined;
    tables.sort_by(|a, b| a.table.cmp(&b.table));
    tables.iter().map(quarantined).collect()
}

pub(super) fn quarantined(entry: &Quarantined) -> QuarantineRow {
    QuarantineRow {
        table: entry.table.to_string(),
        is_copying: entry.is_resync_due,
        reason: entry.reason.clone(),
        since: entry.since,
    }
}

fn excluded(connector: &Connector) -> Vec<String> {
    let decisions: BTreeMap<String, String> =
        serde_json::from_str(&connector.decisions()).unwrap_or_default();
    decisions.into_iter().filter(|(_, word)| word == EXCLUDE).map(|(table, _)| table).collect()
}

pub(super) fn finding(finding: Finding) -> VerifyRow {
    VerifyRow {
        object: finding.object,
        kind: finding.kind,
        verdict: finding.verdict.as_str(),
        detail: finding.detail,
    }
}

/// Stored decisions as given ones.
pub(super) fn decisions(stored: BTreeMap<String, String>) -> BTreeMap<String, Decision> {
    let decision = |word: &str| match word {
        EXCLUDE => Some(Decision::Exclude),
        "add_pk" => Some(Decision::AddPk),
        "replica_identity_full" => Some(Decision::ReplicaIdentityFull),
        _ => None,
    };
    stored.into_iter().filter_map(|(table, word)| Some((table, decision(&word)?))).collect()
}

/// Why a connector waits although nothing is to be decided.
pub(super) const SETUP_NOT_BEGUN: &str = "setup was not begun; run ardent connector retry-setup";

/// Why a connector waits for its operator.
pub(super) fn undecided_message(tables: &[String]) -> String {
    format!(
        "tables without a usable replica identity need a decision: {}; \
         use --replica-identity-decisions or --accept-replica-identity-defaults",
        tables.join(", ")
    )
}

pub(super) fn role(role: AdminRole) -> Option<RoleRecord> {
    Some(RoleRecord {
        name: role.name,
        level: role.level.parse().ok()?,
        verifier: Secret::new(role.verifier),
        created_at: role.created_at,
    })
}

pub(super) fn session(session: proxy::SessionInfo) -> SessionRow {
    SessionRow {
        endpoint: session.endpoint,
        role: session.role,
        client: session.peer.to_string(),
        connected_at: session.since,
        id: count(session.id).unwrap_or(i64::MAX),
        state: state_of(session.state).to_owned(),
        backend_pid: session.backend_pid.map(i64::from),
        bytes_in: count(session.bytes_in).unwrap_or(i64::MAX),
        bytes_out: count(session.bytes_out).unwrap_or(i64::MAX),
    }
}

/// The word for what a session is doing.
pub(super) fn state_of(state: proxy::SessionState) -> &'static str {
    match state {
        proxy::SessionState::Waking => "waking",
        proxy::SessionState::Idle => "idle",
        proxy::SessionState::InTransaction => "in transaction",
        proxy::SessionState::Active => "active",
        proxy::SessionState::HandedOff => "handed off",
    }
}

pub(super) fn job(job: JobInfo) -> JobRow {
    JobRow {
        job: job.kind.to_owned(),
        object: job.object,
        phase: None,
        started_at: Some(job.since),
        bytes_done: None,
        bytes_total: None,
    }
}

/// A connector that is being set up or deleted, as a job.
pub(super) fn connector_job(connector: &Connector) -> Option<JobRow> {
    let view = connector.view();
    let job = match view.state {
        ConnectorState::Validating => "connector setup",
        ConnectorState::Deleting => "connector delete",
        ConnectorState::Ready | ConnectorState::SetupPending | ConnectorState::Broken => {
            return None;
        }
    };
    let setup = view.setup.as_ref();
    Some(JobRow {
        job: job.to_owned(),
        object: connector.name().to_owned(),
        phase: Some(phase(&view)),
        started_at: None,
        bytes_done: setup.and_then(|setup| count(setup.bytes_done)),
        bytes_total: setup.and_then(|setup| count(setup.bytes_total)),
    })
}

/// The configuration in force, a row a key.
pub(super) fn config(config: &Config) -> Vec<ConfigRow> {
    let rows = config.entries().into_iter();
    rows.map(|(name, value, is_default)| ConfigRow {
        name,
        value,
        origin: if is_default { "default" } else { "file" }.to_owned(),
    })
    .collect()
}

/// A stored name, which was a name when it was stored.
pub(super) fn name(text: &str) -> Outcome<Name> {
    text.parse().map_err(|error| refuse::internal(&error))
}

/// Bytes and the like, as SQL's bigint.
pub(super) fn count(value: u64) -> Option<i64> {
    i64::try_from(value).ok()
}

/// Bytes for people: three digits are enough to see progress.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut whole = count;
    let mut tenth = 0;
    let mut unit = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        tenth = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit += 1;
    }
    match unit {
        0 => format!("{whole} B"),
        unit => format!("{whole}.{tenth} {}", UNITS.get(unit).copied().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_for_people() {
        let shown = [0, 1023, 1024, 1536, 5 << 20, 3 << 30, u64::MAX].map(bytes);
        let expected = ["0 B", "1023 B", "1.0 kB", "1.5 kB", "5.0 MB", "3.0 GB"];
        assert_eq!(&shown[..6], expected);
        assert!(shown[6].ends_with(" TB"));
    }
}
