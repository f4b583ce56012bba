//! What an admin statement means, once parsed: one variant per statement, every argument typed.
//!
//! Must never hold text that still has to be checked. Statements the server does not do yet are
//! [`Statement::Unsupported`]: they parse in full and carry only the name of their command.

use crate::catalog::SettingKey;
use crate::name::Name;
use crate::secret::Secret;

use super::request::{
    CreateBranchRequest, CreateConnectorRequest, CreateEnvironmentRequest,
    CreatePrivateLinkRequest, Level, RetrySetupRequest, SettingChange, SourceRequest,
    VerifyRequest,
};

/// One admin statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `CONNECTOR PREFLIGHT`
    ConnectorPreflight(SourceRequest),
    /// `CONNECTOR CREATE`
    ConnectorCreate(CreateConnectorRequest),
    /// `CONNECTOR LIST`
    ConnectorList,
    /// `CONNECTOR STATUS [name]`
    ConnectorStatus(Option<Name>),
    /// `CONNECTOR VERIFY [name]`
    ConnectorVerify(VerifyRequest),
    /// `CONNECTOR SWITCH name`
    ConnectorSwitch(Name),
    /// `CONNECTOR RETRY SETUP name`
    ConnectorRetrySetup(RetrySetupRequest),
    /// `CONNECTOR DELETE name [FORCE]`
    ConnectorDelete {
        /// The connector.
        name: Name,
        /// Do not wait for the drain; delete its branches too.
        force: bool,
    },
    /// `CONNECTOR LOCK name [REASON 'text']`
    ConnectorLock {
        /// The connector.
        name: Name,
        /// Shown to whoever tries to delete it.
        reason: Option<String>,
    },
    /// `CONNECTOR UNLOCK name`
    ConnectorUnlock(Name),
    /// `CONNECTOR UPDATE name SET (drop_extensions = '...')`
    ConnectorUpdate {
        /// The connector.
        name: Name,
        /// Extensions that branches are made without from now on.
        drop_extensions: Vec<String>,
    },
    /// `ENVIRONMENT CREATE name '<url>'`
    EnvironmentCreate(CreateEnvironmentRequest),
    /// `ENVIRONMENT LIST`
    EnvironmentList,
    /// `ENVIRONMENT DELETE name`
    EnvironmentDelete(String),
    /// `PRIVATE LINK CREATE name ...`
    PrivateLinkCreate(CreatePrivateLinkRequest),
    /// `PRIVATE LINK LIST`
    PrivateLinkList,
    /// `PRIVATE LINK DELETE name`
    PrivateLinkDelete(String),
    /// `SETTINGS LIST`
    SettingsList,
    /// `SETTINGS SET key = value`
    SettingsSet(SettingChange),
    /// `SETTINGS REMOVE key`
    SettingsRemove {
        /// The setting.
        key: SettingKey,
        /// One hook of `branch_sql`; none means all.
        hook: Option<String>,
    },
    /// `CONNECTOR QUARANTINE LIST name`
    QuarantineList(Name),
    /// `CONNECTOR QUARANTINE RELEASE name 'schema.table'`
    QuarantineRelease {
        /// The connector.
        name: Name,
        /// As QUARANTINE LIST shows it.
        table: String,
    },
    /// `BRANCH CREATE name`
    BranchCreate(CreateBranchRequest),
    /// `BRANCH LIST`
    BranchList,
    /// `BRANCH INFO [name]`
    BranchInfo(Option<Name>),
    /// `BRANCH SWITCH name`
    BranchSwitch(Name),
    /// `BRANCH DELETE name`
    BranchDelete(Name),
    /// `BRANCH ROTATE PASSWORD name`
    BranchRotatePassword(Name),
    /// `ROLE CREATE name PASSWORD '...'`
    RoleCreate {
        /// The role.
        name: String,
        /// Turned into a verifier before anything is stored.
        password: Secret,
        /// What it may do.
        level: Level,
    },
    /// `ROLE LIST`
    RoleList,
    /// `ROLE DELETE name`
    RoleDelete(String),
    /// `SHOW SESSIONS`
    ShowSessions,
    /// `SHOW COMPUTES`
    ShowComputes,
    /// `SHOW CONFIG`
    ShowConfig,
    /// `SHOW METRICS`
    ShowMetrics,
    /// `SHOW JOBS`
    ShowJobs,
    /// `HELP [statement]`: the first words of the commands to explain.
    Help(Vec<String>),
    /// A statement of the design that this server does not do yet.
    Unsupported(&'static str),
}

impl Statement {
    /// It changes something, here or on a source; a transaction block does not undo that.
    pub fn changes_state(&self) -> bool {
        matches!(
            self,
            Self::ConnectorCreate(_)
                | Self::ConnectorSwitch(_)
                | Self::ConnectorRetrySetup(_)
                | Self::ConnectorDelete { .. }
                | Self::BranchCreate(_)
                | Self::BranchSwitch(_)
                | Self::BranchDelete(_)
                | Self::BranchRotatePassword(_)
                | Self::ConnectorLock { .. }
                | Self::ConnectorUnlock(_)
                | Self::ConnectorUpdate { .. }
                | Self::EnvironmentCreate(_)
                | Self::EnvironmentDelete(_)
                | Self::PrivateLinkCreate(_)
                | Self::PrivateLinkDelete(_)
                | Self::SettingsSet(_)
                | Self::SettingsRemove { .. }
                | Self::QuarantineRelease { .. }
                | Self::RoleCreate { .. }
                | Self::RoleDelete(_)
        )
    }
}
