//! What is looked at before a compute is started, so that the error names the remedy.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use super::compute::ComputeSpec;
use super::error::PostgresError;
use super::process::Account;
use super::state;

/// `sun_path` holds 108 bytes, one of them the terminator.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Name of a compute's socket in its directory.
pub const SOCKET_NAME: &str = ".s.PGSQL.5432";

/// Checks a spec. True when a previous compute may have left something: `postmaster.pid` is there
/// unless a postmaster ended in order, which it does only after its children, and the record is
/// there unless we saw everything gone.
pub(super) fn check(spec: &ComputeSpec) -> Result<bool, PostgresError> {
    let socket = spec.socket_dir.join(SOCKET_NAME);
    if socket.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
        return Err(PostgresError::SocketPathTooLong(socket));
    }
    match spec.account {
        Some(account) => check_account(account, spec)?,
        None if geteuid().is_root() => return Err(PostgresError::NoAccount),
        None => {}
    }
    if let Some(process) = state::read(&spec.state_file, &spec.data_dir).filter(|p| p.is_alive()) {
        return Err(PostgresError::AlreadyRunning(process.pid));
    }
    Ok(spec.state_file.exists() || spec.data_dir.join("postmaster.pid").exists())
}

fn check_account(account: Account, spec: &ComputeSpec) -> Result<(), PostgresError> {
    if account.uid == 0 {
        return Err(PostgresError::NoAccount);
    }
    if has_user(account.uid) {
        return Err(PostgresError::AccountTaken(account.uid));
    }
    for path in [&spec.data_dir, &spec.socket_dir].into_iter().chain(&spec.wal_dir) {
        // The directory itself belongs to the account; those above must let it through.
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if !may_enter(above, account) {
                let path = above.to_owned();
                return Err(PostgresError::Unreachable { path, uid: account.uid });
            }
        }
    }
    Ok(())
}

/// True when the user database of this host knows the uid.
fn has_user(uid: u32) -> bool {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd.lines().any(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()))
}

fn may_enter(directory: &Path, account: Account) -> bool {
    let Ok(meta) = fs::metadata(directory) else { return false };
    let bit = if meta.uid() == account.uid {
        0o100
    } else if meta.gid() == account.gid {
        0o010
    } else {
        0o001
    };
    meta.mode() & bit != 0
}
