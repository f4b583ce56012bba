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
