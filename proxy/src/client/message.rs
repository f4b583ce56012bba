//! Errors and notices as a server words them.

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use tokio_postgres::error::{DbError, ErrorPosition};

/// An ErrorResponse or NoticeResponse (protocol, section "Error and Notice Message Fields").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// ERROR, FATAL, WARNING, NOTICE and so on, not localised.
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// The primary message, one line.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Character offset into the SQL text, from 1.
    pub position: Option<u32>,
}

impl ServerMessage {
    pub(super) fn parse(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut message = Self::default();
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' if message.severity.is_empty() => message.severity = text,
                b'V' => message.severity = text,
                b'C' => message.code = text,
                b'M' => message.message = text,
                b'D' => message.detail = Some(text),
                b'H' => message.hint = Some(text),
                b'P' => message.position = text.parse().ok(),
                _ => {}
            }
        }
        Ok(message)
    }

    /// True when the same attempt may succeed later without anybody's doing.
    ///
    /// Class 08 connection, 40 rollback, 53 resources, 57 operator intervention; 55006 is a slot
    /// still held by a walsender that has not noticed our going; 55P03 a lock not had in time.
    pub fn is_transient(&self) -> bool {
        let class = self.code.get(..2).unwrap_or_default();
        matches!(class, "08" | "40" | "53" | "57") || matches!(&*self.code, "55006" | "55P03")
    }
}

impl From<&DbError> for ServerMessage {
    fn from(error: &DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            position: match error.position() {
                Some(ErrorPosition::Original(position)) => Some(*position),
                _ => None,
            },
        }
    }
}
