//! How a verb fails: one line for people, an envelope for programs, an exit code for scripts.

use std::error::Error as _;

use proxy::client;

/// The verb failed.
pub(super) const FAILED: u8 = 1;
/// The command line was wrong, or preflight found the source wanting.
pub(super) const USAGE: u8 = 2;

/// Why a verb did not do what was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failure {
    /// For programs; the list is in the documentation of the CLI.
    pub(super) code: &'static str,
    /// One line.
    pub(super) message: String,
    /// Facts; of a refused `connector create`, the whole preflight report.
    pub(super) detail: Option<String>,
    /// What to do.
    pub(super) hint: Option<String>,
    /// What the process ends with.
    pub(super) exit_code: u8,
}

/// What to do when there is no server.
pub(super) const START_SERVER: &str =
    "Start it with `ardent serve`, or name another with --server, --data-dir or ARDENT_URL.";

/// SQLSTATE, code for programs, exit code.
const CODES: [(&str, &str, u8); 14] = [
    ("ZA001", "preflight_failed", USAGE),
    ("42601", "invalid_arguments", USAGE),
    ("42602", "invalid_name", USAGE),
    ("22023", "invalid_arguments", USAGE),
    ("42704", "not_found", FAILED),
    ("42710", "already_exists", FAILED),
    ("2BP01", "has_branches", FAILED),
    ("55000", "connector_unavailable", FAILED),
    ("0A000", "not_supported", FAILED),
    ("42501", "permission_denied", FAILED),
    ("28P01", "not_authenticated", FAILED),
    ("28000", "not_authenticated", FAILED),
    ("57014", "timeout", FAILED),
    ("08006", "connection_failed", FAILED),
];

impl Failure {
    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: "invalid_arguments",
            message: message.into(),
            exit_code: USAGE,
            ..Self::default()
        }
    }

    /// There is no server to ask.
    pub(super) fn offline(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code: "offline",
            message: message.into(),
            hint: Some(hint.into()),
            exit_code: FAILED,
            detail: None,
        }
    }

    /// The verb ran, and this is why it counts as failed.
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), exit_code: FAILED, ..Self::default() }
    }

    /// What the server answered to a statement.
    pub(super) fn from_statement(error: &tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            let hint = "It may still be working: look again with `ardent connector status` or \
                        `ardent branch list`.";
            return Self::offline("the server closed the connection", hint);
        };
        let mut failure = Self::refused(answer.code().code(), answer.message());
        failure.detail = answer.detail().map(str::to_owned);
        failure.hint = answer.hint().map(str::to_owned);
        failure
    }

    /// Why no session came about.
    pub(super) fn from_connecting(error: &client::Error, address: &str) -> Self {
        match error {
            client::Error::Server(answer) => {
                let mut failure = Self::refused(&answer.code, &answer.message);
                failure.detail.clone_from(&answer.detail);
                failure.hint.clone_from(&answer.hint);
                failure
            }
            client::Error::PasswordMissing => {
                let mut failure = Self::new("not_authenticated", error.to_string());
                failure.hint = Some("Put the role's password into the URL.".to_owned());
                failure
            }
            _ => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                Self::offline(format!("cannot reach the server at {address}{cause}"), START_SERVER)
            }
        }
    }

    fn refused(sqlstate: &str, message: &str) -> Self {
        let known = CODES.iter().find(|(own, ..)| *own == sqlstate);
        let (code, exit_code) =
            known.map_or(("api_error", FAILED), |(_, code, exit_code)| (*code, *exit_code));
        Self { code, message: message.to_owned(), exit_code, ..Self::default() }
    }
}
