//! Symbolic links stay with their branch.
//!
//! Postgres links tablespaces by absolute path. A link may point into the branch's own directory,
//! or into the directory of its number where write-ahead logs lie, beside the store; a fork's copy
//! of it is read as pointing into the fork's. Any other way out is refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use crate::id::BranchId;
use crate::locks::FsResult;

/// The directories in which each branch has one of its own, named by its number.
#[derive(Clone)]
pub(super) struct Links {
    roots: [PathBuf; 2],
}

impl Links {
    pub(super) fn new(mount: PathBuf, wal: PathBuf) -> Self {
        Self { roots: [mount, wal] }
    }

    /// Refuses a link that leads out of `branch`.
    pub(super) fn check(&self, branch: BranchId, target: &Path) -> FsResult<()> {
        let owns = |root: &PathBuf| target.starts_with(root.join(branch.to_string()));
        let inside = target.is_relative() || self.roots.iter().any(owns);
        let climbs = target.components().any(|component| component == Component::ParentDir);
        if inside && !climbs { Ok(()) } else { Err(Errno::PERM) }
    }

    /// The link as `branch` must read it, whichever ancestor made it.
    pub(super) fn read(&self, branch: BranchId, target: &[u8]) -> Vec<u8> {
        let path = PathBuf::from(OsString::from_vec(target.to_vec()));
        let inside = |root: &PathBuf| {
            let mut components = path.strip_prefix(root).ok()?.components();
            components.next();
            let mut own = root.join(branch.to_string());
            own.extend(components);
            Some(own.into_os_string().into_vec())
        };
        self.roots.iter().find_map(inside).unwrap_or_else(|| target.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_their_branch_and_never_leave_it() {
        let links = Links::new("/m".into(), "/w".into());
        let branch = BranchId::new(7).unwrap();
        for inside in ["/m/7/spc", "/w/7", "log"] {
            assert!(links.check(branch, Path::new(inside)).is_ok(), "{inside}");
        }
        for out in ["/m/8/spc", "/w/8", "/w", "/etc", "../8/spc", "/m/7/../8"] {
            assert_eq!(links.check(branch, Path::new(out)), Err(Errno::PERM), "{out}");
        }
        for (made, seen) in [("/m/3/spc/1", "/m/7/spc/1"), ("/w/3", "/w/7"), ("log", "log")] {
            assert_eq!(links.read(branch, made.as_bytes()), seen.as_bytes());
        }
    }
}
