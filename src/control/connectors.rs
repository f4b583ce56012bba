//! Connector operations.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};

use super::source::NamedRoute;
use super::{ControlPlane, refuse, rows, source};
use crate::admin::request::{CreateConnectorRequest, Decisions, RetrySetupRequest, VerifyRequest};
use crate::admin::row::{
    ConnectorDeleteRow, ConnectorRow, CreateConnectorOutcome, QuarantineRow, RetrySetupOutcome,
    SwitchRow, VerifyRow,
};
use crate::admin::{Caller, OperationError, Outcome, Progress, sqlstate};
use crate::catalog::{ConnectorState, NewConnector, Selection, Verification};
use crate::connector::{Connector, ConnectorView};
use crate::name::Name;
use crate::replication::{Comparison, Scope, Verdict};
use crate::source::{Identity, Plugin, PluginChoice, PreflightOptions, SourceUrl};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Longest wait of a deletion without FORCE for the stream to catch up.
const DRAIN_MAX: Duration = Duration::from_secs(60);

impl ControlPlane {
    pub(super) fn connector(&self, name: &str) -> Outcome<Arc<Connector>> {
        self.0.connectors.find(name).map_err(refuse::connector)
    }

    /// The caller's current connector; the only one there is, where nothing was selected.
    pub(super) fn current_connector(&self, caller: &Caller) -> Outcome<Arc<Connector>> {
        let selected = self.selection(caller)?.connector;
        let selected = selected.and_then(|name| self.0.connectors.find(&name).ok());
        let connectors = self.0.connectors.list();
        match (selected, connectors.as_slice()) {
            (Some(connector), _) => Ok(connector),
            (None, [only]) => Ok(only.clone()),
            (None, []) => {
                Err(OperationError::new(sqlstate::UNDEFINED_OBJECT, "no connector exists yet")
                    .with_hint("Create one: ardent connector create postgresql '<url>'"))
            }
            (None, _) => {
                Err(OperationError::new(sqlstate::UNDEFINED_OBJECT, "no connector is selected")
                    .with_hint("Select one: ardent connector switch <name>"))
            }
        }
    }

    pub(super) fn selection(&self, caller: &Caller) -> Outcome<Selection> {
        self.0.catalog.selection(&caller.operator).map_err(refuse::catalog)
    }

    pub(super) fn select(&self, caller: &Caller, selection: &Selection) -> Outcome<()> {
        self.0.catalog.set_selection(&caller.operator, selection).map_err(refuse::catalog)
    }

    pub(super) fn connector_row(
        &self,
        caller: &Caller,
        connector: &Connector,
    ) -> Outcome<ConnectorRow> {
        let current = self.current_connector(caller).is_ok_and(|now| now.id() == connector.id());
        rows::connector(connector, current)
    }

    pub(super) async fn do_create_connector(
        &self,
        caller: &Caller,
        request: CreateConnectorRequest,
        progress: Progress,
    ) -> Outcome<CreateConnectorOutcome> {
        if let Some(name) = &request.name
            && self.0.connectors.find(name.as_str()).is_ok()
        {
            let message = format!("connector \"{name}\" already exists");
            return Err(OperationError::new(sqlstate::DUPLICATE_OBJECT, message)
                .with_hint("Choose another name."));
        }
        let report = self.check_source(&request.source).await?;
        let (true, Some(identity), Some(plugin)) = (report.passed, report.identity, report.plugin)
        else {
            return Ok(CreateConnectorOutcome::Refused(rows::preflight(&report)));
        };
        let settled = source::decide(&request.decisions, &report.undecided)?;
        let new = self.new_connector(&request, (identity, plugin), settled.decisions)?;
        let connector = match (settled.open.is_empty(), request.setup) {
            (true, true) => self.0.connectors.create(&new),
            (true, false) => self.0.connectors.create_pending(&new, rows::SETUP_NOT_BEGUN),
            (false, _) => {
                let message = rows::undecided_message(&settled.open);
                self.0.connectors.create_pending(&new, &message)
            }
        };
        let connector = connector.map_err(refuse::connector)?;
        let selection = Selection { connector: Some(new.name), branch: None };
        self.select(caller, &selection)?;
        if request.wait {
            follow_setup(&connector, &progress).await;
        }
        let mut row = self.connector_row(caller, &connector)?;
        row.undecided = settled.open;
        Ok(CreateConnectorOutcome::Created(row))
    }

    fn new_connector(
        &self,
        request: &CreateConnectorRequest,
        (identity, plugin): (Identity, Plugin),
        decisions: String,
    ) -> Outcome<NewConnector> {
        let url = source::parse(&request.source.url)?;
        let route = self.route(&request.source)?;
        let name = match &request.name {
            Some(name) => name.to_string(),
            None => self.derived_name(&url),
        };
        Ok(NewConnector {
            name,
            url: self.0.connectors.seal(&request.source.url),
            schemas: request.source.schemas.clone(),
            decisions,
            plugin: plugin.as_str().to_owned(),
            system_identifier: identity.system_identifier.to_string(),
            database_oid: identity.database_oid,
            database: url.database().to_owned(),
            environment: route.as_ref().map(|route| route.environment.clone()),
            private_link: route.and_then(|route| route.private_link),
            drop_extensions: Vec::new(),
        })
    }

    /// The database's name as far as it can be a name, with a number where that is taken.
    fn derived_name(&self, url: &SourceUrl) -> String {
        let lower = url.database().to_lowercase();
        let parts: Vec<_> =
            lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|s| !s.is_empty()).collect();
        let mut stem = parts.join("-");
        stem.truncate(crate::name::NAME_BYTES_MAX - 6);
        let stem = match stem.trim_end_matches('-') {
            "" => "connector",
            stem => stem,
        };
        let numbered = (2_u32..).map(|number| format!("{stem}-{number}"));
        std::iter::once(stem.to_owned())
            .chain(numbered)
            .find(|name| self.0.connectors.find(name).is_err())
            .unwrap_or_else(|| stem.to_owned())
    }

    /// The table is named as QUARANTINE LIST shows it, whatever its name contains.
    pub(super) async fn do_release_quarantine(
        &self,
        name: Name,
        table: &str,
    ) -> Outcome<QuarantineRow> {
        let connector = self.connector(name.as_str())?;
        let tables = connector.view().status.quarantined;
        let found = tables.into_iter().find(|entry| entry.table.to_string() == table);
        let absent = || {
            let message = format!("table \"{table}\" is not in quarantine");
            OperationError::new(sqlstate::UNDEFINED_OBJECT, message)
                .with_hint(format!("ARDENT CONNECTOR QUARANTINE LIST {name} shows which are."))
        };
        let entry = found.ok_or_else(absent)?;
        if !connector.release(entry.table.clone()).await.map_err(refuse::connector)? {
            return Err(absent());
        }
        Ok(QuarantineRow { is_copying: true, ..rows::quarantined(&entry) })
    }

    pub(super) fn do_switch_connector(&self, caller: &Caller, name: Name) -> Outcome<SwitchRow> {
        self.connector(name.as_str())?;
        let previous = self.current_connector(caller).ok().map(|now| now.name().to_owned());
        let selection = Selection { connector: Some(name.to_string()), branch: None };
        self.select(caller, &selection)?;
        Ok(SwitchRow { previous, name, url: None })
    }

    pub(super) async fn do_verify_connector(
        &self,
        caller: &Caller,
        request: VerifyRequest,
    ) -> Outcome<Vec<VerifyRow>> {
        let connector = match &request.name {
            Some(name) => self.connector(name.as_str())?,
            None => self.current_connector(caller)?,
        };
        let scope = Scope {
            tables: request.tables,
            sample: request.sample,
            limit: Duration::from_secs(self.0.config.current().replication.verify_timeout_s),
        };
        let is_narrow = !scope.tables.is_empty() || scope.sample.is_some();
        let comparison = self.0.branches.verify(connector.clone(), scope).await;
        let comparison = comparison.map_err(refuse::branch)?;
        self.remember(&connector, &comparison, is_narrow)?;
        Ok(comparison.findings.into_iter().map(rows::finding).collect())
    }

    /// A look at less than everything adds what it found where nothing was known, and acquits
    /// nothing.
    fn remember(
        &self,
        connector: &Connector,
        comparison: &Comparison,
        is_narrow: bool,
    ) -> Outcome<()> {
        let is_whole = !is_narrow && comparison.count(Verdict::NotCompared) == 0;
        let different = comparison.count(Verdict::Different);
        let differed = connector.verification().is_some_and(|before| before.differences > 0);
        if !is_whole && (different == 0 || differed) {
            return Ok(());
        }
        let verification = Verification {
            lsn: comparison.lsn,
            at: SystemTime::now(),
            differences: u64::try_from(different).unwrap_or(u64::MAX),
        };
        self.0.connectors.set_verification(connector, verification).map_err(refuse::connector)
    }

    pub(super) async fn do_retry_setup(
        &self,
        caller: &Caller,
        request: RetrySetupRequest,
        progress: Progress,
    ) -> Outcome<RetrySetupOutcome> {
        let connector = self.connector(request.name.as_str())?;
        let state = connector.view().state;
        let no_work_needed = state == ConnectorState::Ready;
        let mut open = Vec::new();
        match state {
            ConnectorState::SetupPending | ConnectorState::Broken => {
                let settled = self.settle_again(&connector, &request.decisions).await?;
                open = settled.open;
                if open.is_empty() && request.setup {
                    let retried = connector.retry_setup(Some(settled.decisions)).await;
                    retried.map_err(refuse::connector)?;
                }
            }
            ConnectorState::Validating => refuse_new_decisions(&connector, &request.decisions)?,
            ConnectorState::Ready | ConnectorState::Deleting => {}
        }
        if open.is_empty() && request.setup {
            follow_setup(&connector, &progress).await;
        }
        let mut row = self.connector_row(caller, &connector)?;
        row.undecided = open;
        Ok(RetrySetupOutcome { connector: row, no_work_needed })
    }

    /// Looks at the source again: decisions of an earlier attempt still count.
    async fn settle_again(
        &self,
        connector: &Connector,
        decisions: &Decisions,
    ) -> Outcome<source::Settled> {
        let mut decisions = decisions.clone();
        let stored = serde_json::from_str(&connector.decisions())
            .map_err(|error| refuse::internal(&error))?;
        for (table, decision) in rows::decisions(stored) {
            decisions.tables.entry(table).or_insert(decision);
        }
        let made = connector.made();
        let plugin = Plugin::named(&made.plugin).map_or(PluginChoice::Auto, PluginChoice::Only);
        let options = PreflightOptions {
            schemas: made.schemas.clone(),
            plugin,
            ..PreflightOptions::default()
        };
        let route = NamedRoute::of(connector);
        let report = self.look_at(connector.source(), route.as_ref(), options, false).await?;
        if !report.passed {
            let message = "the source does not pass preflight";
            return Err(OperationError::new(sqlstate::WRONG_STATE, message)
                .with_detail(rows::failures(&report))
                .with_hint("ardent connector preflight shows the whole report."));
        }
        source::decide(&decisions, &report.undecided)
    }

    pub(super) async fn do_delete_connector(
        &self,
        name: Name,
        force: bool,
        progress: Progress,
    ) -> Outcome<ConnectorDeleteRow> {
        let connector = self.connector(name.as_str())?;
        if let Some(reason) = connector.locked() {
            return Err(locked(&name, &reason));
        }
        if let ConnectorView { state: ConnectorState::Deleting, message, .. } = connector.view() {
            let refused = format!("connector \"{name}\" is being deleted");
            let reason = message.unwrap_or_else(|| "it will be gone in a moment".to_owned());
            return Err(OperationError::new(sqlstate::WRONG_STATE, refused)
                .with_detail(format!("{reason}."))
                .with_hint("Its removal is tried again until it succeeds."));
        }
        let branches = self.0.branches.of_connector(connector.id());
        let names: Vec<_> = branches.iter().map(|branch| branch.made.name.clone()).collect();
        if !names.is_empty() && !force {
            let message = format!("connector \"{name}\" has branches");
            return Err(OperationError::new(sqlstate::DEPENDENTS_EXIST, message)
                .with_detail(format!("Branches: {}.", names.join(", ")))
                .with_hint("Delete them first, or use FORCE to delete them too."));
        }
        for branch in &names {
            progress.report(&format!("deleting branch {branch}"));
            self.0.branches.delete(connector.id(), branch).await.map_err(refuse::branch)?;
        }
        let drain = (!force).then_some(DRAIN_MAX);
        connector.delete(drain).await.map_err(refuse::connector)?;
        Ok(ConnectorDeleteRow { name, branches: names })
    }
}

/// Setup that runs was begun with decisions; others than those would change what it copies.
fn refuse_new_decisions(connector: &Connector, given: &Decisions) -> Outcome<()> {
    let stored =
        serde_json::from_str(&connector.decisions()).map_err(|error| refuse::internal(&error))?;
    let stored = rows::decisions(stored);
    if given.tables.iter().all(|(table, decision)| stored.get(table) == Some(decision)) {
        return Ok(());
    }
    let message = "replica identity decisions cannot be changed while setup is already in progress";
    Err(OperationError::new(sqlstate::WRONG_STATE, message).with_hint(
        "Wait for the current setup attempt to finish, then retry if the connector still shows \
         setup pending.",
    ))
}

fn locked(name: &Name, reason: &str) -> OperationError {
    let message = format!("connector \"{name}\" is locked against deletion");
    let refused = OperationError::new(sqlstate::WRONG_STATE, message)
        .with_hint(format!("Allow it again: ardent connector unlock {name}"));
    match reason {
        "" => refused,
        reason => refused.with_detail(format!("Reason: {reason}.")),
    }
}

/// Tells how far setup is until it has ended.
async fn follow_setup(connector: &Connector, progress: &Progress) {
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let settled = connector.settled();
    tokio::pin!(settled);
    let mut told = String::new();
    loop {
        tokio::select! {
            _ = &mut settled => return,
            _ = ticks.tick() => {
                let line = progress_line(&connector.view());
                if line != told {
                    progress.report(&line);
                    told = line;
                }
            }
        }
    }
}

fn progress_line(view: &ConnectorView) -> String {
    let Some(setup) = &view.setup else { return "preparing trunk".to_owned() };
    let stage = setup.stage.as_str();
    match setup.copying.first() {
        Some(first) => format!(
            "{stage} {}: {} of {} ({} of {} tables)",
            first.table,
            rows::bytes(setup.bytes_done),
            rows::bytes(setup.bytes_total),
            setup.tables_done,
            setup.tables_total,
        ),
        None => stage.to_owned(),
    }
}
