//! Symbolic links stay inside their branch.
//!
//! Postgres links tablespaces by absolute path. A link may point into the branch's own directory,
//! and a fork's copy of it is read as pointing into the fork's; any other way out is refused.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use crate::id::BranchId;
use crate::locks::FsResult;

/// Refuses a link that leads out of `branch`.
pub(super) fn check(mount: &Path, branch: BranchId, target: &Path) -> FsResult<()> {
    let inside = if target.is_absolute() {
        target.starts_with(mount.join(branch.to_string()))
    } else {
        true
    };
    let climbs = target.components().any(|component| component == Component::ParentDir);
    if inside && !climbs { Ok(()) } else { Err(Errno::PERM) }
}

/// The link as `branch` must read it, whichever ancestor made it.
pub(super) fn read(mount: &Path, branch: BranchId, target: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(OsString::from_vec(target.to_vec()));
    let Ok(inside) = path.strip_prefix(mount) else { return target.to_vec() };
    let mut components = inside.components();
    components.next();
    let mut own = mount.join(branch.to_string());
    own.extend(components);
    own.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_their_branch_and_never_leave_it() {
        let (mount, branch) = (Path::new("/m"), BranchId::new(7).unwrap());
        assert!(check(mount, branch, Path::new("/m/7/spc")).is_ok());
        assert!(check(mount, branch, Path::new("log")).is_ok());
        for out in ["/m/8/spc", "/etc", "../8/spc", "/m/7/../8"] {
            assert_eq!(check(mount, branch, Path::new(out)), Err(Errno::PERM), "{out}");
        }
        assert_eq!(read(mount, branch, b"/m/3/spc/1"), b"/m/7/spc/1");
        assert_eq!(read(mount, branch, b"log"), b"log");
    }
}
