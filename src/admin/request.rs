//! What an operator asks for: the typed arguments of operations, checked before they get here.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use crate::name::Name;
use crate::secret::Secret;

/// What an admin role may do; each level includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Looks, but sees no connection URL.
    Viewer,
    /// Makes and deletes branches.
    Operator,
    /// Everything: connectors, roles, settings.
    Admin,
}

impl Level {
    /// The word for it in SQL and in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or(())
    }
}

/// What to do about one table that cannot identify its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Do not follow the table.
    Exclude,
    /// The operator adds a key on the source before setup is tried again.
    AddPk,
    /// The operator has set, or will set, `REPLICA IDENTITY FULL` on the source.
    ReplicaIdentityFull,
}

/// The decisions given with a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// By `schema.table`.
    pub tables: BTreeMap<String, Decision>,
    /// Tables not named are excluded instead of left undecided.
    pub accept_defaults: bool,
}

/// Which plugin decodes the source's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plugin {
    /// wal2json if the source has it, else pgoutput.
    #[default]
    Auto,
    /// wal2json or nothing.
    Wal2json,
    /// pgoutput or nothing.
    Pgoutput,
}

/// A source to look at: all that preflight needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRequest {
    /// `postgresql://user:password@host:port/database?...`
    pub url: Secret,
    /// The schemas to follow; none named means all that are not the system's.
    pub schemas: Vec<String>,
    /// The decoding plugin.
    pub plugin: Plugin,
    /// Go through an environment, the only one there is unless one is named.
    pub byoc: bool,
    /// The environment the traffic goes through.
    pub environment: Option<String>,
    /// The private link inside that environment.
    pub private_link: Option<String>,
}

/// `ARDENT CONNECTOR CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateConnectorRequest {
    /// The connector's name; none means derived from the source.
    pub name: Option<Name>,
    /// What to follow.
    pub source: SourceRequest,
    /// What to do about tables without a usable replica identity.
    pub decisions: Decisions,
    /// Begin setup as soon as everything is decided; otherwise wait for RETRY SETUP.
    pub setup: bool,
    /// Return when setup has ended; otherwise as soon as it has begun.
    pub wait: bool,
}

/// `ARDENT CONNECTOR VERIFY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The connector; none means the caller's current one.
    pub name: Option<Name>,
    /// `schema.table` of the tables to compare; none named means everything.
    pub tables: Vec<String>,
    /// About so many rows a table; none means all.
    pub sample: Option<u64>,
}

/// `ARDENT CONNECTOR RETRY SETUP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySetupRequest {
    /// The connector.
    pub name: Name,
    /// What to do about tables without a usable replica identity.
    pub decisions: Decisions,
    /// Begin setup; otherwise only say what is to be decided.
    pub setup: bool,
}

/// `ARDENT BRANCH CREATE`, from the caller's current connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateBranchRequest {
    /// The branch's name.
    pub name: Name,
    /// The parent branch; none means the trunk.
    pub from: Option<Name>,
    /// The role the URL logs in as; none means `branch_owner`.
    pub role: Option<String>,
    /// The most bytes the branch may come to hold of its own.
    pub max_size_bytes: Option<u64>,
    /// How long to wait for the trunk to reach the source's present position.
    pub freshness_timeout: Option<Duration>,
}

/// `ARDENT SETTINGS SET`, of the caller's current connector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingChange {
    /// The database that URLs of new branches name.
    DefaultDb(String),
    /// One hook.
    BranchSql(HookChange),
    /// Idle time after which a branch is suspended; zero means never.
    SuspendAfter(Duration),
    /// Longest wait for freshness at branch creation.
    FreshnessTimeout(Duration),
}

/// A hook as it is to be. What is `None` stays as it was, or as by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookChange {
    /// Its name; none means the one without a name.
    pub name: Option<String>,
    /// What runs.
    pub sql: String,
    /// Lower ones run first.
    pub position: Option<i64>,
    /// The database it runs in; empty means the source's.
    pub database: Option<String>,
    /// The role it runs as; empty means the owner of the branch.
    pub run_as: Option<String>,
}

/// `ARDENT ENVIRONMENT CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateEnvironmentRequest {
    /// Its name.
    pub name: String,
    /// `ssh://user@host:port` or `socks5://host:port`; may hold a password.
    pub url: Secret,
    /// Private key for ssh.
    pub key: Option<Secret>,
    /// The host's public key, a line of `known_hosts`.
    pub known_host: Option<String>,
}

/// `ARDENT PRIVATE LINK CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatePrivateLinkRequest {
    /// Its name.
    pub name: String,
    /// The environment it is in.
    pub environment: String,
    /// `host:port`, as seen from inside.
    pub endpoint: String,
}
