//! What can go wrong at the client end, and what to do about it.

use std::io;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::message::ServerMessage;

/// A failure of a connection to a Postgres server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host name did not resolve, or nothing answered there.
    #[error("connect to {address}")]
    Unreachable {
        /// Host and port, or socket path.
        address: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("connect to {address}: no answer within {} s", timeout.as_secs())]
    ConnectTimeout {
        /// Host and port, or socket path.
        address: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// `sslmode` asks for TLS and the server has none.
    #[error("server does not support TLS, but sslmode requires it")]
    TlsRefused,
    /// The TLS handshake failed, or its certificates cannot be used.
    #[error("negotiate TLS")]
    Tls(#[source] io::Error),
    /// The server asks for a password and the URL has none.
    #[error("server asks for a password, and none was given")]
    PasswordMissing,
    /// The server asks for a way to authenticate that we do not speak.
    #[error("server asks for authentication method {0}, which is not supported")]
    UnsupportedAuthentication(&'static str),
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Server(Box<ServerMessage>),
    /// A SQL session failed below SQL.
    #[error("use SQL session")]
    Session(#[source] tokio_postgres::Error),
    /// The connection broke.
    #[error("use connection")]
    Io(#[from] io::Error),
    /// The server sent what the protocol does not allow here.
    #[error("protocol violation: {0}")]
    Protocol(&'static str),
    /// A message is longer than the limit of this connection.
    #[error("message of {bytes} bytes exceeds the limit of {limit}")]
    MessageTooLarge {
        /// Announced length.
        bytes: usize,
        /// Our limit.
        limit: usize,
    },
}

/// What a caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Transient: try again after a pause.
    Retry,
    /// The same attempt will fail again until a person changes something.
    GiveUp,
}

impl Error {
    /// The server's own message, if the failure is one.
    pub fn server_message(&self) -> Option<&ServerMessage> {
        match self {
            Self::Server(message) => Some(message),
            _ => None,
        }
    }

    /// The SQLSTATE, if the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server_message().map(|message| message.code.as_str())
    }

    /// Retry or give up.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unreachable { .. }
            | Self::ConnectTimeout { .. }
            | Self::Session(_)
            | Self::Io(_) => Verdict::Retry,
            Self::Server(message) if message.is_transient() => Verdict::Retry,
            _ => Verdict::GiveUp,
        }
    }

    /// True where only an unencrypted or only an encrypted attempt was refused by `pg_hba.conf`.
    pub(super) fn is_host_based_refusal(&self) -> bool {
        self.sqlstate() == Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION.code())
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Server(Box::new(ServerMessage::from(db))),
            None => Self::Session(error),
        }
    }
}
