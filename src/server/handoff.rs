//! Lays down the library by which computes take over their clients' sockets (`proxy.handoff`).
//!
//! Anew at each start, and by rename: the file may be of an older version, and computes that are
//! running have that one mapped.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ServerError;

/// Writes the library to `path`. Every compute's own uid must be able to read it, and none to
/// write.
pub(super) fn lay_down(path: &Path) -> Result<(), ServerError> {
    // The dynamic linker takes both for the end of a name.
    if path.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        return Err(ServerError::HandoffPath(path.display().to_string()));
    }
    Ok(write(path)?)
}

fn write(path: &Path) -> io::Result<()> {
    let fresh = path.with_extension("so.new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(&fresh)?;
    file.write_all(proxy::HANDOFF_LIBRARY)?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_anew_and_refuses_what_the_linker_would_misread() {
        let directory = std::env::temp_dir().join(format!("handoff-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("handoff.so");
        for _again in 0..2 {
            lay_down(&path).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), proxy::HANDOFF_LIBRARY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
        for bad in ["/a b/handoff.so", "/a:b/handoff.so"] {
            assert!(matches!(lay_down(Path::new(bad)), Err(ServerError::HandoffPath(_))));
        }
    }
}
