//! How much room the disk under the store has left, and what may still use it.
//!
//! A reserve is kept: once less is available, new branches and growing files are refused, so that
//! what needs space to go on has it: WAL, pages that are copied because they change, the store's
//! own journals. A Postgres that cannot extend a file tells one client so; one that cannot write
//! WAL is down.
//!
//! The disk is not asked at each write: a quarter of the room above the reserve may be used, or
//! two seconds go by (the keeper asks then), before it is asked again. While room is short every
//! change that is about to be refused asks, so that space that was freed is seen at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use crate::disk::{Disk, Space};
use crate::error::Error;

/// Most bytes that the kernel may hold back of what Postgres has written, in all branches together.
/// They find their room when they come.
pub(crate) const HELD_BACK_MAX: u64 = 64 << 20;

/// Most bytes to be used before the disk is asked again.
const UNASKED_MAX: u64 = 64 << 20;

pub(crate) struct Room {
    disk: Arc<dyn Disk>,
    reserve: u64,
    /// Bytes that may be used before the disk is asked again; nothing or less while room is short.
    unasked: AtomicI64,
    /// Whether there is room above the reserve for all that the kernel may hold back as well.
    is_ample: AtomicBool,
}

impl Room {
    pub(crate) fn new(disk: Arc<dyn Disk>, reserve: u64) -> Self {
        let room =
            Self { disk, reserve, unasked: AtomicI64::new(0), is_ample: AtomicBool::new(false) };
        room.ask();
        room
    }

    /// Asks the disk. Whether there is room above the reserve.
    pub(crate) fn ask(&self) -> bool {
        let above = match self.disk.space() {
            Ok(space) => space.available.saturating_sub(self.reserve),
            // It cannot tell; then a write that does not fit will.
            Err(_) => UNASKED_MAX,
        };
        let unasked = (above / 4).clamp(above.min(1), UNASKED_MAX);
        self.unasked.store(i64::try_from(unasked).unwrap_or(0), Ordering::Relaxed);
        self.is_ample.store(above > UNASKED_MAX + HELD_BACK_MAX, Ordering::Relaxed);
        unasked > 0
    }

    /// `bytes` more of the disk are used.
    pub(crate) fn used(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.unasked.fetch_sub(bytes, Ordering::Relaxed);
        if before > 0 && before <= bytes {
            self.ask();
        }
    }

    /// Whether files may grow.
    pub(crate) fn is_there(&self) -> bool {
        self.unasked.load(Ordering::Relaxed) > 0 || self.ask()
    }

    /// Whether the kernel may hold writes back.
    pub(crate) fn is_ample(&self) -> bool {
        self.is_ample.load(Ordering::Relaxed)
    }

    /// Refuses what must leave the reserve to others.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.ask() {
            return Ok(());
        }
        let available = self.disk.space().map_or(0, |Space { available, .. }| available);
        Err(Error::NoRoom { available, reserve: self.reserve })
    }
}
