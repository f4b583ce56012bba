//! The bytes of a log: its header, and records that tell by themselves whether they are whole.
//!
//! ```text
//! header   0  8  magic: "ARDLAYER" or "ARDBRNCH"
//!          8  4  format version
//!         12  4  layer number, or 0
//!         16  4  CRC32C of bytes 0..16
//! record   0  4  length n of the payload, at most 128 KiB
//!          4  8  sequence number, from 1, without gaps
//!         12  1  type
//!         13  n  payload
//!      13+n  4  CRC32C of the header's 20 bytes and then bytes 0..13+n
//! ```
//! All integers are little-endian. The checksum covers the header, so that a record never counts
//! in a file it was not written to.

use std::io;

use crate::journal::bytes::{Reader, Writer};

const VERSION: u32 = 1;
/// Bytes of the header.
pub(super) const HEADER: usize = 20;
const PAYLOAD_MAX: usize = 128 << 10;

/// What a log is about; part of every checksum in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    /// The edits of one layer's files and names.
    Layer(u32),
    /// The edits of the branch tree.
    Branches,
}

impl LogKind {
    /// The bytes that a log of this kind begins with.
    pub(super) fn header(self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Layer(_) => b"ARDLAYER".to_vec(),
            Self::Branches => b"ARDBRNCH".to_vec(),
        };
        let number = if let Self::Layer(number) = self { number } else { 0 };
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&number.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// One record read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) sequence: u64,
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

/// The bytes of one record.
pub(super) fn encode(seed: u32, sequence: u64, kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_MAX)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mut record = Writer::default();
    record.u32(len).u64(sequence).u8(kind).raw(payload);
    let mut record = record.into_bytes();
    let crc = crc32c::crc32c_append(seed, &record);
    record.extend_from_slice(&crc.to_le_bytes());
    Ok(record)
}

/// The record at `at`, and where it ends.
pub(super) fn decode(
    bytes: &[u8],
    at: usize,
    seed: u32,
    expected: u64,
) -> Option<(Entry<'_>, usize)> {
    let rest = bytes.get(at..)?;
    let mut reader = Reader::new(rest);
    let len = usize::try_from(reader.u32().ok()?).ok().filter(|len| *len <= PAYLOAD_MAX)?;
    let sequence = reader.u64().ok()?;
    let kind = reader.u8().ok()?;
    let payload = reader.take(len).ok()?;
    let crc = reader.u32().ok()?;
    let covered = rest.get(..13 + len)?;
    (sequence == expected && crc == crc32c::crc32c_append(seed, covered))
        .then_some((Entry { sequence, kind, payload }, at + 17 + len))
}
