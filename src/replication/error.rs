//! What can go wrong between source and trunk, and what to do about it.

use std::io;

use proxy::client::{self, Verdict};

use crate::source::{self, TableName};

/// Replication failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source could not be used.
    #[error("use the source")]
    Source(#[source] client::Error),
    /// The source answered with something we cannot use.
    #[error("read facts of the source")]
    Facts(#[from] source::Error),
    /// The trunk could not be used.
    #[error("use the trunk")]
    Trunk(#[source] client::Error),
    /// A program of the Postgres installation could not be run.
    #[error("run {program}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of the Postgres installation failed.
    #[error("{program} failed: {said}")]
    ProgramFailed {
        /// Which.
        program: &'static str,
        /// The end of what it wrote to stderr.
        said: String,
    },
    /// Going on would skip or corrupt data. The text says why.
    #[error("{0}")]
    Unsafe(String),
    /// The trunk holds no finished copy of the source.
    #[error("trunk has no finished copy of the source")]
    NotSetUp,
    /// The trunk's own tables are of a build after this one.
    #[error(
        "trunk has format {found} and this build knows formats up to {known}: run a build as new \
         as the one that wrote it, then ARDENT CONNECTOR RETRY SETUP"
    )]
    NewerTrunk {
        /// The trunk's.
        found: usize,
        /// This build's.
        known: usize,
    },
    /// The plugin sent what we do not understand.
    #[error("decode change: {0}")]
    Decode(&'static str),
    /// The payload is not the JSON that wal2json writes.
    #[error("decode change")]
    Json(#[from] serde_json::Error),
    /// A thread for rows could not be made.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// The stream is not running, so it cannot do what was asked.
    #[error("replication is not running: {0}")]
    NotRunning(String),
    /// The source ended the stream.
    #[error("source ended the stream")]
    Ended,
    /// The trunk refuses a table's rows. The text says why.
    #[error("trunk refuses the rows: {0}")]
    Refused(String),
    /// The trunk refuses to COPY into a table, whatever the rows. The session is of no use then.
    #[error("trunk refuses COPY into {table}, which gets its rows by INSERT from now on: {said}")]
    CopyRefused {
        /// The table.
        table: TableName,
        /// What the trunk says.
        said: String,
    },
    /// Another applier is at work on the trunk.
    #[error("another applier holds the trunk")]
    Busy,
    /// The first copy was cut short. What is copied stays; the next setup goes on with the rest.
    #[error("first copy was interrupted")]
    Interrupted(#[source] Box<Self>),
    /// The source's schema could not be read. What was being read may have gone meanwhile.
    #[error("look at the source's schema")]
    Look(#[source] client::Error),
    /// The source changes a table faster than it is published or copied.
    #[error("table was rewritten, renamed or dropped on the source meanwhile")]
    Moving,
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Transient: connect again after a pause.
    Retry,
    /// A person has to change something; going on by itself would be wrong or futile.
    Stop,
}

impl Error {
    /// Retry or stop.
    pub fn action(&self) -> Action {
        match self {
            Self::Source(error) | Self::Facts(source::Error::Client(error)) => {
                match error.verdict() {
                    Verdict::Retry => Action::Retry,
                    Verdict::GiveUp => Action::Stop,
                }
            }
            // The trunk is ours: whatever it says, it may be starting, stopping or recovering.
            Self::Trunk(_) | Self::Ended | Self::Busy | Self::Thread(_) => Action::Retry,
            Self::Look(_) | Self::Moving | Self::CopyRefused { .. } => Action::Retry,
            Self::Interrupted(_) => Action::Retry,
            _ => Action::Stop,
        }
    }

    /// The session on the source broke.
    pub(super) fn is_session(&self) -> bool {
        matches!(
            self,
            Self::Source(client::Error::Session(_)) | Self::Look(client::Error::Session(_))
        )
    }

    /// The whole chain of causes in one line, for status and log.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}

/// Marks an error as the source's.
pub(super) fn at_source(error: impl Into<client::Error>) -> Error {
    Error::Source(error.into())
}

/// Marks an error as one of reading the source's schema, which moves while it is read.
pub(super) fn at_look(error: impl Into<client::Error>) -> Error {
    Error::Look(error.into())
}

/// Marks an error as the trunk's.
pub(super) fn at_trunk(error: impl Into<client::Error>) -> Error {
    Error::Trunk(error.into())
}
