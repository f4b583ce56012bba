//! Why an operation failed, in the words for a SQL client.
//!
//! Must never: carry a password, a connection URL or a row's values.

use proxy::Refusal;

/// Why an operation was refused or failed, in the words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OperationError {
    /// Five characters; see [`sqlstate`].
    pub sqlstate: &'static str,
    /// One line, lower case, no period.
    pub message: String,
    /// Facts, as sentences.
    pub detail: Option<String>,
    /// What to do, as sentences.
    pub hint: Option<String>,
}

impl OperationError {
    /// An error of a message alone.
    pub fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// Adds the facts.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The SQLSTATEs operations answer with. The CLI derives its error codes from them.
pub mod sqlstate {
    /// No connector, branch, role or job of that name.
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// The name is taken.
    pub const DUPLICATE_OBJECT: &str = "42710";
    /// The name or value breaks a rule.
    pub const INVALID_PARAMETER: &str = "22023";
    /// The object is there but not in a state that allows this (setup pending, locked).
    pub const WRONG_STATE: &str = "55000";
    /// Others depend on it: a connector with branches.
    pub const DEPENDENTS_EXIST: &str = "2BP01";
    /// The statement is known, the server does not do it.
    pub const NOT_SUPPORTED: &str = "0A000";
    /// The caller's level is too low.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// Disk, memory or a configured limit.
    pub const INSUFFICIENT_RESOURCES: &str = "53000";
    /// The disk is full, but for what is kept for what exists.
    pub const DISK_FULL: &str = "53100";
    /// The source or a compute cannot be reached.
    pub const CONNECTION_FAILURE: &str = "08006";
    /// The store is being started.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// Took longer than its limit; the work may still be going on.
    pub const TIMEOUT: &str = "57014";
    /// A bug of ours.
    pub const INTERNAL: &str = "XX000";
    /// `CONNECTOR CREATE` refused because preflight failed. Its own code (classes from I to Z are
    /// for implementations), since the CLI exits with 2 for this refusal only.
    pub const PREFLIGHT_FAILED: &str = "ZA001";
}

/// The result of an operation.
pub type Outcome<T> = Result<T, OperationError>;

/// The error as it goes over the wire.
pub(super) fn refuse(error: OperationError) -> Refusal {
    let mut refusal = Refusal::error(error.sqlstate, error.message);
    refusal.detail = error.detail;
    refusal.hint = error.hint;
    refusal
}
