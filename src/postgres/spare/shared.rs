//! Which of the memory that its processes share a compute uses: the next one will use the same.
//!
//! It is asked of the kernel, not of Postgres: what lies where differs between versions and
//! settings. Needs root, like whatever opens the memory of others; without it nothing is known.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use rustix::fs::{SeekFrom, seek};

/// As the kernel names such memory.
const NAME: &str = "/dev/zero (deleted)";
/// A compute that has answered its first query uses some 8 MiB; a busy one all of its buffers.
const BYTES_MAX: u64 = 16 << 20;
/// What a spare reads from its environment stays short.
const RANGES_MAX: usize = 512;

/// The memory that the processes of a compute share, as `hold.c` reads it.
#[derive(Debug)]
pub(super) struct SharedMemory {
    bytes: u64,
    used: Vec<Range<u64>>,
}

impl SharedMemory {
    /// Of a compute that runs, by its postmaster.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let maps = fs::read_to_string(process.join("maps"))?;
        let areas = maps.lines().filter(|line| line.ends_with(NAME)).filter_map(area);
        let area = areas.max_by_key(|area| area.end - area.start);
        let area = area.ok_or(io::ErrorKind::NotFound)?;
        let name = format!("map_files/{:x}-{:x}", area.start, area.end);
        let used = used(&File::open(process.join(name))?)?;
        Ok(Self { bytes: area.end - area.start, used })
    }
}

impl fmt::Display for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes)?;
        self.used.iter().try_for_each(|used| write!(f, " {}-{}", used.start, used.end))
    }
}

/// The addresses that a line of `/proc/<pid>/maps` begins with.
fn area(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

/// Where anything was ever written, up to our bounds.
fn used(memory: &File) -> io::Result<Vec<Range<u64>>> {
    let mut used = Vec::new();
    let (mut from, mut left) = (0, BYTES_MAX);
    while used.len() < RANGES_MAX && left > 0 {
        let start = match seek(memory, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        from = seek(memory, SeekFrom::Hole(start))?.min(start + left);
        left -= from - start;
        used.push(start..from);
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_in_use_up_to_a_bound() {
        let page = 4096;
        let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memory = File::from(memory);
        memory.set_len(64 << 20).unwrap();
        assert!(used(&memory).unwrap().is_empty());
        for place in [3, 4, 9] {
            std::os::unix::fs::FileExt::write_all_at(&memory, &[1], place * page).unwrap();
        }
        let some = used(&memory).unwrap();
        assert_eq!(some, [3 * page..5 * page, 9 * page..10 * page]);
        let told = SharedMemory { bytes: 64 << 20, used: some }.to_string();
        assert_eq!(told, "67108864 12288-20480 36864-40960");
        let all = vec![1; 32 << 20];
        std::os::unix::fs::FileExt::write_all_at(&memory, &all, 16 * page).unwrap();
        let total: u64 = used(&memory).unwrap().iter().map(|used| used.end - used.start).sum();
        assert_eq!(total, BYTES_MAX);
    }
}
