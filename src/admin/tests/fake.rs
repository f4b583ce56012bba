//! Operations that only answer: one connector, branches in a map, no process and no source.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::admin::error::{OperationError, Outcome, sqlstate};
use crate::admin::operations::{Caller, Operations, Progress};
use crate::admin::request::{
    CreateBranchRequest, CreateConnectorRequest, CreateEnvironmentRequest,
    CreatePrivateLinkRequest, Level, RetrySetupRequest, SettingChange, SourceRequest,
    VerifyRequest,
};
use crate::admin::row::{
    BranchRow, BranchStatus, BranchSummaryRow, ComputeRow, ConfigRow, ConnectorDeleteRow,
    ConnectorRow, ConnectorState, ConnectorStatusRow, ConnectorUpdateRow, CreateConnectorOutcome,
    EnvironmentRow, PreflightKind, PreflightRow, PreflightStatus, PrivateLinkRow, QuarantineRow,
    RetrySetupOutcome, RoleRecord, SessionRow, SettingRow, SwitchRow, VerifyRow,
};
use crate::catalog::SettingKey;
use crate::lsn::Lsn;
use crate::name::Name;
use crate::secret::Secret;

/// The time everything was created at: 2026-06-01 12:00.
pub(super) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_315_200)
}

#[derive(Default)]
pub(super) struct Fake {
    branches: Mutex<BTreeMap<String, BranchRow>>,
    roles: Mutex<BTreeMap<String, RoleRecord>>,
}

fn absent(what: &str, name: &str) -> OperationError {
    OperationError::new(sqlstate::UNDEFINED_OBJECT, format!("{what} \"{name}\" does not exist"))
}

fn connector(name: Name, state: ConnectorState) -> ConnectorRow {
    ConnectorRow {
        name,
        id: "c1".to_owned(),
        state,
        warnings: Vec::new(),
        current: true,
        source: "db.example.com:5432/app".to_owned(),
        locked: None,
        undecided: Vec::new(),
        created_at: noon(),
    }
}

fn setting(key: SettingKey, value: Option<&str>) -> SettingRow {
    SettingRow {
        connector: "prod-db".parse().unwrap(),
        key: key.as_str(),
        value: value.map(str::to_owned),
        summary: "SQL to run on every new branch after creation",
        hook: None,
        position: None,
        database: None,
        run_as: None,
    }
}

fn check(ordinal: i64, name: &str, status: PreflightStatus, detail: &str) -> PreflightRow {
    PreflightRow {
        ordinal,
        kind: PreflightKind::Check,
        name: name.to_owned(),
        status,
        detail: Some(detail.to_owned()),
        remedy: None,
    }
}

impl Operations for Fake {
    fn source_address(&self, url: &Secret) -> Outcome<String> {
        match url.reveal().starts_with("postgresql://") {
            true => Ok("db.example.com:5432".to_owned()),
            false => Err(OperationError::new(sqlstate::INVALID_PARAMETER, "not a Postgres URL")),
        }
    }

    /// A source of the database `replica` has the wrong wal_level.
    async fn preflight(&self, _: &Caller, request: SourceRequest) -> Outcome<Vec<PreflightRow>> {
        let verdict = |status| PreflightRow {
            kind: PreflightKind::Verdict,
            detail: None,
            ..check(2, "verdict", status, "")
        };
        Ok(match request.url.reveal().ends_with("/replica") {
            true => vec![
                check(1, "wal level", PreflightStatus::Fail, "actual: replica"),
                verdict(PreflightStatus::Fail),
            ],
            false => vec![
                check(1, "wal level", PreflightStatus::Pass, "actual: logical"),
                verdict(PreflightStatus::Pass),
            ],
        })
    }

    async fn create_connector(
        &self,
        caller: &Caller,
        request: CreateConnectorRequest,
        progress: Progress,
    ) -> Outcome<CreateConnectorOutcome> {
        let report = self.preflight(caller, request.source).await?;
        if report.iter().any(|row| row.status == PreflightStatus::Fail) {
            return Ok(CreateConnectorOutcome::Refused(report));
        }
        progress.report("copying public.orders: 1 MB of 2 MB");
        let name = request.name.unwrap_or_else(|| "app".parse().unwrap());
        // Without --accept-... this source has a table to decide on.
        let row = match request.decisions.accept_defaults {
            true => connector(name, ConnectorState::Ready),
            false => ConnectorRow {
                undecided: vec!["public.audit".to_owned()],
                ..connector(name, ConnectorState::SetupPending)
            },
        };
        Ok(CreateConnectorOutcome::Created(row))
    }

    async fn list_connectors(&self, _: &Caller) -> Outcome<Vec<ConnectorRow>> {
        let other = ConnectorRow {
            current: false,
            ..connector("staging-db".parse().unwrap(), ConnectorState::SetupPending)
        };
        Ok(vec![connector("prod-db".parse().unwrap(), ConnectorState::Ready), other])
    }

    async fn connector_status(
        &self,
        _: &Caller,
        name: Option<Name>,
    ) -> Outcome<Vec<ConnectorStatusRow>> {
        Ok(vec![ConnectorStatusRow {
            name: name.unwrap_or_else(|| "prod-db".parse().unwrap()),
            state: ConnectorState::Ready,
            warnings: Vec::new(),
            plugin: Some("wal2json".to_owned()),
            ddl_mode: None,
            received_lsn: Some(Lsn(0x155_BE40)),
            applied_lsn: Some(Lsn(0x155_BE40)),
            confirmed_lsn: None,
            lag_bytes: Some(0),
            retained_wal_bytes: Some(1_572_864),
            slot: Some("ardent_c1".to_owned()),
            phase: Some("streaming".to_owned()),
            bytes_done: None,
            bytes_total: None,
            error: None,
            oldest_transaction: None,
            copy: None,
            verification: None,
        }])
    }

    async fn switch_connector(&self, _: &Caller, name: Name) -> Outcome<SwitchRow> {
        Ok(SwitchRow { previous: Some("prod-db".to_owned()), name, url: None })
    }

    async fn verify_connector(
        &self,
        _: &Caller,
        request: VerifyRequest,
    ) -> Outcome<Vec<VerifyRow>> {
        Ok(vec![VerifyRow {
            object: "app".to_owned(),
            kind: "database".to_owned(),
            verdict: "carried",
            detail: request.sample.map(|rows| format!("{rows} rows")),
        }])
    }

    async fn retry_setup(
        &self,
        _: &Caller,
        request: RetrySetupRequest,
        _: Progress,
    ) -> Outcome<RetrySetupOutcome> {
        let connector = connector(request.name, ConnectorState::Ready);
        Ok(RetrySetupOutcome { connector, no_work_needed: true })
    }

    async fn delete_connector(
        &self,
        _: &Caller,
        name: Name,
        force: bool,
        _: Progress,
    ) -> Outcome<ConnectorDeleteRow> {
        let branches: Vec<_> = self.branches.lock().unwrap().keys().cloned().collect();
        if !branches.is_empty() && !force {
            let message = format!("connector \"{name}\" has branches");
            let error = OperationError::new(sqlstate::DEPENDENTS_EXIST, message);
            return Err(error.with_detail(branches.join(", ")));
        }
        Ok(ConnectorDeleteRow { name, branches })
    }

    async fn create_branch(&self, _: &Caller, request: CreateBranchRequest) -> Outcome<BranchRow> {
        let name = request.name;
        let url = format!("postgresql://branch_owner.{name}:secret@127.0.0.1:6432/app");
        let row = BranchRow {
            connector: "prod-db".parse().unwrap(),
            status: BranchStatus::Active,
            url: Some(Secret::new(url)),
            lsn: Some(Lsn(0x155_BE40)),
            commit_time: None,
            stale: false,
            unique_bytes: Some(1_258_291),
            shared_bytes: Some(104_857_600),
            reclaimable_bytes: Some(0),
            parent: request.from,
            created_at: noon(),
            compute_socket: None,
            current: true,
            warnings: Vec::new(),
            max_size_bytes: request.max_size_bytes.and_then(|bytes| bytes.try_into().ok()),
            name: name.clone(),
        };
        self.branches.lock().unwrap().insert(name.to_string(), row.clone());
        Ok(row)
    }

    async fn list_branches(&self, _: &Caller) -> Outcome<Vec<BranchSummaryRow>> {
        let branches = self.branches.lock().unwrap();
        let summary = |row: &BranchRow| BranchSummaryRow {
            name: row.name.clone(),
            connector: row.connector.clone(),
            status: row.status,
            created_at: row.created_at,
            idle: Some(Duration::from_secs(150)),
            current: row.current,
            warnings: Vec::new(),
        };
        Ok(branches.values().map(summary).collect())
    }

    async fn branch_info(&self, _: &Caller, name: Option<Name>) -> Outcome<BranchRow> {
        let branches = self.branches.lock().unwrap();
        let name = name.map_or_else(|| "(none)".to_owned(), |name| name.to_string());
        branches.get(&name).cloned().ok_or_else(|| absent("branch", &name))
    }

    async fn switch_branch(&self, caller: &Caller, name: Name) -> Outcome<SwitchRow> {
        let row = self.branch_info(caller, Some(name)).await?;
        Ok(SwitchRow { previous: None, name: row.name, url: row.url })
    }

    async fn delete_branch(&self, _: &Caller, name: Name) -> Outcome<()> {
        let gone = self.branches.lock().unwrap().remove(name.as_str());
        gone.map(drop).ok_or_else(|| absent("branch", name.as_str()))
    }

    async fn rotate_password(&self, caller: &Caller, name: Name) -> Outcome<BranchRow> {
        self.branch_info(caller, Some(name)).await
    }

    async fn lock_connector(
        &self,
        caller: &Caller,
        name: Name,
        reason: Option<String>,
    ) -> Outcome<ConnectorRow> {
        let rows = self.list_connectors(caller).await?;
        let row = rows.into_iter().find(|row| row.name == name);
        let row = row.ok_or_else(|| absent("connector", name.as_str()))?;
        Ok(ConnectorRow { locked: reason, ..row })
    }

    async fn update_connector(
        &self,
        name: Name,
        drop_extensions: Vec<String>,
    ) -> Outcome<ConnectorUpdateRow> {
        Ok(ConnectorUpdateRow { name, drop_extensions })
    }

    async fn list_settings(&self, _: &Caller) -> Outcome<Vec<SettingRow>> {
        Ok(vec![
            setting(SettingKey::DefaultDb, Some("myapp")),
            setting(SettingKey::BranchSql, None),
        ])
    }

    async fn set_setting(&self, _: &Caller, change: SettingChange) -> Outcome<SettingRow> {
        Ok(match change {
            SettingChange::BranchSql(hook) => SettingRow {
                hook: hook.name.or(Some("branch_sql".to_owned())),
                ..setting(SettingKey::BranchSql, Some(&hook.sql))
            },
            SettingChange::DefaultDb(name) => setting(SettingKey::DefaultDb, Some(&name)),
            SettingChange::SuspendAfter(_) => setting(SettingKey::SuspendAfter, Some("5min")),
            SettingChange::FreshnessTimeout(_) => {
                setting(SettingKey::FreshnessTimeout, Some("30s"))
            }
        })
    }

    async fn remove_setting(&self, _: &Caller, _: SettingKey, hook: Option<String>) -> Outcome<()> {
        hook.map_or(Ok(()), |name| Err(absent("hook", &name)))
    }

    async fn create_environment(
        &self,
        request: CreateEnvironmentRequest,
    ) -> Outcome<EnvironmentRow> {
        Ok(EnvironmentRow {
            name: request.name,
            address: "socks5://h:1".to_owned(),
            private_links: Vec::new(),
            connectors: Vec::new(),
            created_at: noon(),
        })
    }

    async fn list_environments(&self) -> Outcome<Vec<EnvironmentRow>> {
        Ok(Vec::new())
    }

    async fn delete_environment(&self, name: &str) -> Outcome<()> {
        Err(absent("environment", name))
    }

    async fn create_private_link(
        &self,
        request: CreatePrivateLinkRequest,
    ) -> Outcome<PrivateLinkRow> {
        Ok(PrivateLinkRow {
            name: request.name,
            environment: request.environment,
            endpoint: request.endpoint,
            connectors: Vec::new(),
            created_at: noon(),
        })
    }

    async fn list_private_links(&self) -> Outcome<Vec<PrivateLinkRow>> {
        Ok(Vec::new())
    }

    async fn delete_private_link(&self, name: &str) -> Outcome<()> {
        Err(absent("private link", name))
    }

    async fn list_quarantine(&self, _: &Caller, _: Name) -> Outcome<Vec<QuarantineRow>> {
        Ok(vec![QuarantineRow {
            table: "public.a".to_owned(),
            is_copying: false,
            reason: "duplicate key".to_owned(),
            since: SystemTime::UNIX_EPOCH,
        }])
    }

    async fn release_quarantine(
        &self,
        caller: &Caller,
        name: Name,
        table: String,
    ) -> Outcome<QuarantineRow> {
        let rows = self.list_quarantine(caller, name).await?;
        let row = rows.into_iter().find(|row| row.table == table);
        let row = row.ok_or_else(|| absent("table", &table))?;
        Ok(QuarantineRow { is_copying: true, ..row })
    }

    async fn create_role(&self, role: RoleRecord) -> Outcome<()> {
        self.roles.lock().unwrap().insert(role.name.clone(), role);
        Ok(())
    }

    async fn list_roles(&self) -> Outcome<Vec<RoleRecord>> {
        Ok(self.roles.lock().unwrap().values().cloned().collect())
    }

    async fn role(&self, name: &str) -> Option<RoleRecord> {
        self.roles.lock().unwrap().get(name).cloned()
    }

    async fn delete_role(&self, name: &str) -> Outcome<()> {
        let gone = self.roles.lock().unwrap().remove(name);
        gone.map(drop).ok_or_else(|| absent("role", name))
    }

    async fn computes(&self) -> Outcome<Vec<ComputeRow>> {
        Ok(Vec::new())
    }

    async fn sessions(&self) -> Outcome<Vec<SessionRow>> {
        let session = SessionRow {
            endpoint: None,
            role: "ops".to_owned(),
            client: "unix".to_owned(),
            connected_at: noon(),
            id: 7,
            state: "idle".to_owned(),
            backend_pid: None,
            bytes_in: 0,
            bytes_out: 0,
        };
        Ok(vec![session])
    }

    async fn metrics(&self) -> Outcome<Vec<proxy::Sample>> {
        let labels = vec![("state", "idle".to_owned())];
        Ok(vec![proxy::Sample { name: "ardent_proxy_sessions", labels, value: 2.0 }])
    }

    async fn jobs(&self) -> Outcome<Vec<crate::admin::row::JobRow>> {
        Ok(Vec::new())
    }

    fn config(&self) -> Outcome<Vec<ConfigRow>> {
        Ok(Vec::new())
    }
}

/// A role of a level, with the password `secret`.
pub(super) fn role(name: &str, level: Level) -> RoleRecord {
    let verifier = proxy::ScramVerifier::from_password("secret").unwrap();
    let verifier = Secret::new(verifier.to_string());
    RoleRecord { name: name.to_owned(), level, verifier, created_at: noon() }
}
