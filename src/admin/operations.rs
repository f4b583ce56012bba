//! What the admin SQL asks of the control plane: one method per operation, plain requests and rows.
//!
//! The console parses, checks the caller's level and turns rows into columns; whatever implements
//! [`Operations`] does the work. Must never: know SQL text, column order or the wire.
//!
//! Rules every implementation keeps:
//! * dropping a returned future stops the waiting, never the work: setup and deletion are jobs;
//! * no error text, progress line or row but a branch's `url` holds a password;
//! * `current` connector and branch are kept per operator, named by [`Caller`].

use std::future::Future;
use std::sync::Arc;

use proxy::Sample;

use crate::catalog::SettingKey;
use crate::name::Name;
use crate::secret::Secret;

use super::error::Outcome;
use super::request::{
    CreateBranchRequest, CreateConnectorRequest, CreateEnvironmentRequest,
    CreatePrivateLinkRequest, Level, RetrySetupRequest, SettingChange, SourceRequest,
    VerifyRequest,
};
use super::row::{
    BranchRow, BranchSummaryRow, ComputeRow, ConfigRow, ConnectorDeleteRow, ConnectorRow,
    ConnectorStatusRow, ConnectorUpdateRow, CreateConnectorOutcome, EnvironmentRow, JobRow,
    PreflightRow, PrivateLinkRow, QuarantineRow, RetrySetupOutcome, RoleRecord, SessionRow,
    SettingRow, SwitchRow, VerifyRow,
};

/// Who runs the statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The admin role, or the role named at startup by a peer of the unix socket.
    pub operator: String,
    /// What the role may do. The console has checked it against the statement already.
    pub level: Level,
}

/// Where a long operation says how far it is. One line each, no line break, no secret.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    /// Sends every line to `sink`.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Says nothing to anybody.
    pub fn silent() -> Self {
        Self::new(|_| ())
    }

    /// One line, such as `copying public.orders: 1.2 GB of 4.0 GB`.
    pub fn report(&self, line: &str) {
        (self.0)(line);
    }
}

/// The control plane, as the admin SQL sees it.
pub trait Operations: Send + Sync + 'static {
    /// `host:port` of a connection URL, for the first line of a report. Refuses what is not a
    /// Postgres URL, without repeating it.
    fn source_address(&self, url: &Secret) -> Outcome<String>;

    /// Looks at a source. A failed check is a row, not an error.
    fn preflight(
        &self,
        caller: &Caller,
        request: SourceRequest,
    ) -> impl Future<Output = Outcome<Vec<PreflightRow>>> + Send;

    /// Runs preflight, then creates the connector and sets it up.
    fn create_connector(
        &self,
        caller: &Caller,
        request: CreateConnectorRequest,
        progress: Progress,
    ) -> impl Future<Output = Outcome<CreateConnectorOutcome>> + Send;

    /// All connectors, by name.
    fn list_connectors(
        &self,
        caller: &Caller,
    ) -> impl Future<Output = Outcome<Vec<ConnectorRow>>> + Send;

    /// The status of one connector, or of all.
    fn connector_status(
        &self,
        caller: &Caller,
        name: Option<Name>,
    ) -> impl Future<Output = Outcome<Vec<ConnectorStatusRow>>> + Send;

    /// Makes a connector the caller's current one.
    fn switch_connector(
        &self,
        caller: &Caller,
        name: Name,
    ) -> impl Future<Output = Outcome<SwitchRow>> + Send;

    /// Compares a connector's trunk with its source at one moment. A difference is a row, not an
    /// error.
    fn verify_connector(
        &self,
        caller: &Caller,
        request: VerifyRequest,
    ) -> impl Future<Output = Outcome<Vec<VerifyRow>>> + Send;

    /// Joins or begins setup of a connector that is not ready.
    fn retry_setup(
        &self,
        caller: &Caller,
        request: RetrySetupRequest,
        progress: Progress,
    ) -> impl Future<Output = Outcome<RetrySetupOutcome>> + Send;

    /// Deletes a connector, its trunk, and all it holds on the source.
    fn delete_connector(
        &self,
        caller: &Caller,
        name: Name,
        force: bool,
        progress: Progress,
    ) -> impl Future<Output = Outcome<ConnectorDeleteRow>> + Send;

    /// Cuts a branch and makes it the caller's current one. The same name and parameters again
    /// return the existing branch.
    fn create_branch(
        &self,
        caller: &Caller,
        request: CreateBranchRequest,
    ) -> impl Future<Output = Outcome<BranchRow>> + Send;

    /// The branches of the caller's current connector, by name.
    fn list_branches(
        &self,
        caller: &Caller,
    ) -> impl Future<Output = Outcome<Vec<BranchSummaryRow>>> + Send;

    /// One branch; none named means the caller's current one.
    fn branch_info(
        &self,
        caller: &Caller,
        name: Option<Name>,
    ) -> impl Future<Output = Outcome<BranchRow>> + Send;

    /// Makes a branch the caller's current one.
    fn switch_branch(
        &self,
        caller: &Caller,
        name: Name,
    ) -> impl Future<Output = Outcome<SwitchRow>> + Send;

    /// Deletes a branch; its URL stops working at once.
    fn delete_branch(
        &self,
        caller: &Caller,
        name: Name,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Gives a branch a new password; its URL changes, its open sessions go on.
    fn rotate_password(
        &self,
        caller: &Caller,
        name: Name,
    ) -> impl Future<Output = Outcome<BranchRow>> + Send;

    /// Refuses deletion of a connector from now on (`Some` reason, which may be empty), or allows
    /// it again.
    fn lock_connector(
        &self,
        caller: &Caller,
        name: Name,
        reason: Option<String>,
    ) -> impl Future<Output = Outcome<ConnectorRow>> + Send;

    /// Changes what future branches of a connector leave out.
    fn update_connector(
        &self,
        name: Name,
        drop_extensions: Vec<String>,
    ) -> impl Future<Output = Outcome<ConnectorUpdateRow>> + Send;

    /// The settings of the caller's current connector, set or not.
    fn list_settings(
        &self,
        caller: &Caller,
    ) -> impl Future<Output = Outcome<Vec<SettingRow>>> + Send;

    /// Changes a setting of the caller's current connector.
    fn set_setting(
        &self,
        caller: &Caller,
        change: SettingChange,
    ) -> impl Future<Output = Outcome<SettingRow>> + Send;

    /// Puts a setting of the caller's current connector back to its default.
    fn remove_setting(
        &self,
        caller: &Caller,
        key: SettingKey,
        hook: Option<String>,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Stores a way into a private network.
    fn create_environment(
        &self,
        request: CreateEnvironmentRequest,
    ) -> impl Future<Output = Outcome<EnvironmentRow>> + Send;

    /// All environments, by name.
    fn list_environments(&self) -> impl Future<Output = Outcome<Vec<EnvironmentRow>>> + Send;

    /// Forgets an environment that no connector uses.
    fn delete_environment(&self, name: &str) -> impl Future<Output = Outcome<()>> + Send;

    /// Names an endpoint inside an environment.
    fn create_private_link(
        &self,
        request: CreatePrivateLinkRequest,
    ) -> impl Future<Output = Outcome<PrivateLinkRow>> + Send;

    /// All private links, by name.
    fn list_private_links(&self) -> impl Future<Output = Outcome<Vec<PrivateLinkRow>>> + Send;

    /// Forgets a private link that no connector uses.
    fn delete_private_link(&self, name: &str) -> impl Future<Output = Outcome<()>> + Send;
    /// The tables of a connector that are not followed.
    fn list_quarantine(
        &self,
        caller: &Caller,
        name: Name,
    ) -> impl Future<Output = Outcome<Vec<QuarantineRow>>> + Send;

    /// Has one of them copied again, and followed then. Returns its row once that is certain.
    fn release_quarantine(
        &self,
        caller: &Caller,
        name: Name,
        table: String,
    ) -> impl Future<Output = Outcome<QuarantineRow>> + Send;

    /// Stores a new admin role.
    fn create_role(&self, role: RoleRecord) -> impl Future<Output = Outcome<()>> + Send;

    /// All admin roles, by name.
    fn list_roles(&self) -> impl Future<Output = Outcome<Vec<RoleRecord>>> + Send;

    /// One admin role. Asked at every login over TCP, so it must not wait for long work.
    fn role(&self, name: &str) -> impl Future<Output = Option<RoleRecord>> + Send;

    /// Deletes an admin role. Its open sessions go on.
    fn delete_role(&self, name: &str) -> impl Future<Output = Outcome<()>> + Send;

    /// The computes that run, trunks first.
    fn computes(&self) -> impl Future<Output = Outcome<Vec<ComputeRow>>> + Send;

    /// The sessions of the front door.
    fn sessions(&self) -> impl Future<Output = Outcome<Vec<SessionRow>>> + Send;

    /// The values of all metrics.
    fn metrics(&self) -> impl Future<Output = Outcome<Vec<Sample>>> + Send;

    /// Long operations that are under way.
    fn jobs(&self) -> impl Future<Output = Outcome<Vec<JobRow>>> + Send;

    /// The configuration in force.
    fn config(&self) -> Outcome<Vec<ConfigRow>>;
}
