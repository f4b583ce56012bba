//! Rows of operations as values, in the order the command table promises their columns.
//!
//! Must never put a secret anywhere but in a branch's `url`.

use std::time::{Duration, SystemTime};

use proxy::{Sample, Value};

use crate::lsn::Lsn;
use crate::metrics;

use super::row::{
    BranchRow, BranchStatus, BranchSummaryRow, ComputeRow, ConfigRow, ConnectorDeleteRow,
    ConnectorRow, ConnectorState, ConnectorStatusRow, ConnectorUpdateRow, CopyRow, EnvironmentRow,
    JobRow, PreflightKind, PreflightRow, PreflightStatus, PrivateLinkRow, QuarantineRow,
    RoleRecord, SessionRow, SettingRow, SwitchRow, VerifyRow,
};

/// The only kind of source there is.
const SERVICE: &str = "postgresql";

pub(super) fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn optional<T>(value: Option<T>, convert: impl FnOnce(T) -> Value) -> Value {
    value.map_or(Value::Null, convert)
}

/// Sentences, one a line; NULL for none.
fn lines(lines: &[String]) -> Value {
    if lines.is_empty() { Value::Null } else { Value::Text(lines.join("\n")) }
}

fn seconds(duration: Duration) -> Value {
    Value::Int8(i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

pub(super) fn preflight(row: PreflightRow) -> Vec<Value> {
    vec![
        Value::Int8(row.ordinal),
        text(row.kind.as_str()),
        Value::Text(row.name),
        text(row.status.as_str()),
        optional(row.detail, Value::Text),
        optional(row.remedy, Value::Text),
    ]
}

pub(super) fn connector(row: ConnectorRow) -> Vec<Value> {
    vec![
        text(row.name),
        Value::Text(row.id),
        text(SERVICE),
        text(row.state.as_str()),
        lines(&row.warnings),
        Value::Bool(row.current),
        Value::Text(row.source),
        Value::Bool(row.locked.is_some()),
        optional(row.locked.filter(|reason| !reason.is_empty()), Value::Text),
        lines(&row.undecided),
        Value::Timestamptz(row.created_at),
    ]
}

pub(super) fn connector_status(row: ConnectorStatusRow) -> Vec<Value> {
    let lsn = |lsn: Option<Lsn>| optional(lsn, text);
    let copy = row.copy;
    let (holder, age) = row.oldest_transaction.unzip();
    let seen = row.verification;
    let of_copy = |value: &dyn Fn(&CopyRow) -> Value| copy.as_ref().map_or(Value::Null, value);
    vec![
        text(row.name),
        text(row.state.as_str()),
        lines(&row.warnings),
        optional(row.plugin, Value::Text),
        optional(row.ddl_mode, Value::Text),
        lsn(row.received_lsn),
        lsn(row.applied_lsn),
        lsn(row.confirmed_lsn),
        optional(row.lag_bytes, Value::Int8),
        optional(row.retained_wal_bytes, Value::Int8),
        optional(row.slot, Value::Text),
        optional(row.phase, Value::Text),
        optional(row.bytes_done, Value::Int8),
        optional(row.bytes_total, Value::Int8),
        text(SERVICE),
        optional(row.error, Value::Text),
        of_copy(&|copy| Value::Int8(copy.rows)),
        of_copy(&|copy| Value::Int8(copy.tables_done)),
        of_copy(&|copy| Value::Int8(copy.tables_total)),
        of_copy(&|copy| Value::Int8(copy.bytes_per_second)),
        of_copy(&|copy| optional(copy.remaining, seconds)),
        of_copy(&|copy| lines(&copy.tables)),
        optional(holder, Value::Text),
        optional(age, seconds),
        lsn(seen.map(|seen| seen.lsn)),
        optional(seen, |seen| Value::Timestamptz(seen.at)),
        optional(seen, |seen| Value::Int8(seen.differences)),
    ]
}

pub(super) fn verify(row: VerifyRow) -> Vec<Value> {
    vec![
        Value::Text(row.object),
        Value::Text(row.kind),
        text(row.verdict),
        optional(row.detail, Value::Text),
    ]
}

pub(super) fn quarantine(row: QuarantineRow) -> Vec<Value> {
    vec![
        Value::Text(row.table),
        text(if row.is_copying { "copying" } else { "quarantined" }),
        Value::Text(row.reason),
        Value::Timestamptz(row.since),
    ]
}

pub(super) fn connector_switch(row: SwitchRow) -> Vec<Value> {
    vec![optional(row.previous, Value::Text), text(row.name)]
}

pub(super) fn connector_delete(row: ConnectorDeleteRow) -> Vec<Value> {
    vec![text(row.name), lines(&row.branches)]
}

/// `now` dates the branch's data.
pub(super) fn branch(row: BranchRow, now: SystemTime) -> Vec<Value> {
    let age = row.commit_time.map(|time| now.duration_since(time).unwrap_or_default());
    vec![
        text(row.name),
        text(row.connector),
        text(row.status.as_str()),
        optional(row.url, |url| text(url.reveal())),
        optional(row.lsn, text),
        optional(row.commit_time, Value::Timestamptz),
        optional(age, seconds),
        Value::Bool(row.stale),
        optional(row.unique_bytes, Value::Int8),
        optional(row.shared_bytes, Value::Int8),
        optional(row.reclaimable_bytes, Value::Int8),
        optional(row.parent, text),
        Value::Timestamptz(row.created_at),
        optional(row.compute_socket, Value::Text),
        Value::Bool(row.current),
        lines(&row.warnings),
        optional(row.max_size_bytes, Value::Int8),
    ]
}

pub(super) fn branch_summary(row: BranchSummaryRow) -> Vec<Value> {
    vec![
        text(row.name),
        text(row.connector),
        text(row.status.as_str()),
        Value::Timestamptz(row.created_at),
        optional(row.idle, seconds),
        Value::Bool(row.current),
        lines(&row.warnings),
    ]
}

pub(super) fn branch_switch(row: SwitchRow) -> Vec<Value> {
    let url = optional(row.url, |url| text(url.reveal()));
    vec![optional(row.previous, Value::Text), text(row.name), url]
}

pub(super) fn connector_update(row: ConnectorUpdateRow) -> Vec<Value> {
    vec![text(row.name), Value::Text(row.drop_extensions.join(","))]
}

pub(super) fn setting(row: SettingRow) -> Vec<Value> {
    vec![
        text(row.key),
        optional(row.value, Value::Text),
        text(row.summary),
        optional(row.hook, Value::Text),
        optional(row.position, Value::Int8),
        optional(row.database, Value::Text),
        optional(row.run_as, Value::Text),
        text(row.connector),
    ]
}

pub(super) fn environment(row: EnvironmentRow) -> Vec<Value> {
    vec![
        Value::Text(row.name),
        Value::Text(row.address),
        lines(&row.private_links),
        lines(&row.connectors),
        Value::Timestamptz(row.created_at),
    ]
}

pub(super) fn private_link(row: PrivateLinkRow) -> Vec<Value> {
    vec![
        Value::Text(row.name),
        Value::Text(row.environment),
        Value::Text(row.endpoint),
        lines(&row.connectors),
        Value::Timestamptz(row.created_at),
    ]
}

pub(super) fn role(role: RoleRecord) -> Vec<Value> {
    vec![Value::Text(role.name), text(role.level.as_str()), Value::Timestamptz(role.created_at)]
}

pub(super) fn compute(row: ComputeRow) -> Vec<Value> {
    vec![
        Value::Text(row.branch),
        text(row.connector),
        Value::Text(row.state),
        optional(row.pid, Value::Int8),
        optional(row.major, Value::Int8),
        optional(row.started_at, Value::Timestamptz),
        Value::Int8(row.sessions),
    ]
}

pub(super) fn session(row: SessionRow) -> Vec<Value> {
    vec![
        optional(row.endpoint, Value::Text),
        Value::Text(row.role),
        Value::Text(row.client),
        Value::Timestamptz(row.connected_at),
        Value::Int8(row.id),
        Value::Text(row.state),
        optional(row.backend_pid, Value::Int8),
        Value::Int8(row.bytes_in),
        Value::Int8(row.bytes_out),
    ]
}

/// None for a sample that no metric has.
pub(super) fn metric(sample: &Sample) -> Option<Vec<Value>> {
    let metric = metrics::metric_of(sample)?;
    let labels = metrics::labels(sample);
    Some(vec![
        text(sample.name),
        if labels.is_empty() { Value::Null } else { Value::Text(labels) },
        Value::Float8(sample.value),
        text(metric.kind.as_str()),
        text(metric.meaning),
    ])
}

pub(super) fn job(row: JobRow) -> Vec<Value> {
    vec![
        Value::Text(row.job),
        Value::Text(row.object),
        optional(row.phase, Value::Text),
        optional(row.started_at, Value::Timestamptz),
        optional(row.bytes_done, Value::Int8),
        optional(row.bytes_total, Value::Int8),
    ]
}

pub(super) fn config(row: ConfigRow) -> Vec<Value> {
    vec![Value::Text(row.name), Value::Text(row.value), Value::Text(row.origin)]
}

impl PreflightKind {
    /// The word in the `kind` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Provider => "provider",
            Self::Script => "script",
            Self::Verdict => "verdict",
        }
    }
}

impl PreflightStatus {
    /// The word in the `status` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

impl ConnectorState {
    /// The words in the `state` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetupPending => "setup pending",
            Self::Validating => "validating",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Broken => "broken",
        }
    }
}

impl BranchStatus {
    /// The word in the `status` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }
}
