//! Writes that the kernel holds back.
//!
//! What Postgres writes to a data file waits in the page cache until Postgres syncs the file, or
//! the kernel finds the time (`FUSE_WRITEBACK_CACHE`): a page that is evicted costs no request, and
//! a long copy few large ones. Everybody who uses the mount sees each write at once. The store sees
//! it later, so that a fork of a running Postgres holds what a loss of power would leave: all that
//! was synced, and of the rest some. That is what Postgres recovers from, with the pages in full
//! that its log has (`full_page_writes`).
//!
//! A write that is held back cannot be refused any more. Where the next ones might have to be
//! (`Branch::may_hold_back`), files carry the set-user-ID bit: such a file the kernel writes at
//! once, since writing takes the bit away (`FUSE_HANDLE_KILLPRIV_V2`; here it stays). It gives
//! nobody any right, as the mount is `nosuid`. What the kernel has learned before is taken back
//! from it: a write of a branch that should hold back none is the sign that it does not know.
//!
//! Bounds: the kernel holds back no more than [`HELD_BACK_MAX`] bytes, of all branches together. It
//! keeps that bound as a share of the memory that may be dirty, so it is told again as that
//! changes; where there is too little memory for it, the kernel's own bound of 1 % is less. One
//! message waits for each file of which it was surprised, up to [`SURPRISES_MAX`]; one that finds
//! no place is repeated by the next write.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use fuser::{INodeNo, Notifier};
use rustix::fs::{Access, access};

use crate::id::{BranchId, NodeId};
use crate::room::HELD_BACK_MAX;
use crate::store::Store;

const SURPRISES_MAX: usize = 64;
/// A branch's files are told to the kernel again after that long, if it still holds back.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the kernel is told the bound.
const BOUND_INTERVAL: Duration = Duration::from_secs(10);
/// What the kernel knows of its backing devices.
const DEVICES: &str = "/sys/class/bdi";

/// Tells the kernel of branches whose writes it must not hold back any more.
#[derive(Clone)]
pub(super) struct HeldBack {
    surprises: SyncSender<NodeId>,
}

/// The other end, before the mount is there.
pub(super) struct Surprises(Receiver<NodeId>);

impl HeldBack {
    pub(super) fn new() -> (Self, Surprises) {
        let (surprises, receiver) = sync_channel(SURPRISES_MAX);
        (Self { surprises }, Surprises(receiver))
    }

    /// A write to this file was held back, in a branch in which none should be.
    pub(super) fn surprised_by(&self, node: INodeNo) {
        if let Some(node) = NodeId::parse(node.0) {
            // Full: the next write says so again. Ended: so has the mount.
            let _ = self.surprises.try_send(node);
        }
    }
}

impl Surprises {
    /// Serves them on a thread of its own until the mount is gone: the kernel may let whoever tells
    /// it of a file wait for a request to that file.
    pub(super) fn serve(
        self,
        store: Weak<Store>,
        notifier: Notifier,
        device: String,
    ) -> io::Result<()> {
        bound(&device);
        let mut teller = Teller { store, notifier, told: HashMap::new() };
        let serve = move || {
            let mut bound_at = Instant::now();
            loop {
                match self.0.recv_timeout(BOUND_INTERVAL) {
                    Ok(node) => teller.tell(node),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if bound_at.elapsed() >= BOUND_INTERVAL {
                    bound(&device);
                    bound_at = Instant::now();
                }
            }
        };
        std::thread::Builder::new().name("held-back".to_owned()).spawn(serve).map(drop)
    }
}

/// Tells the kernel of files, each branch's now and then.
struct Teller {
    store: Weak<Store>,
    notifier: Notifier,
    told: HashMap<BranchId, Instant>,
}

impl Teller {
    fn tell(&mut self, node: NodeId) {
        self.told.retain(|_, at| at.elapsed() < TELL_AGAIN_AFTER);
        forget_attributes(&self.notifier, node);
        if self.told.contains_key(&node.branch) {
            return;
        }
        let Some(store) = self.store.upgrade() else { return };
        // One that is gone has no files.
        let files = store.branch(node.branch).map(|branch| branch.known_files());
        for file in files.ok().and_then(Result::ok).into_iter().flatten() {
            forget_attributes(&self.notifier, NodeId { file, ..node });
        }
        self.told.insert(node.branch, Instant::now());
    }
}

fn forget_attributes(notifier: &Notifier, node: NodeId) {
    // A negative offset: attributes only. It may have known nothing of it.
    if let Err(error) = notifier.inval_inode(INodeNo(node.number()), -1, 0) {
        tracing::trace!(?node, %error, "no attributes to forget");
    }
}

/// Whether what the kernel holds back can be bounded, before there is a mount.
pub(super) fn can_be_bounded() -> bool {
    let first = fs::read_dir(DEVICES).ok().and_then(|mut devices| devices.next()?.ok());
    first.is_some_and(|device| access(device.path().join("max_bytes"), Access::WRITE_OK).is_ok())
}

/// Bounds what the kernel holds back of the mount on this device.
fn bound(device: &str) {
    let file = Path::new(DEVICES).join(device).join("max_bytes");
    if let Err(error) = fs::write(file, HELD_BACK_MAX.to_string()) {
        tracing::debug!(%error, "the kernel's own bound holds");
    }
}
