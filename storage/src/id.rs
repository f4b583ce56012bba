//! Numbers that name things in the store. Each is a type of its own, checked where it enters.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A branch number: chosen by the caller, never reused, 1 to 2^31 - 1.
///
/// Every inode number of a branch carries it in its low 31 bits, from which Postgres derives its
/// `SysV` shared memory key; so two branches never start probing at the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BranchId(NonZeroU32);

impl BranchId {
    /// Bits of an inode number that hold the branch.
    pub(crate) const BITS: u32 = 31;

    /// The number, if it may name a branch.
    pub fn new(number: u32) -> Result<Self, Error> {
        NonZeroU32::new(number)
            .filter(|number| number.get() >> Self::BITS == 0)
            .map(Self)
            .ok_or(Error::BranchNumber { number })
    }

    /// The plain number; its decimal form is the branch's directory in the mount.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for BranchId {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        Self::new(number)
    }
}

impl From<BranchId> for u32 {
    fn from(branch: BranchId) -> Self {
        branch.get()
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer number: given out by the store in rising order, never reused. It says nothing of what
/// lies on what: numbers are given out before it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LayerId(NonZeroU32);

impl LayerId {
    pub(crate) const FIRST: Self = Self(NonZeroU32::MIN);

    pub(crate) fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }

    /// The number after this one, until 4 billion layers are used up.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that is unique within a branch and its ancestors: an inode or the contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId(u64);

impl FileId {
    /// The directory that is the branch itself.
    pub(crate) const ROOT: Self = Self(1);

    /// `number`, if it fits above the branch in a 64-bit inode number and is not zero.
    pub(crate) fn new(number: u64) -> Option<Self> {
        (number != 0 && number >> (u64::BITS - BranchId::BITS) == 0).then_some(Self(number))
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a data file inside its layer: `<inode>-<contents>`.
///
/// Contents get a new number whenever the file is truncated to nothing, so that old bytes cannot
/// come back, and all layers that hold pages of one contents agree on the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DataName {
    pub(crate) inode: FileId,
    pub(crate) contents: FileId,
}

impl DataName {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (inode, contents) = name.split_once('-')?;
        Some(Self {
            inode: FileId::new(inode.parse().ok()?)?,
            contents: FileId::new(contents.parse().ok()?)?,
        })
    }
}

impl fmt::Display for DataName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.inode, self.contents)
    }
}

/// An inode number as the kernel sees it: the file above, the branch in the low 31 bits.
///
/// Number 1 is the root of the mount; no branch has it, since files are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId {
    pub(crate) branch: BranchId,
    pub(crate) file: FileId,
}

impl NodeId {
    pub(crate) fn parse(number: u64) -> Option<Self> {
        let low = u32::try_from(number & ((1 << BranchId::BITS) - 1)).ok()?;
        Some(Self {
            branch: BranchId::new(low).ok()?,
            file: FileId::new(number >> BranchId::BITS)?,
        })
    }

    pub(crate) fn number(self) -> u64 {
        self.file.get() << BranchId::BITS | u64::from(self.branch.get())
    }
}
