//! What can go wrong while looking at a source.

use proxy::client;

/// A source could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or the server refused.
    #[error("ask the source")]
    Client(#[from] client::Error),
    /// The source answered with something we cannot use.
    #[error("source answered without {0}")]
    Unexpected(&'static str),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Client(error.into())
    }
}
