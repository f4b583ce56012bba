//! How far a branch may grow: the reserve of the disk, and its own quota.
//!
//! Both bind growing files only, and of those neither small ones nor the ones without which a
//! Postgres is down (WAL, states of transactions). Pages that are copied because they change are
//! never refused: a checkpoint that cannot write them could not end, and WAL would pile up until
//! the branch dies. So a branch may come to hold its quota, what it changes of the pages it shares,
//! and its WAL, which `max_wal_size` bounds.
//!
//! What the kernel holds back it has accepted from Postgres, and nothing can refuse it any more
//! ([`Branch::write_held_back`]). So it is told to stop that while there is still room for all that
//! it may hold ([`Branch::may_hold_back`]); from then on each write comes here first, and is
//! refused in time.
//!
//! If it fails all the same (others took the reserve, the disk broke), the kernel tells whoever
//! syncs, once for each file, and goes on to show what nothing holds. The Postgres recovers from
//! its log, and must not skip pages as current that are so in memory only: before its next start
//! the kernel forgets the branch ([`Branch::take_lost`]).

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::Branch;
use super::contents::Change;
use crate::filter::is_vital;
use crate::locks::{self, FsResult};
use crate::pages::pages_in;
use crate::room::HELD_BACK_MAX;

/// Every file may grow to this: the visibility map of 8 GiB of a table, without which VACUUM could
/// not make room in it.
const SMALL: u64 = 256 << 10;

impl Branch {
    /// Bytes that no other branch shows.
    pub(crate) fn unique_bytes(&self) -> u64 {
        self.account.unique() + self.top().map_or(0, |top| top.bytes())
    }

    /// The most it may come to hold of its own, if that is limited.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        Some(self.max()).filter(|max| *max != u64::MAX)
    }

    pub(crate) fn set_max_bytes(&self, max: Option<u64>) {
        self.max_bytes.store(max.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.note_size(self.unique_bytes());
    }

    /// Whether the kernel may hold writes back: none of those that it may hold would be refused.
    pub(crate) fn may_hold_back(&self) -> bool {
        !self.near_limit.load(Ordering::Relaxed) && self.media.room.is_ample()
    }

    /// A write that the kernel had accepted failed.
    pub(super) fn note_lost(&self) {
        self.lost_writes.store(true, Ordering::Release);
    }

    /// Whether one did since this was last asked.
    pub(crate) fn take_lost(&self) -> bool {
        self.lost_writes.swap(false, Ordering::AcqRel)
    }

    /// It holds as many bytes of its own by now.
    pub(super) fn note_size(&self, unique: u64) {
        let is_near = unique.saturating_add(HELD_BACK_MAX) >= self.max();
        self.near_limit.store(is_near, Ordering::Relaxed);
    }

    fn max(&self) -> u64 {
        self.max_bytes.load(Ordering::Relaxed)
    }

    /// Refuses a change that makes the file end at `end`, if there is no room for more pages.
    pub(super) fn check_growth(&self, change: &Change<'_>, end: u64) -> FsResult<()> {
        let size = locks::read(&change.cell.inode)?.file().ok_or(Errno::ISDIR)?.size;
        if pages_in(end) <= pages_in(size) || end <= SMALL {
            return Ok(());
        }
        let refusal = if !self.media.room.is_there() {
            Errno::NOSPC
        } else if self.account.unique() + change.top.bytes() >= self.max() {
            Errno::DQUOT
        } else {
            return Ok(());
        };
        if is_vital(&*locks::read(&self.tree)?, change.file) { Ok(()) } else { Err(refusal) }
    }
}
