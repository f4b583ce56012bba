//! What `global/pg_control` says of the log: where recovery begins.
//!
//! Never written here, and read only while no postmaster changes it. The layout up to byte 52 is
//! that of majors 13 to 18 (`catalog/pg_control.h`), in the byte order of the host, which is
//! little-endian wherever Ardent runs:
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

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::lsn::Lsn;

/// Versions of the layout: majors 13 to 16, 17, 18.
const VERSIONS: [u32; 3] = [1300, 1700, 1800];

const BYTES: usize = 52;

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
        File::open(data_dir.join("global/pg_control"))?.read_exact(&mut bytes)?;
        Self::decode(&bytes)
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
}
