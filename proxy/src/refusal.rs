//! Why something is refused, in the words a Postgres client understands.
//!
//! One [`Refusal`] becomes one ErrorResponse. It never carries a secret or a row value.

use std::fmt;

/// How much of the client's work an error ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

/// An error towards a SQL client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it ends.
    pub severity: Severity,
    /// Five characters, from Postgres' appendix A.
    pub sqlstate: &'static str,
    /// One line, lower case, no period.
    pub message: String,
    /// A sentence with the particulars.
    pub detail: Option<String>,
    /// A sentence that says what to do.
    pub hint: Option<String>,
    /// 1-based character (not byte) offset into the statement text.
    pub position: Option<u32>,
}

impl Refusal {
    /// An error that ends the statement.
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, sqlstate, message.into())
    }

    /// An error that ends the session.
    pub fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Fatal, sqlstate, message.into())
    }

    /// Adds the particulars.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds where in the statement it happened.
    #[must_use]
    pub fn at(mut self, position: u32) -> Self {
        self.position = Some(position);
        self
    }

    fn new(severity: Severity, sqlstate: &'static str, message: String) -> Self {
        Self { severity, sqlstate, message, detail: None, hint: None, position: None }
    }
}

impl Severity {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl std::error::Error for Refusal {}
