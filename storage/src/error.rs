//! What can go wrong in the store and at its client, and what to do about each.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the caller should do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The store may be back soon: connect again and repeat.
    Retry,
    /// The request itself cannot be served; the store is well.
    Refuse,
    /// The store or the branch needs a person.
    GiveUp,
}

/// Why the store refused a request, as it stands on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The line was not a request of this protocol version.
    BadRequest,
    /// Client and store speak different protocol versions.
    Version,
    /// No branch has this number.
    NoSuchBranch,
    /// The number names a branch already, or named one before.
    BranchExists,
    /// The branch was poisoned by a failed fsync; its data may have lost writes.
    Failed,
    /// The disk under the store is full.
    NoSpace,
    /// The store is stopping.
    Stopping,
    /// Anything else; the message says what.
    Internal,
}

/// An error of the store or of its client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A branch number outside 1 to 2^31 - 1.
    #[error("branch number {number} is outside 1 to 2147483647")]
    BranchNumber {
        /// The number given.
        number: u32,
    },
    /// A request named a branch that does not exist.
    #[error("branch {branch} does not exist in the store")]
    NoSuchBranch {
        /// The number given.
        branch: u32,
    },
    /// A request would create a branch whose number is or was in use.
    #[error("branch number {branch} is already used in the store")]
    BranchExists {
        /// The number given.
        branch: u32,
    },
    /// The branch lost a write or a sync and accepts none until a person looked.
    #[error("branch {branch} has failed: {reason}")]
    BranchFailed {
        /// The branch.
        branch: u32,
        /// What happened to it.
        reason: String,
    },
    /// The disk has no more than the reserve left.
    #[error(
        "{available} bytes are left on the disk under the store, of which {reserve} are kept for \
         branches that exist; delete branches or make room"
    )]
    NoRoom {
        /// Bytes that are left.
        available: u64,
        /// Bytes that are kept.
        reserve: u64,
    },
    /// The files of a layer that the branch stands on are damaged.
    #[error("branch {branch} cannot be served: {reason}; `ardent store check` tells what is left")]
    BranchLost {
        /// The branch.
        branch: u32,
        /// Which layer, and what is wrong with it.
        reason: String,
    },
    /// Something that is to be imported is neither a directory nor a file of one name.
    #[error(
        "{} cannot be taken into the store: it is a link, has several names, or is no plain file; \
         tablespaces are not supported",
        path.display()
    )]
    NotPlain {
        /// The place, relative to the store directory.
        path: PathBuf,
    },
    /// Another process serves this store directory.
    #[error("store directory {} is in use by another process", dir.display())]
    InUse {
        /// The store directory.
        dir: PathBuf,
    },
    /// The store directory was written by another version.
    #[error(
        "store directory {} has format {found}, this program reads format {expected}; \
         use the program version that wrote it",
        dir.display()
    )]
    Format {
        /// The store directory.
        dir: PathBuf,
        /// The format version found.
        found: String,
        /// The format version this program writes.
        expected: u32,
    },
    /// A file of the store holds something this program did not write.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The file, relative to the store directory.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system under the store does not report holes exactly.
    #[error(
        "the file system of {} cannot hold a store ({detail}); use ext4 or XFS, without compression",
        dir.display()
    )]
    FileSystem {
        /// The store directory.
        dir: PathBuf,
        /// What the probe found.
        detail: String,
    },
    /// `/dev/fuse` cannot be opened.
    #[error(
        "/dev/fuse is missing or not accessible; load the kernel module (modprobe fuse) or, \
         in a container, start it with --device /dev/fuse and CAP_SYS_ADMIN"
    )]
    NoFuse(#[source] io::Error),
    /// The mount itself was refused.
    #[error("mount {}", dir.display())]
    Mount {
        /// The mount directory.
        dir: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A system call on the store directory or the control socket went wrong.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file concerned.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The control socket does not answer.
    #[error("connect to the store at {}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The connection to the store broke in the middle of a request.
    #[error("talk to the store")]
    Connection(#[source] io::Error),
    /// The store sent something that is not a reply to the request.
    #[error("the store sent an unexpected reply: {reply}")]
    UnexpectedReply {
        /// The line received, shortened.
        reply: String,
    },
    /// The store and its client come from different program versions.
    #[error(
        "the store speaks protocol {theirs}, this program {ours}; stop the store so that it is \
         restarted from the same program"
    )]
    Protocol {
        /// The version of this program.
        ours: u32,
        /// The version of the process on the other end.
        theirs: u32,
    },
    /// The store refused the request.
    #[error("the store refused: {message}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
    /// The store is on its way out.
    #[error("the store is stopping")]
    Stopping,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            Self::Unreachable { .. } | Self::Connection(_) | Self::Stopping => Advice::Retry,
            Self::BranchNumber { .. } | Self::NoSuchBranch { .. } | Self::BranchExists { .. } => {
                Advice::Refuse
            }
            Self::NoRoom { .. } | Self::NotPlain { .. } => Advice::Refuse,
            Self::Refused { code, .. } => code.advice(),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Advice::Refuse
            }
            _ => Advice::GiveUp,
        }
    }

    /// The error with its causes, in one line.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// The code under which this error travels to the client.
    pub(crate) fn code(&self) -> RefusalCode {
        match self {
            Self::BranchNumber { .. } | Self::NotPlain { .. } => RefusalCode::BadRequest,
            Self::NoSuchBranch { .. } => RefusalCode::NoSuchBranch,
            Self::BranchExists { .. } => RefusalCode::BranchExists,
            Self::BranchFailed { .. } | Self::BranchLost { .. } => RefusalCode::Failed,
            Self::Protocol { .. } => RefusalCode::Version,
            Self::Stopping => RefusalCode::Stopping,
            Self::NoRoom { .. } => RefusalCode::NoSpace,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                RefusalCode::NoSpace
            }
            _ => RefusalCode::Internal,
        }
    }
}

impl RefusalCode {
    fn advice(self) -> Advice {
        match self {
            Self::Stopping => Advice::Retry,
            Self::NoSuchBranch | Self::BranchExists | Self::NoSpace | Self::BadRequest => {
                Advice::Refuse
            }
            Self::Version | Self::Failed | Self::Internal => Advice::GiveUp,
        }
    }
}
