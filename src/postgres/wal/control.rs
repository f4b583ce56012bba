//! What `global/pg_control` says of the log: where recovery begins.
//!
//! Written only in a fork that was never started. Postgres writes the whole file at once, so what
//! is read beside it is of one moment. The layout up to byte 52 is that of majors 13 to 18
//! (`catalog/pg_control.h`), in the byte order of the host, which is little-endian wherever Ardent
//! runs:
//!
//! | byte | what |
//! |---|---|
//! | 0..8 | system identifier |
//! | 8..12 | version of the layout |
//! | 12..16 | version of the catalog |
//! | 16..20 | state of the cluster |
//! | 24..32 | time of the last change |
//! | 32..40 | position of the last checkpoint's record |
//! | 40..48 | its redo position, at or before that record |
//! | 48..52 | its timeline |
//!
//! Where the checksum (CRC32C of all bytes before it) lies depends on the version; it is found by
//! its value.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::lsn::Lsn;

/// Versions of the layout: majors 13 to 16, 17, 18.
const VERSIONS: [u32; 3] = [1300, 1700, 1800];

const BYTES: usize = 52;
/// What Postgres reads; the rest of the file is zero.
const BYTES_MAX: usize = 512;

/// In the place of the state: shut down in order.
const SHUT_DOWN: u32 = 1;

/// Where recovery of a data directory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    /// The record that recovery reads first.
    pub(super) checkpoint: Lsn,
    /// Where it begins to replay.
    pub(super) redo: Lsn,
    /// Names the segments.
    pub(super) timeline: u32,
}

impl Control {
    pub(super) fn read(data_dir: &Path) -> io::Result<Self> {
        let mut bytes = [0; BYTES];
        File::open(path(data_dir))?.read_exact(&mut bytes)?;
        Self::decode(&bytes)
    }

    /// No log before the checkpoint has to be replayed. Postgres writes such a checkpoint when it
    /// shuts down, and at the end of recovery.
    pub(super) fn is_of_shutdown(&self) -> bool {
        self.redo == self.checkpoint
    }

    /// Spares a fork of a running compute the sync of everything before it recovers: of all files,
    /// or with `syncfs` of the host's whole file system, as long as that may take. It is for what
    /// a crash left unsynced, and the store has seen to that. Postgres skips it where the state is
    /// `shut down`, and recovers all the same where the last checkpoint began before its record.
    pub(super) fn skip_sync(&self, data_dir: &Path) -> io::Result<()> {
        if self.is_of_shutdown() {
            return Ok(());
        }
        let file = File::options().read(true).write(true).open(path(data_dir))?;
        let mut bytes = [0; BYTES_MAX];
        file.read_exact_at(&mut bytes, 0)?;
        set_state(&mut bytes, SHUT_DOWN).map_or(Ok(()), |()| file.write_all_at(&bytes, 0))
    }

    fn decode(bytes: &[u8; BYTES]) -> io::Result<Self> {
        let half = |at: usize| {
            let [a, b, c, d] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes([a, b, c, d])
        };
        let position = |at| Lsn(u64::from(half(at + 4)) << 32 | u64::from(half(at)));
        let version = half(8);
        if !VERSIONS.contains(&version) {
            return Err(io::Error::other(format!("pg_control has unknown version {version}")));
        }
        let (checkpoint, redo) = (position(32), position(40));
        if redo > checkpoint {
            return Err(io::Error::other("pg_control names a redo position past its checkpoint"));
        }
        Ok(Self { checkpoint, redo, timeline: half(48) })
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("global/pg_control")
}

/// None, and nothing changed, where no checksum is found.
fn set_state(bytes: &mut [u8; BYTES_MAX], state: u32) -> Option<()> {
    let holds_checksum = |at: &usize| {
        let (before, rest) = bytes.split_at(*at);
        rest.starts_with(&crc32c::crc32c(before).to_le_bytes())
    };
    let checksum = (BYTES..BYTES_MAX).step_by(4).find(holds_checksum)?;
    bytes[16..20].copy_from_slice(&state.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..checksum]);
    bytes[checksum..checksum + 4].copy_from_slice(&sum.to_le_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(version: u32, checkpoint: u64, redo: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        bytes[32..40].copy_from_slice(&checkpoint.to_le_bytes());
        bytes[40..48].copy_from_slice(&redo.to_le_bytes());
        bytes[48..52].copy_from_slice(&1_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn reads_what_it_knows_and_refuses_the_rest() {
        let read = Control::decode(&sample(1300, 0x1_0000_0200, 0x1_0000_0100)).unwrap();
        let (checkpoint, redo) = (Lsn(0x1_0000_0200), Lsn(0x1_0000_0100));
        assert_eq!(read, Control { checkpoint, redo, timeline: 1 });
        assert!(Control::decode(&sample(1201, 2, 1)).is_err());
        assert!(Control::decode(&sample(1800, 1, 2)).is_err());
    }

    #[test]
    fn a_state_is_set_under_a_new_checksum_or_not_at_all() {
        let mut bytes = [7; BYTES_MAX];
        assert_eq!(set_state(&mut bytes, SHUT_DOWN), None);
        assert_eq!(bytes, [7; BYTES_MAX]);
        let sum = crc32c::crc32c(&bytes[..292]).to_le_bytes();
        bytes[292..296].copy_from_slice(&sum);
        assert_eq!(set_state(&mut bytes, SHUT_DOWN), Some(()));
        assert_eq!((&bytes[..16], &bytes[16..20]), (&[7; 16][..], &[1, 0, 0, 0][..]));
        assert_eq!(bytes[292..296], crc32c::crc32c(&bytes[..292]).to_le_bytes());
    }
}
