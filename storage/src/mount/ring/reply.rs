//! Replies, written into an entry's payload as the kernel reads them.
//!
//! ```text
//! attributes (88)  node 8, size 8, blocks 8, times 3 x 8, nanoseconds 3 x 4, mode 4, links 4,
//!                  uid 4, gid 4, device 4, block size 4, flags 4
//! name (128)       node 8, generation 8, seconds it is valid 8, seconds its attributes are 8,
//!                  nanoseconds of both 2 x 4, attributes
//! open file (16)   handle 8, flags 4, backing file 4
//! entry            node 8, cookie 8, length of the name 4, type 4, name, zeros to a multiple of 8
//! ```

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, FopenFlags};

use super::super::requests::Named;

/// Bytes of a directory entry before its name.
const ENTRY: usize = 24;

pub(super) struct Reply<'a> {
    payload: &'a mut [u8],
    len: usize,
}

impl<'a> Reply<'a> {
    pub(super) fn new(payload: &'a mut [u8]) -> Self {
        Self { payload, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Payloads are longer than any reply: what is cut to size is cut by the one who writes it.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(place) = self.payload.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    pub(super) fn attributes(&mut self, attr: &FileAttr) -> &mut Self {
        let times = [attr.atime, attr.mtime, attr.ctime].map(since_epoch);
        self.u64(attr.ino.0).u64(attr.size).u64(attr.blocks);
        for time in times {
            self.u64(time.0);
        }
        for time in times {
            self.u32(time.1);
        }
        self.u32(type_bits(attr.kind) | u32::from(attr.perm)).u32(attr.nlink);
        self.u32(attr.uid).u32(attr.gid).u32(attr.rdev).u32(attr.blksize).u32(0)
    }

    pub(super) fn attributes_valid(&mut self, attr: &FileAttr, valid: Duration) -> &mut Self {
        self.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0).attributes(attr)
    }

    pub(super) fn name(&mut self, named: &Named) -> &mut Self {
        let (name, attributes) = (named.name_valid, named.attributes_valid);
        self.u64(named.attr.ino.0).u64(0).u64(name.as_secs()).u64(attributes.as_secs());
        self.u32(name.subsec_nanos()).u32(attributes.subsec_nanos()).attributes(&named.attr)
    }

    pub(super) fn open_file(&mut self, flags: FopenFlags) -> &mut Self {
        self.u64(0).u32(flags.bits()).u32(0)
    }

    /// Adds an entry of a directory. True if there is no room for it in `max` bytes.
    pub(super) fn entry(&mut self, cookie: u64, name: &OsStr, attr: &FileAttr, max: usize) -> bool {
        let padded = (ENTRY + name.len()).next_multiple_of(8);
        if self.len + padded > max.min(self.payload.len()) {
            return true;
        }
        let len = u32::try_from(name.len()).unwrap_or(0);
        self.u64(attr.ino.0).u64(cookie).u32(len).u32(type_bits(attr.kind) >> 12);
        self.raw(name.as_bytes());
        self.raw(&[0; 8][..padded - ENTRY - name.len()]);
        false
    }
}

/// The file type in `st_mode`.
fn type_bits(kind: FileType) -> u32 {
    let kind = match kind {
        FileType::Directory => rustix::fs::FileType::Directory,
        FileType::Symlink => rustix::fs::FileType::Symlink,
        // There are no others in a branch.
        _ => rustix::fs::FileType::RegularFile,
    };
    kind.as_raw_mode()
}

/// Seconds, which the kernel reads as a signed number, and nanoseconds.
fn since_epoch(time: SystemTime) -> (u64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after.as_secs(), after.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let nanoseconds = before.subsec_nanos();
            let whole = before.as_secs() + u64::from(nanoseconds > 0);
            (whole.wrapping_neg(), (1_000_000_000 - nanoseconds) % 1_000_000_000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::answer::root_attr;

    #[test]
    fn entries_end_where_the_kernel_looks_for_the_next_and_stop_when_it_is_full() {
        let mut payload = [0xff; 256];
        let mut reply = Reply::new(&mut payload);
        let attr = root_attr();
        assert!(!reply.entry(3, OsStr::new("a"), &attr, 256));
        assert_eq!(reply.len(), 32);
        assert!(!reply.entry(4, OsStr::new("12345678"), &attr, 256));
        assert_eq!(reply.len(), 32 + 32);
        assert!(reply.entry(5, OsStr::new("b"), &attr, 64));
        assert_eq!(reply.len(), 64);
        let first =
            [&[1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..], &[1, 0, 0, 0, 4, 0, 0, 0]];
        assert_eq!(payload[..24], first.concat());
        assert_eq!(payload[24..32], *b"a\0\0\0\0\0\0\0");
    }

    #[test]
    fn attributes_and_names_have_the_length_that_the_kernel_asks_for() {
        let mut payload = [0; 512];
        let attr = root_attr();
        let named =
            Named { attr, name_valid: Duration::ZERO, attributes_valid: Duration::from_secs(1) };
        let lengths = [
            Reply::new(&mut payload).attributes(&attr).len(),
            Reply::new(&mut payload).attributes_valid(&attr, Duration::ZERO).len(),
            Reply::new(&mut payload).name(&named).len(),
            Reply::new(&mut payload).open_file(FopenFlags::empty()).len(),
        ];
        assert_eq!(lengths, [88, 104, 128, 16]);
    }

    #[test]
    fn times_before_1970_count_nanoseconds_upwards() {
        let before = UNIX_EPOCH.checked_sub(Duration::from_millis(1_250)).unwrap();
        assert_eq!(since_epoch(before), (2_u64.wrapping_neg(), 750_000_000));
    }
}
