//! Mounting and unmounting.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, StatxFlags, statfs, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::held_back::{self, HeldBack};
use super::links::Links;
use super::requests::Requests;
use super::ring::{self, Rings};
use crate::error::Error;
use crate::id::BranchId;
use crate::store::Store;

/// Threads that answer requests. An fsync may hold one until the disk is done, so there are more of
/// them than processors and than may run syncs; see `syncs.rs`.
const THREADS: usize = 16;

/// Far enough for many of the largest reads to be on their way at a time. The kernel's own 128 KiB
/// are one round trip and one disk access each, where disks of their own get megabytes.
const READ_AHEAD_KIB: &str = "4096";

/// What the kernel may do, where it can.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// Bring requests over `io_uring`.
    pub(crate) io_uring: bool,
    /// Hold writes back.
    pub(crate) holds_back: bool,
}

/// The mount, as long as it is there.
pub(crate) struct Mounted {
    dir: PathBuf,
    serving: Mutex<Option<(BackgroundSession, Option<Rings>)>>,
    notifier: Notifier,
}

impl Mounted {
    /// Mounts at `dir`; `wal` is the other directory that links may lead to.
    pub(crate) fn new(
        store: Arc<Store>,
        dir: &Path,
        wal: PathBuf,
        kernel: Kernel,
    ) -> Result<Self, Error> {
        let fault = |source| Error::Mount { dir: dir.to_path_buf(), source };
        OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(Error::NoFuse)?;
        let dir = detach_corpse(dir).map_err(fault)?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("ardent".to_owned()),
            MountOption::Subtype("ardent".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoAtime,
        ];
        // Unprivileged, store and computes are one user; others need the administrator's leave.
        let privileged = rustix::process::geteuid().is_root();
        config.acl = if privileged { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let links = Links::new(dir.clone(), wal);
        let (held_back, surprises) = HeldBack::new();
        let holds_back = kernel.holds_back && privileged && held_back::can_be_bounded();
        let held_back = holds_back.then_some(held_back);
        let over_rings = kernel.io_uring && ring::are_there();
        let requests = Requests::new(store.clone(), links, held_back, over_rings).map_err(fault)?;
        let session = Session::new(requests.clone(), &dir, &config).map_err(fault)?;
        let rings = start_rings(&session, requests).map_err(fault)?;
        let session = session.spawn().map_err(fault)?;
        let notifier = session.notifier();
        let device = device_of(&dir).map_err(fault)?;
        if holds_back {
            let store = Arc::downgrade(&store);
            surprises.serve(store, notifier.clone(), device.clone()).map_err(fault)?;
        }
        if let Err(error) = read_far_ahead(&device) {
            // Unprivileged, or /sys is not to be written: long scans are slower.
            tracing::debug!(%error, "the kernel reads as far ahead as it does by itself");
        }
        Ok(Self { dir, serving: Mutex::new(Some((session, rings))), notifier })
    }

    /// Lets the kernel forget what it knows of a branch that was deleted or changed hands.
    pub(crate) fn forget(&self, branch: BranchId) {
        let name = branch.to_string();
        // It may have known nothing.
        if let Err(error) = self.notifier.inval_entry(INodeNo::ROOT, OsStr::new(&name)) {
            tracing::debug!(%branch, %error, "nothing to forget");
        }
    }

    /// Lets the kernel list the branches anew: it keeps listings, and those of the root are changed
    /// behind its back.
    pub(crate) fn relist(&self) {
        // It may have kept none.
        if let Err(error) = self.notifier.inval_inode(INodeNo::ROOT, 0, 0) {
            tracing::debug!(%error, "nothing to list anew");
        }
    }

    /// Takes the mount away, also from processes that still use it.
    pub(crate) fn unmount(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((session, rings)) = serving else { return };
        match unmount(&self.dir, UnmountFlags::NOFOLLOW) {
            // Already gone, or not ours to unmount without fusermount3: the session sees to it.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::NOENT) => {
                match session.umount_and_join() {
                    // It finds nothing mounted any more.
                    Err(error) if error.raw_os_error() != Some(Errno::INVAL.raw_os_error()) => {
                        tracing::warn!(%error, "end the mount");
                    }
                    Ok(()) | Err(_) => {}
                }
                if let Some(rings) = rings {
                    rings.join();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the mount is in use; it is taken away all the same");
                if let Err(error) = unmount(&self.dir, UnmountFlags::DETACH) {
                    tracing::error!(%error, "unmount");
                }
                // Its threads end with the last open file, or with the process; joining them here
                // would wait for the former.
                std::mem::forget((session, rings));
            }
        }
    }
}

fn start_rings(session: &Session<Requests>, requests: Requests) -> io::Result<Option<Rings>> {
    if !requests.over_rings() {
        return Ok(None);
    }
    tracing::info!("requests come over io_uring");
    Rings::start(session.as_fd().try_clone_to_owned()?, requests).map(Some)
}

/// The mount's device, `major:minor`, asked without a request to the mount: nothing may wait for it
/// here.
fn device_of(dir: &Path) -> io::Result<String> {
    let about = statx(CWD, dir, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(format!("{}:{}", about.stx_dev_major, about.stx_dev_minor))
}

/// Sets how far ahead of a long scan the kernel reads.
fn read_far_ahead(device: &str) -> io::Result<()> {
    fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB)
}

/// Removes what a store that was killed left mounted. Returns the directory's full name, resolved
/// while nothing is mounted there.
fn detach_corpse(dir: &Path) -> io::Result<PathBuf> {
    // Every killed store may have left one. What the kernel knows of its root it still tells: only
    // the file system's figures are asked for each time.
    while matches!(statfs(dir), Err(Errno::NOTCONN | Errno::CONNABORTED)) {
        if unmount(dir, UnmountFlags::DETACH).is_err() {
            let status = std::process::Command::new("fusermount3").arg("-uz").arg(dir).status()?;
            if !status.success() {
                return Err(Errno::NOTCONN.into());
            }
        }
        tracing::warn!(dir = %dir.display(), "removed the mount of a store that was killed");
    }
    fs::create_dir_all(dir)?;
    dir.canonicalize()
}
