//! The control protocol: one JSON request per line, one JSON reply per line, in order.
//!
//! The first request of a connection is `Hello`; any other, or another version, is refused and the
//! connection closed. Lines are at most [`LINE_MAX`] bytes.

use serde::{Deserialize, Serialize};

use crate::error::RefusalCode;
use crate::id::BranchId;

/// Version of this protocol. Raised with every change that an older end would misread.
pub const PROTOCOL_VERSION: u32 = 4;

/// Longest line either end accepts. A list of 10,000 branches is about 1 MB.
pub const LINE_MAX: usize = 64 << 20;

/// Most findings of one answer.
pub const FINDINGS_MAX: usize = 10_000;

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The file below the store directory, or the branch.
    pub place: String,
    /// What is wrong, and what that means.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.remedy)
    }
}

/// Who owns every file of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id reported for every inode.
    pub uid: u32,
    /// Group id reported for every inode.
    pub gid: u32,
}

/// What a branch costs, in bytes. Pages present plus metadata, 4 KiB a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes that only this branch references.
    pub unique_bytes: u64,
    /// Bytes it shares with other branches.
    pub shared_bytes: u64,
    /// Bytes that deleting it would free.
    pub reclaimable_bytes: u64,
    /// Sum of the sizes of its files.
    pub logical_bytes: u64,
    /// The most it may come to hold of its own, if that is limited.
    pub max_bytes: Option<u64>,
    /// Why the branch accepts no more writes, if it does not.
    pub failed: Option<String>,
}

/// One line of the list of branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchSummary {
    /// The branch.
    pub branch: BranchId,
    /// The branch it was forked from, which may be gone by now.
    pub parent: Option<BranchId>,
    /// Who owns its files.
    pub owner: Owner,
    /// Why the branch accepts no more writes, if it does not.
    pub failed: Option<String>,
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Opens the conversation.
    Hello {
        /// Protocol version of the client.
        version: u32,
    },
    /// Makes an empty branch.
    Create {
        /// Its number, never used before.
        branch: BranchId,
        /// Owner of its files.
        owner: Owner,
    },
    /// Makes a branch of the directory `incoming/<branch>` of the store. No process may use it.
    Import {
        /// Its number, never used before.
        branch: BranchId,
        /// Owner of its files.
        owner: Owner,
    },
    /// Makes a branch that holds what another holds now.
    Fork {
        /// The branch to copy; it may be running.
        parent: BranchId,
        /// The number of the copy, never used before.
        child: BranchId,
        /// Owner of the copy's files.
        owner: Owner,
        /// Whether it is durable, and what syncs promise, only once it is confirmed.
        tentative: bool,
    },
    /// Makes a tentative branch durable, and its syncs from here on.
    Confirm {
        /// The branch.
        branch: BranchId,
    },
    /// Removes a branch. Branches forked from it stay whole.
    Delete {
        /// The branch.
        branch: BranchId,
    },
    /// Changes who owns the files of a branch. No process may have it open.
    SetOwner {
        /// The branch.
        branch: BranchId,
        /// The new owner.
        owner: Owner,
    },
    /// Limits what a branch may come to hold of its own. Children do not inherit it.
    Limit {
        /// The branch.
        branch: BranchId,
        /// The most; none takes the limit away.
        max_bytes: Option<u64>,
    },
    /// Says that a compute is about to start on the branch.
    BeginCompute {
        /// The branch.
        branch: BranchId,
    },
    /// Asks what a branch costs.
    Usage {
        /// The branch.
        branch: BranchId,
    },
    /// Asks for all branches, by number.
    List,
    /// Asks for everything that is not as it must be.
    Check,
    /// Unmounts, makes everything durable and ends the process. The reply comes first.
    Shutdown,
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answer to `Hello`.
    Hello {
        /// Protocol version of the store.
        version: u32,
    },
    /// The request was carried out and is durable.
    Done,
    /// Answer to `Usage`.
    Usage(Usage),
    /// Answer to `List`.
    List {
        /// All branches, by number.
        branches: Vec<BranchSummary>,
    },
    /// Answer to `Check`.
    Check {
        /// What was found; more than [`FINDINGS_MAX`] are cut off.
        findings: Vec<Finding>,
    },
    /// The request was not carried out.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people.
        message: String,
    },
}
