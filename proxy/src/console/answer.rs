//! What an admin statement answers with, and what it says on the way.

use std::time::SystemTime;

use tokio::sync::mpsc;

/// The result of one statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The command tag, sent as it is.
    pub tag: String,
    /// Columns, the same as the statement's description says.
    pub columns: Vec<Column>,
    /// One value per column in each row.
    pub rows: Vec<Vec<Value>>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: ColumnKind,
}

/// The types an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// `text`
    Text,
    /// `bigint`
    Int8,
    /// `boolean`
    Bool,
    /// `double precision`
    Float8,
    /// `timestamp with time zone`
    Timestamptz,
}

/// One value. A value that is not of its column's kind is sent as text of the column's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `text`
    Text(String),
    /// `bigint`
    Int8(i64),
    /// `boolean`
    Bool(bool),
    /// `double precision`
    Float8(f64),
    /// `timestamp with time zone`, shown in UTC.
    Timestamptz(SystemTime),
}

impl Answer {
    /// An answer without rows.
    pub fn done(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), columns: Vec::new(), rows: Vec::new() }
    }
}

impl Column {
    /// A column of a kind.
    pub fn new(name: impl Into<String>, kind: ColumnKind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// How loud a notice is. Clients show `Info` whatever their settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeLevel {
    /// INFO
    Info,
    /// NOTICE
    Notice,
    /// WARNING
    Warning,
}

/// A message to the client while its statement runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How loud.
    pub level: NoticeLevel,
    /// `00000` for progress, `01000` for a warning, or more exact.
    pub sqlstate: &'static str,
    /// One line.
    pub message: String,
    /// A sentence with the particulars.
    pub detail: Option<String>,
    /// A sentence that says what to do.
    pub hint: Option<String>,
}

impl Notice {
    /// A progress line.
    pub fn info(message: impl Into<String>) -> Self {
        Self::new(NoticeLevel::Info, "00000", message.into())
    }

    /// A notice.
    #[expect(clippy::self_named_constructors, reason = "the levels are named as Postgres does")]
    pub fn notice(message: impl Into<String>) -> Self {
        Self::new(NoticeLevel::Notice, "00000", message.into())
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(NoticeLevel::Warning, "01000", message.into())
    }

    fn new(level: NoticeLevel, sqlstate: &'static str, message: String) -> Self {
        Self { level, sqlstate, message, detail: None, hint: None }
    }
}

/// The way from a running statement to its client. Cheap to clone; may outlive the statement.
#[derive(Clone, Debug)]
pub struct NoticeSender(mpsc::Sender<Notice>);

/// Notices a slow client may lag behind before the statement waits for it.
const NOTICES_WAITING_MAX: usize = 64;

impl NoticeSender {
    /// A sender and the receiving end, for the console itself and for tests of statements.
    pub fn channel() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(NOTICES_WAITING_MAX);
        (Self(sender), receiver)
    }

    /// Sends, waiting for a slow client. Does nothing once the statement is over.
    pub async fn send(&self, notice: Notice) {
        if self.0.send(notice).await.is_err() {
            tracing::trace!("notice after the end of its statement");
        }
    }

    /// Sends, or drops the notice if the client lags: for progress lines.
    pub fn send_or_drop(&self, notice: Notice) {
        if self.0.try_send(notice).is_err() {
            tracing::trace!("notice dropped");
        }
    }
}
