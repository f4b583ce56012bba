//! Shared memory that a killed compute leaves in the kernel.
//!
//! Postgres keeps a small System V segment as its interlock and POSIX segments for parallel
//! queries. An orderly end removes them; after a kill the next start in the same data directory
//! does. A branch that is killed and deleted has no next start, and there are 4096 System V
//! segments in all (`kernel.shmmni`), so they are removed here.
//!
//! With a uid per compute everything of that uid goes. Without one the System V segment goes that
//! `postmaster.pid` names, and the POSIX segment that its header names, which Postgres makes at
//! every start; segments of parallel queries that ran at the kill cannot be told apart and stay.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use super::remains::Identity;

const SYSTEM_V_LIST: &str = "/proc/sysvipc/shm";
const POSIX_DIRECTORY: &str = "/dev/shm";

/// One line of the kernel's list.
#[derive(Debug, PartialEq, Eq)]
struct Segment {
    key: i64,
    id: i32,
    bytes: usize,
    attached: u64,
    uid: u32,
}

/// Removes the segments of a compute all of whose processes are gone.
pub(super) fn remove_orphans(identity: &Identity, pid_file: &Path) -> io::Result<()> {
    let list = match fs::read_to_string(SYSTEM_V_LIST) {
        // A kernel without System V shared memory has no segment of it to lose.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let orphans = list.lines().filter_map(parse_segment).filter(|segment| segment.attached == 0);
    match identity {
        Identity::Uid(uid) => {
            orphans.filter(|segment| segment.uid == *uid).try_for_each(|s| remove(s.id))?;
            remove_posix(*uid)
        }
        Identity::Directory(_) => {
            let Some((key, id)) = recorded_segment(pid_file) else { return Ok(()) };
            let own = geteuid().as_raw();
            orphans
                .filter(|segment| segment.uid == own && (segment.key, segment.id) == (key, id))
                .try_for_each(|segment| {
                    if let Some(name) = control_segment(&segment) {
                        // Gone already is as good as removed.
                        drop(fs::remove_file(Path::new(POSIX_DIRECTORY).join(name)));
                    }
                    remove(segment.id)
                })
        }
    }
}

/// Key and id as Postgres writes them into line 7 of `postmaster.pid`.
fn recorded_segment(pid_file: &Path) -> Option<(i64, i32)> {
    const SHARED_MEMORY_LINE: usize = 7;
    let text = fs::read_to_string(pid_file).ok()?;
    let mut fields = text.lines().nth(SHARED_MEMORY_LINE - 1)?.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Columns: key shmid perms size cpid lpid nattch uid gid ... (proc(5)).
fn parse_segment(line: &str) -> Option<Segment> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    Some(Segment {
        key: fields.first()?.parse().ok()?,
        id: fields.get(1)?.parse().ok()?,
        bytes: fields.get(3)?.parse().ok()?,
        attached: fields.get(6)?.parse().ok()?,
        uid: fields.get(7)?.parse().ok()?,
    })
}

/// Name of the POSIX segment that a System V segment of Postgres points to (pg_shmem.h,
/// `PGShmemHeader`: magic, pid, two sizes, then the handle; the same in 13 to 18).
fn control_segment(segment: &Segment) -> Option<String> {
    const MAGIC: u32 = 679_834_894;
    const HANDLE_WORD: usize = 6;
    const WORDS: usize = HANDLE_WORD + 1;
    if segment.bytes < WORDS * size_of::<u32>() {
        return None;
    }
    // SAFETY: attaching read-only at an address of the kernel's choice touches nothing of ours.
    let address = unsafe { libc::shmat(segment.id, std::ptr::null(), libc::SHM_RDONLY) };
    if address.addr() == usize::MAX {
        return None;
    }
    // SAFETY: the segment is attached, page aligned and at least `WORDS` words long, and nobody
    // else is attached who could write to it.
    let words = unsafe { address.cast::<[u32; WORDS]>().read() };
    // SAFETY: the address is what shmat returned, and `words` is a copy.
    unsafe { libc::shmdt(address) };
    (words.first() == Some(&MAGIC)).then(|| format!("PostgreSQL.{}", words[HANDLE_WORD]))
}

fn remove(id: i32) -> io::Result<()> {
    // SAFETY: IPC_RMID reads no buffer, so the null pointer is not followed.
    let result = unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    let error = io::Error::last_os_error();
    let gone = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIDRM));
    if result == 0 || gone { Ok(()) } else { Err(error) }
}

fn remove_posix(uid: u32) -> io::Result<()> {
    for entry in fs::read_dir(POSIX_DIRECTORY).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with("PostgreSQL.")
            && entry.metadata().is_ok_and(|meta| meta.uid() == uid);
        if ours {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        let header = "       key      shmid perms                  size  cpid  lpid nattch   uid";
        assert_eq!(parse_segment(header), None);
        let line = "  -2147479562          3   600                    56  5072  5072      6   101 \
                    104   101   104 1732223000          0 1732223000 4096 0";
        let expected = Segment { key: -2_147_479_562, id: 3, bytes: 56, attached: 6, uid: 101 };
        assert_eq!(parse_segment(line), Some(expected));
    }
}
