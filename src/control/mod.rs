//! What the admin SQL asks for, done with connectors and branches: looks names up, keeps what each
//! operator has selected, and turns records into the rows that operators see.
//!
//! Must never: show a URL's password to a viewer, or put one into an error.

mod branches;
mod connectors;
mod measure;
mod networks;
mod refuse;
mod rows;
mod settings;
mod source;

use std::sync::Arc;
use std::time::SystemTime;

use proxy::{Sample, Settings};

use crate::admin::request::{
    CreateBranchRequest, CreateConnectorRequest, CreateEnvironmentRequest,
    CreatePrivateLinkRequest, RetrySetupRequest, SettingChange, SourceRequest, VerifyRequest,
};
use crate::admin::row::{
    BranchRow, BranchSummaryRow, ComputeRow, ConfigRow, ConnectorDeleteRow, ConnectorRow,
    ConnectorStatusRow, ConnectorUpdateRow, CreateConnectorOutcome, EnvironmentRow, JobRow,
    PreflightRow, PrivateLinkRow, QuarantineRow, RetrySetupOutcome, RoleRecord, SessionRow,
    SettingRow, SwitchRow, VerifyRow,
};
use crate::admin::{Caller, Operations, Outcome, Progress};
use crate::branch::{Branches, FrontDoorAddress};
use crate::catalog::{Catalog, SettingKey};
use crate::compute::Computes;
use crate::config::LiveConfig;
use crate::connector::Connectors;
use crate::job::Jobs;
use crate::name::Name;
use crate::secret::{Secret, SecretKey};

/// What the control plane works with.
pub struct ControlServices {
    /// Configuration in force.
    pub config: LiveConfig,
    /// What else there is to know of this server's setup: addresses, paths.
    pub facts: Vec<ConfigRow>,
    /// Operators and their selections.
    pub catalog: Arc<Catalog>,
    /// Opens branch passwords.
    pub key: Arc<SecretKey>,
    /// All connectors.
    pub connectors: Arc<Connectors>,
    /// All branches.
    pub branches: Arc<Branches>,
    /// All computes.
    pub computes: Computes,
    /// What the front door lists and counts.
    pub front_door: Settings,
    /// Long operations that are under way.
    pub jobs: Jobs,
    /// When this server started.
    pub started_at: SystemTime,
    /// What branch URLs show.
    pub address: FrontDoorAddress,
}

/// The control plane.
pub struct ControlPlane(ControlServices);

impl ControlPlane {
    /// A control plane over these parts.
    pub fn new(services: ControlServices) -> Self {
        Self(services)
    }
}

impl Operations for ControlPlane {
    fn source_address(&self, url: &Secret) -> Outcome<String> {
        Ok(source::parse(url)?.address())
    }

    async fn preflight(
        &self,
        _caller: &Caller,
        request: SourceRequest,
    ) -> Outcome<Vec<PreflightRow>> {
        let report = self.check_source(&request).await?;
        Ok(rows::preflight(&report))
    }

    async fn create_connector(
        &self,
        caller: &Caller,
        request: CreateConnectorRequest,
        progress: Progress,
    ) -> Outcome<CreateConnectorOutcome> {
        self.do_create_connector(caller, request, progress).await
    }

    async fn list_connectors(&self, caller: &Caller) -> Outcome<Vec<ConnectorRow>> {
        let connectors = self.0.connectors.list();
        let mut listed: Vec<_> = connectors
            .iter()
            .map(|connector| self.connector_row(caller, connector))
            .collect::<Outcome<_>>()?;
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    async fn connector_status(
        &self,
        _caller: &Caller,
        name: Option<Name>,
    ) -> Outcome<Vec<ConnectorStatusRow>> {
        let connectors = match name {
            Some(name) => vec![self.connector(name.as_str())?],
            None => self.0.connectors.list(),
        };
        connectors.iter().map(|connector| rows::connector_status(connector)).collect()
    }

    async fn switch_connector(&self, caller: &Caller, name: Name) -> Outcome<SwitchRow> {
        self.do_switch_connector(caller, name)
    }

    async fn verify_connector(
        &self,
        caller: &Caller,
        request: VerifyRequest,
    ) -> Outcome<Vec<VerifyRow>> {
        self.do_verify_connector(caller, request).await
    }

    async fn retry_setup(
        &self,
        caller: &Caller,
        request: RetrySetupRequest,
        progress: Progress,
    ) -> Outcome<RetrySetupOutcome> {
        self.do_retry_setup(caller, request, progress).await
    }

    async fn delete_connector(
        &self,
        _caller: &Caller,
        name: Name,
        force: bool,
        progress: Progress,
    ) -> Outcome<ConnectorDeleteRow> {
        self.do_delete_connector(name, force, progress).await
    }

    async fn create_branch(
        &self,
        caller: &Caller,
        request: CreateBranchRequest,
    ) -> Outcome<BranchRow> {
        self.do_create_branch(caller, request).await
    }

    async fn list_branches(&self, caller: &Caller) -> Outcome<Vec<BranchSummaryRow>> {
        self.do_list_branches(caller)
    }

    async fn branch_info(&self, caller: &Caller, name: Option<Name>) -> Outcome<BranchRow> {
        let (connector, branch) = self.selected_branch(caller, name)?;
        self.branch_row(caller, &connector, &branch).await
    }

    async fn switch_branch(&self, caller: &Caller, name: Name) -> Outcome<SwitchRow> {
        self.do_switch_branch(caller, name)
    }

    async fn delete_branch(&self, caller: &Caller, name: Name) -> Outcome<()> {
        self.do_delete_branch(caller, name).await
    }

    async fn rotate_password(&self, caller: &Caller, name: Name) -> Outcome<BranchRow> {
        let (connector, branch) = self.selected_branch(caller, Some(name))?;
        let rotated = self.0.branches.rotate_password(&branch).await.map_err(refuse::branch)?;
        self.branch_row(caller, &connector, &rotated).await
    }

    async fn lock_connector(
        &self,
        caller: &Caller,
        name: Name,
        reason: Option<String>,
    ) -> Outcome<ConnectorRow> {
        let connector = self.connector(name.as_str())?;
        self.0.connectors.lock(&connector, reason).map_err(refuse::connector)?;
        self.connector_row(caller, &connector)
    }

    async fn update_connector(
        &self,
        name: Name,
        drop_extensions: Vec<String>,
    ) -> Outcome<ConnectorUpdateRow> {
        self.do_update_connector(name, drop_extensions)
    }

    async fn list_settings(&self, caller: &Caller) -> Outcome<Vec<SettingRow>> {
        self.do_list_settings(caller)
    }

    async fn set_setting(&self, caller: &Caller, change: SettingChange) -> Outcome<SettingRow> {
        self.do_set_setting(caller, change)
    }

    async fn remove_setting(
        &self,
        caller: &Caller,
        key: SettingKey,
        hook: Option<String>,
    ) -> Outcome<()> {
        self.do_remove_setting(caller, key, hook.as_deref())
    }

    async fn create_environment(
        &self,
        request: CreateEnvironmentRequest,
    ) -> Outcome<EnvironmentRow> {
        self.do_create_environment(request)
    }

    async fn list_environments(&self) -> Outcome<Vec<EnvironmentRow>> {
        self.do_list_environments()
    }

    async fn delete_environment(&self, name: &str) -> Outcome<()> {
        self.do_delete_environment(name)
    }

    async fn create_private_link(
        &self,
        request: CreatePrivateLinkRequest,
    ) -> Outcome<PrivateLinkRow> {
        self.do_create_private_link(request)
    }

    async fn list_private_links(&self) -> Outcome<Vec<PrivateLinkRow>> {
        self.do_list_private_links()
    }

    async fn delete_private_link(&self, name: &str) -> Outcome<()> {
        self.do_delete_private_link(name)
    }

    async fn list_quarantine(&self, _caller: &Caller, name: Name) -> Outcome<Vec<QuarantineRow>> {
        Ok(rows::quarantine(&*self.connector(name.as_str())?))
    }

    async fn release_quarantine(
        &self,
        _caller: &Caller,
        name: Name,
        table: String,
    ) -> Outcome<QuarantineRow> {
        self.do_release_quarantine(name, &table).await
    }

    async fn create_role(&self, role: RoleRecord) -> Outcome<()> {
        let stored = crate::catalog::AdminRole {
            name: role.name,
            verifier: role.verifier.reveal().to_owned(),
            level: role.level.as_str().to_owned(),
            created_at: role.created_at,
        };
        self.0.catalog.insert_admin_role(&stored).map_err(refuse::catalog)
    }

    async fn list_roles(&self) -> Outcome<Vec<RoleRecord>> {
        let roles = self.0.catalog.admin_roles().map_err(refuse::catalog)?;
        Ok(roles.into_iter().filter_map(rows::role).collect())
    }

    async fn role(&self, name: &str) -> Option<RoleRecord> {
        let roles = self.0.catalog.admin_roles().ok()?;
        roles.into_iter().find(|role| role.name == name).and_then(rows::role)
    }

    async fn delete_role(&self, name: &str) -> Outcome<()> {
        match self.0.catalog.delete_admin_role(name).map_err(refuse::catalog)? {
            true => Ok(()),
            false => Err(refuse::undefined("role", name)),
        }
    }

    async fn computes(&self) -> Outcome<Vec<ComputeRow>> {
        self.do_list_computes()
    }

    async fn sessions(&self) -> Outcome<Vec<SessionRow>> {
        Ok(self.0.front_door.sessions.list().into_iter().map(rows::session).collect())
    }

    async fn metrics(&self) -> Outcome<Vec<Sample>> {
        Ok(self.samples())
    }

    async fn jobs(&self) -> Outcome<Vec<JobRow>> {
        let mut listed: Vec<_> =
            self.0.connectors.list().iter().filter_map(|c| rows::connector_job(c)).collect();
        listed.extend(self.0.jobs.list().into_iter().map(rows::job));
        Ok(listed)
    }

    fn config(&self) -> Outcome<Vec<ConfigRow>> {
        let mut listed = rows::config(&self.0.config.current());
        listed.extend(self.0.facts.iter().cloned());
        Ok(listed)
    }
}
