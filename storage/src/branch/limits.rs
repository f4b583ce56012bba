//! How far a branch may grow: the reserve of the disk, and its own quota.
//!
//! Both bind growing files only, and of those not the ones without which a Postgres is down (WAL,
//! states of transactions). Pages that are copied because they change are never refused: a
//! checkpoint that cannot write them could not end, and WAL would pile up until the branch dies. So
//! a branch may come to hold its quota, what it changes of the pages it shares, and its WAL.

use rustix::io::Errno;

use super::Branch;
use super::contents::Change;
use crate::filter::is_vital;
use crate::locks::{self, FsResult};
use crate::pages::pages_in;

impl Branch {
    /// Refuses a change that makes the file end at `end`, if there is no room for more pages.
    pub(super) fn check_growth(&self, change: &Change<'_>, end: u64) -> FsResult<()> {
        let size = locks::read(&change.cell.inode)?.file().ok_or(Errno::ISDIR)?.size;
        if pages_in(end) <= pages_in(size) {
            return Ok(());
        }
        let refusal = if self.media.room.is_there() {
            return Ok(());
        } else {
            Errno::NOSPC
        };
        if is_vital(&*locks::read(&self.tree)?, change.file) { Ok(()) } else { Err(refusal) }
    }
}
