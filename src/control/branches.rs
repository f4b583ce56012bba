//! Branch operations.

use std::sync::Arc;

use storage::Usage;

use super::{ControlPlane, refuse, rows};
use crate::admin::request::{CreateBranchRequest, Level};
use crate::admin::row::{BranchRow, BranchStatus, BranchSummaryRow, ComputeRow, SwitchRow};
use crate::admin::{Caller, OperationError, Outcome, sqlstate};
use crate::branch::{BranchError, CreateBranch, UrlParts};
use crate::catalog::{BranchRecord, BranchState, Selection};
use crate::cause::Causes;
use crate::connector::Connector;
use crate::name::Name;
use crate::postgres::ComputeKind;
use crate::secret::Secret;

type ConnectorAndBranch = (Arc<Connector>, Arc<BranchRecord>);

impl ControlPlane {
    /// The named branch of the caller's connector, or the caller's current one.
    pub(super) fn selected_branch(
        &self,
        caller: &Caller,
        name: Option<Name>,
    ) -> Outcome<ConnectorAndBranch> {
        let connector = self.current_connector(caller)?;
        let name = match name {
            Some(name) => name.to_string(),
            None => self.selection(caller)?.branch.ok_or_else(|| {
                OperationError::new(sqlstate::UNDEFINED_OBJECT, "no branch is selected")
                    .with_hint("Name one, or select one: ardent branch switch <name>")
            })?,
        };
        let branch = self.0.branches.find(connector.id(), &name).map_err(refuse::branch)?;
        Ok((connector, branch))
    }

    pub(super) async fn do_create_branch(
        &self,
        caller: &Caller,
        request: CreateBranchRequest,
    ) -> Outcome<BranchRow> {
        let connector = self.current_connector(caller)?;
        let create = CreateBranch {
            connector: connector.clone(),
            name: request.name.clone(),
            from: request.from,
            role: request.role,
            max_size_bytes: request.max_size_bytes,
            freshness_timeout: request.freshness_timeout,
        };
        let branch = self.0.branches.create(create).await.map_err(refuse::branch)?;
        let selection = Selection {
            connector: Some(connector.name().to_owned()),
            branch: Some(request.name.to_string()),
        };
        // The store is asked while the disk takes the selection.
        let select = async { self.select(caller, &selection) };
        let (usage, selected) = tokio::join!(self.0.branches.usage(&branch), select);
        selected?;
        self.branch_row_of(caller, &connector, &branch, usage).await
    }

    pub(super) async fn branch_row(
        &self,
        caller: &Caller,
        connector: &Connector,
        branch: &BranchRecord,
    ) -> Outcome<BranchRow> {
        let usage = self.0.branches.usage(branch).await;
        self.branch_row_of(caller, connector, branch, usage).await
    }

    async fn branch_row_of(
        &self,
        caller: &Caller,
        connector: &Connector,
        branch: &BranchRecord,
        usage: Result<Usage, BranchError>,
    ) -> Outcome<BranchRow> {
        let compute = self.0.computes.running(branch.number).await;
        let parent = branch.made.parent.and_then(|parent| self.0.branches.by_number(parent));
        let mut warnings = rows::warnings(connector);
        warnings.extend(match &usage {
            Ok(usage) => usage.failed.as_ref().map(|reason| format!("storage failed: {reason}")),
            Err(error) => Some(format!("its size is not known now: {}", Causes(error))),
        });
        let bytes =
            |of: fn(&Usage) -> u64| usage.as_ref().ok().and_then(|usage| rows::count(of(usage)));
        warnings.extend(branch.failure.clone());
        if branch.stale {
            warnings.push("the source's position was not reached before the cut".to_owned());
        }
        Ok(BranchRow {
            name: rows::name(&branch.made.name)?,
            connector: rows::name(connector.name())?,
            status: status(branch, compute.is_some()),
            url: self.branch_url(caller, connector, branch)?,
            lsn: branch.lsn,
            commit_time: branch.commit_time,
            stale: branch.stale,
            unique_bytes: bytes(|usage| usage.unique_bytes),
            shared_bytes: bytes(|usage| usage.shared_bytes),
            reclaimable_bytes: bytes(|usage| usage.reclaimable_bytes),
            parent: parent.map(|parent| rows::name(&parent.made.name)).transpose()?,
            created_at: branch.created_at,
            compute_socket: compute.map(|c| c.socket_dir().display().to_string()),
            current: self.is_current(caller, branch)?,
            max_size_bytes: branch.made.max_size_bytes.and_then(rows::count),
            warnings,
        })
    }

    /// The URL with its password; viewers do not see it.
    fn branch_url(
        &self,
        caller: &Caller,
        connector: &Connector,
        branch: &BranchRecord,
    ) -> Outcome<Option<Secret>> {
        let (Some(endpoint), Some(sealed)) = (&branch.made.endpoint, &branch.made.password) else {
            return Ok(None);
        };
        if caller.level < Level::Operator || branch.state == BranchState::Failed {
            return Ok(None);
        }
        let password = self.0.key.open(sealed).map_err(|error| refuse::internal(&error))?;
        let url = self.0.address.branch_url(UrlParts {
            role: &branch.made.role,
            password: &password,
            endpoint,
            database: branch.made.default_database.as_deref().unwrap_or(connector.database()),
        });
        Ok(Some(Secret::new(url)))
    }

    fn is_current(&self, caller: &Caller, branch: &BranchRecord) -> Outcome<bool> {
        Ok(self.selection(caller)?.branch.as_deref() == Some(branch.made.name.as_str()))
    }

    pub(super) fn do_list_branches(&self, caller: &Caller) -> Outcome<Vec<BranchSummaryRow>> {
        let connector = self.current_connector(caller)?;
        let running = self.0.computes.list();
        let mut listed = Vec::new();
        for branch in self.0.branches.of_connector(connector.id()) {
            let is_running = running.iter().any(|c| c.target.branch == branch.number);
            listed.push(BranchSummaryRow {
                name: rows::name(&branch.made.name)?,
                connector: rows::name(connector.name())?,
                status: status(&branch, is_running),
                created_at: branch.created_at,
                idle: self.0.computes.idle_for(branch.number),
                current: self.is_current(caller, &branch)?,
                warnings: branch.failure.iter().cloned().collect(),
            });
        }
        Ok(listed)
    }

    pub(super) fn do_switch_branch(&self, caller: &Caller, name: Name) -> Outcome<SwitchRow> {
        let (connector, branch) = self.selected_branch(caller, Some(name.clone()))?;
        let previous = self.selection(caller)?.branch;
        let selection = Selection {
            connector: Some(connector.name().to_owned()),
            branch: Some(name.to_string()),
        };
        self.select(caller, &selection)?;
        Ok(SwitchRow { previous, name, url: self.branch_url(caller, &connector, &branch)? })
    }

    pub(super) async fn do_delete_branch(&self, caller: &Caller, name: Name) -> Outcome<()> {
        let connector = self.current_connector(caller)?;
        let deleted = self.0.branches.delete(connector.id(), name.as_str()).await;
        deleted.map_err(refuse::branch)?;
        let mut selection = self.selection(caller)?;
        if selection.branch.as_deref() == Some(name.as_str()) {
            selection.branch = None;
            self.select(caller, &selection)?;
        }
        Ok(())
    }

    pub(super) fn do_list_computes(&self) -> Outcome<Vec<ComputeRow>> {
        let connectors = self.0.connectors.list();
        let branches = self.0.catalog.branches().map_err(refuse::catalog)?;
        let mut listed = Vec::new();
        for compute in self.0.computes.list() {
            let Some(branch) = branches.iter().find(|b| b.number == compute.target.branch) else {
                continue;
            };
            let connector = connectors.iter().find(|c| c.id() == branch.made.connector);
            let Some(connector) = connector else { continue };
            let is_trunk = compute.target.kind != ComputeKind::Branch;
            listed.push(ComputeRow {
                branch: if is_trunk {
                    format!("trunk of {}", connector.name())
                } else {
                    branch.made.name.clone()
                },
                connector: rows::name(connector.name())?,
                state: compute.phase.as_str().to_owned(),
                pid: compute.process.map(|(pid, _)| i64::from(pid)),
                major: Some(i64::from(compute.target.major)),
                started_at: compute.process.map(|(_, started_at)| started_at),
                sessions: i64::try_from(compute.leases).unwrap_or(i64::MAX),
            });
        }
        listed.sort_by_key(|row| !row.branch.starts_with("trunk of "));
        Ok(listed)
    }
}

fn status(branch: &BranchRecord, is_running: bool) -> BranchStatus {
    match (branch.state, is_running) {
        (BranchState::Creating, _) => BranchStatus::Creating,
        (BranchState::Failed, _) => BranchStatus::Failed,
        (BranchState::Deleting, _) => BranchStatus::Deleting,
        (BranchState::Active, true) => BranchStatus::Active,
        (BranchState::Active, false) => BranchStatus::Suspended,
    }
}
