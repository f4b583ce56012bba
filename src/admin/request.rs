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
