//! The admin database: SQL text in, rows out.
//!
//! [`Console`] is what the admin commands implement; everything on the wire (both protocols, text
//! and binary results, notices, cancel, transaction status) is done here, through pgwire behind
//! our own authenticated stream.

mod answer;
mod encode;
mod desk;
mod protocol;
mod serve;

use std::future::Future;
use std::ops::Range;

use crate::refusal::Refusal;
use crate::scram::ScramVerifier;
use crate::sessions::Peer;

pub(crate) use serve::{Start, serve};

pub use answer::{Answer, Column, ColumnKind, Notice, NoticeLevel, NoticeSender, Value};

/// Understands and runs admin statements.
pub trait Console: Send + Sync + 'static {
    /// The credential of an admin role, for connections over TCP. A unix socket peer that is root
    /// or the server's own user enters without one.
    fn verifier(&self, role: &str) -> impl Future<Output = Option<ScramVerifier>> + Send;

    /// Splits and parses a query string: one entry per statement, none for an empty string. Must
    /// be quick. A refusal's position counts characters of the whole `sql`.
    fn describe(&self, sql: &str) -> Result<Vec<Description>, Refusal>;

    /// Runs one statement that [`Console::describe`] returned. A refusal's position counts
    /// characters of `statement.text`; the caller shifts it. On cancel, or when the client is
    /// gone, the future is dropped: work that must go on belongs on a task of its own.
    fn run(
        &self,
        session: &ConsoleSession,
        statement: Statement<'_>,
        notices: NoticeSender,
    ) -> impl Future<Output = Result<Answer, Refusal>> + Send;
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Bytes of the query string that are this statement.
    pub span: Range<usize>,
    /// How many `$n` it takes; all are text.
    pub parameters: usize,
    /// Columns of its answer; empty if it returns no rows.
    pub columns: Vec<Column>,
    /// What it does to the transaction block. The caller tracks the block, answers 25P02 inside
    /// a failed one, and lets only `End` and `RollBackTo` through there.
    pub effect: TransactionEffect,
}

/// What a statement does to the transaction block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionEffect {
    /// Nothing: almost all statements.
    #[default]
    None,
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END, ROLLBACK, ABORT.
    End,
    /// ROLLBACK TO SAVEPOINT: a failed block goes on.
    RollBackTo,
}

/// One statement to run.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// Its text: the part of the query string that its description's span names.
    pub text: &'a str,
    /// Values of `$1`, `$2`, ...: as many as its description says. `None` is NULL.
    pub parameters: &'a [Option<String>],
    /// Whether it runs inside an explicit transaction block.
    pub in_transaction: bool,
}

/// Who is asking.
#[derive(Clone, Debug)]
pub struct ConsoleSession {
    /// Number of the session, as `ARDENT SHOW SESSIONS` shows it.
    pub id: u64,
    /// The admin role that logged in, or the name given over the unix socket.
    pub role: String,
    /// Root or the server's own user over the unix socket: every privilege.
    pub is_local_admin: bool,
    /// Where from.
    pub peer: Peer,
    /// The client's `application_name`, empty if none.
    pub application_name: String,
}
