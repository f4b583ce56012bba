//! What operations answer with: one struct per kind of row, units in the types or names.
//!
//! Must never hold a password outside a [`Secret`]. Columns are made of these in `columns.rs`.

mod server;

use std::time::{Duration, SystemTime};

use crate::lsn::Lsn;
use crate::name::Name;
use crate::secret::Secret;

use super::request::Level;

pub use server::{ComputeRow, ConfigRow, JobRow, SessionRow};

/// What became of a `CONNECTOR CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateConnectorOutcome {
    /// It exists: ready, being set up (`wait = off`), or `setup pending` for want of decisions.
    Created(ConnectorRow),
    /// Preflight failed; nothing is stored, here or on the source.
    Refused(Vec<PreflightRow>),
}

/// What a row of a preflight report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightKind {
    /// One check.
    Check,
    /// The detected provider, in `name`.
    Provider,
    /// The grant script, in `detail`.
    Script,
    /// The verdict: `Pass` or `Fail`. Always the last row.
    Verdict,
}

/// How a check came out. Only `Fail` fails the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightStatus {
    /// As it should be.
    Pass,
    /// Works, with a restriction worth knowing.
    Warn,
    /// Must be mended first.
    Fail,
    /// Could not run; `detail` says why.
    Skip,
}

/// One row of `ARDENT CONNECTOR PREFLIGHT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightRow {
    /// From 1, in the order to print.
    pub ordinal: i64,
    /// What the row is.
    pub kind: PreflightKind,
    /// The check's or provider's name.
    pub name: String,
    /// The outcome.
    pub status: PreflightStatus,
    /// A passing check: the fact for its brackets (`actual: logical`). A failing one: lines of what
    /// is wrong. The script row: the script.
    pub detail: Option<String>,
    /// What to do, one line.
    pub remedy: Option<String>,
}

/// Where a connector stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorState {
    /// Waits for decisions or for `RETRY SETUP`.
    SetupPending,
    /// Source checks or setup are running.
    Validating,
    /// Branches can be cut; everything is followed.
    Ready,
    /// Branches can be cut; some tables or extensions are left out.
    Degraded,
    /// No branches until it is mended.
    Broken,
}

/// A connector, as `CREATE`, `LIST` and `RETRY SETUP` return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorRow {
    /// Its name.
    pub name: Name,
    /// `conn_1x0z9q`
    pub id: String,
    /// Where it stands.
    pub state: ConnectorState,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// The caller's current connector.
    pub current: bool,
    /// `host:port/database`, no user and no password.
    pub source: String,
    /// Why deletion is locked, if it is; an empty text when no reason was given.
    pub locked: Option<String>,
    /// `schema.table` of every table whose replica identity is undecided.
    pub undecided: Vec<String>,
    /// When it was created.
    pub created_at: SystemTime,
}

/// Setup of a connector: joined, carried on, or not needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySetupOutcome {
    /// The connector afterwards.
    pub connector: ConnectorRow,
    /// Setup was healthy already, nothing was done.
    pub no_work_needed: bool,
}

/// One row of `ARDENT CONNECTOR STATUS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorStatusRow {
    /// Its name.
    pub name: Name,
    /// Where it stands.
    pub state: ConnectorState,
    /// One sentence each.
    pub warnings: Vec<String>,
    /// The plugin in use, once chosen.
    pub plugin: Option<String>,
    /// How schema changes are noticed: `event triggers`, `polling`, `none`.
    pub ddl_mode: Option<String>,
    /// End of what the source has sent.
    pub received_lsn: Option<Lsn>,
    /// End of what is applied to the trunk.
    pub applied_lsn: Option<Lsn>,
    /// What the source has been told it may forget.
    pub confirmed_lsn: Option<Lsn>,
    /// Source position minus applied position.
    pub lag_bytes: Option<i64>,
    /// Log the source keeps for our slot.
    pub retained_wal_bytes: Option<i64>,
    /// Name of the replication slot.
    pub slot: Option<String>,
    /// What setup or the stream is doing: `copying`, `catching up`, `streaming`, ...
    pub phase: Option<String>,
    /// Bytes of the first copy that are done.
    pub bytes_done: Option<i64>,
    /// Bytes of the first copy in all, an estimate.
    pub bytes_total: Option<i64>,
    /// Why it is broken or was retried last.
    pub error: Option<String>,
    /// Whose transaction has been open longest on the source, and for how long.
    pub oldest_transaction: Option<(String, Duration)>,
    /// How the first copy goes, while it is made.
    pub copy: Option<CopyRow>,
    /// What the last comparison with the source came to.
    pub verification: Option<VerificationRow>,
}

/// The columns of `ARDENT CONNECTOR STATUS` about the last comparison with the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationRow {
    /// The source position it was made at.
    pub lsn: Lsn,
    /// When.
    pub at: SystemTime,
    /// Objects that differ.
    pub differences: i64,
}

/// The columns of `ARDENT CONNECTOR STATUS` about the first copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyRow {
    /// Rows copied.
    pub rows: i64,
    /// Tables done.
    pub tables_done: i64,
    /// Tables in all.
    pub tables_total: i64,
    /// Speed so far.
    pub bytes_per_second: i64,
    /// Time left at that speed; none before there is one.
    pub remaining: Option<Duration>,
    /// A line for each table that is being copied.
    pub tables: Vec<String>,
}

/// One row of `ARDENT CONNECTOR VERIFY`. The first is the database and sums up the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyRow {
    /// Name of the object.
    pub object: String,
    /// `table`, `index`, `function`, ...
    pub kind: String,
    /// `carried`, `rebuilt`, `not carried`, `not compared` or `different`.
    pub verdict: &'static str,
    /// What was compared, or what differs.
    pub detail: Option<String>,
}

/// One row of `ARDENT CONNECTOR QUARANTINE LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineRow {
    /// `schema.table`.
    pub table: String,
    /// It is being copied again, and followed then.
    pub is_copying: bool,
    /// Why it is not followed.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
}

/// The answer to `CONNECTOR SWITCH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchRow {
    /// The one before, if there was one.
    pub previous: Option<String>,
    /// The current one now.
    pub name: Name,
    /// Branches only: the connection URL.
    pub url: Option<Secret>,
}

/// The answer to `CONNECTOR DELETE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorDeleteRow {
    /// The connector that is gone.
    pub name: Name,
    /// Branches deleted with it (`FORCE` only).
    pub branches: Vec<String>,
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchStatus {
    /// Being made; not connectable.
    Creating,
    /// Its compute runs.
    Active,
    /// No compute; a connection wakes it.
    Suspended,
    /// Creation or a hook failed; delete it or create it again.
    Failed,
    /// Being deleted.
    Deleting,
}

/// One row of `ARDENT BRANCH INFO` and `BRANCH CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRow {
    /// Its name.
    pub name: Name,
    /// The connector it belongs to.
    pub connector: Name,
    /// Where it stands.
    pub status: BranchStatus,
    /// The connection URL with its password; none for a viewer or before it exists.
    pub url: Option<Secret>,
    /// The source position its data stands at.
    pub lsn: Option<Lsn>,
    /// Commit time of the last source transaction in it.
    pub commit_time: Option<SystemTime>,
    /// The source position was not reached within the freshness timeout.
    pub stale: bool,
    /// Bytes only this branch holds.
    pub unique_bytes: Option<i64>,
    /// Bytes shared with others.
    pub shared_bytes: Option<i64>,
    /// Bytes a deletion would free at once.
    pub reclaimable_bytes: Option<i64>,
    /// The parent branch; none is the trunk.
    pub parent: Option<Name>,
    /// When it was created.
    pub created_at: SystemTime,
    /// Directory of the compute's unix socket while it runs.
    pub compute_socket: Option<String>,
    /// The caller's current branch.
    pub current: bool,
    /// Excluded tables, stale data and the like, one sentence each.
    pub warnings: Vec<String>,
    /// The most bytes it may come to hold of its own.
    pub max_size_bytes: Option<i64>,
}

/// One row of `ARDENT BRANCH LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSummaryRow {
    /// Its name.
    pub name: Name,
    /// The connector it belongs to.
    pub connector: Name,
    /// Where it stands.
    pub status: BranchStatus,
    /// When it was created.
    pub created_at: SystemTime,
    /// Time since its last session ended; none while one is open.
    pub idle: Option<Duration>,
    /// The caller's current branch.
    pub current: bool,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// An admin role, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRecord {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub level: Level,
    /// `SCRAM-SHA-256$...`; never the password.
    pub verifier: Secret,
    /// When it was created.
    pub created_at: SystemTime,
}

/// The answer to `CONNECTOR UPDATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorUpdateRow {
    /// The connector.
    pub name: Name,
    /// Extensions that branches are made without.
    pub drop_extensions: Vec<String>,
}

/// One row of `ARDENT SETTINGS LIST`: a setting, or one hook of `branch_sql`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// The connector it is of.
    pub connector: Name,
    /// The setting.
    pub key: &'static str,
    /// Its value, if it is set.
    pub value: Option<String>,
    /// What it does.
    pub summary: &'static str,
    /// Name of the hook.
    pub hook: Option<String>,
    /// Lower ones run first.
    pub position: Option<i64>,
    /// The database the hook runs in, if not the source's.
    pub database: Option<String>,
    /// The role the hook runs as, if not the branch's owner.
    pub run_as: Option<String>,
}

/// One row of `ARDENT ENVIRONMENT LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentRow {
    /// Its name.
    pub name: String,
    /// `ssh://user@host:port` or `socks5://host:port`, without a password.
    pub address: String,
    /// Names of the private links in it.
    pub private_links: Vec<String>,
    /// Names of the connectors that go through it.
    pub connectors: Vec<String>,
    /// When it was created.
    pub created_at: SystemTime,
}

/// One row of `ARDENT PRIVATE LINK LIST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateLinkRow {
    /// Its name.
    pub name: String,
    /// The environment it is in.
    pub environment: String,
    /// `host:port`, as seen from inside.
    pub endpoint: String,
    /// Names of the connectors that use it.
    pub connectors: Vec<String>,
    /// When it was created.
    pub created_at: SystemTime,
}
