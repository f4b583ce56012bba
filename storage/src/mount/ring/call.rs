//! What the kernel asks, as it lies in an entry's buffers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::INodeNo;

/// Bytes of a header: that of the request, what its operation is given, that of the entry.
pub(super) const HEADER: usize = 128 + 128 + 32;

const OPCODE: usize = 4;
const NODE: usize = 16;
/// What the operation is given begins here.
const GIVEN: usize = 128;
const REQUEST: usize = 256 + 8;
const PAYLOAD_LEN: usize = 256 + 16;

/// `sizeof(struct fuse_out_header)`.
const OUT_HEADER: usize = 16;

/// A request. Fields past the end of what it holds read as zero.
pub(super) struct Call<'a> {
    header: &'a [u8; HEADER],
}

impl<'a> Call<'a> {
    pub(super) fn new(header: &'a [u8; HEADER]) -> Self {
        Self { header }
    }

    pub(super) fn opcode(&self) -> u32 {
        read_u32(self.header, OPCODE)
    }

    pub(super) fn node(&self) -> INodeNo {
        INodeNo(read_u64(self.header, NODE))
    }

    /// What the reply must name.
    pub(super) fn request(&self) -> u64 {
        read_u64(self.header, REQUEST)
    }

    /// The field at `offset` of what the operation is given.
    pub(super) fn u32(&self, offset: usize) -> u32 {
        read_u32(self.header, GIVEN + offset)
    }

    pub(super) fn u64(&self, offset: usize) -> u64 {
        read_u64(self.header, GIVEN + offset)
    }

    /// What came with it.
    pub(super) fn payload<'b>(&self, payload: &'b [u8]) -> &'b [u8] {
        let len = usize::try_from(read_u32(self.header, PAYLOAD_LEN)).unwrap_or(usize::MAX);
        payload.get(..len).unwrap_or_default()
    }

    /// The only name or target that came with it, or the first of two.
    pub(super) fn name<'b>(&self, payload: &'b [u8]) -> &'b OsStr {
        self.names(payload).0
    }

    /// Two names that came with it, each ended by a zero.
    pub(super) fn names<'b>(&self, payload: &'b [u8]) -> (&'b OsStr, &'b OsStr) {
        let mut names = self.payload(payload).split(|byte| *byte == 0);
        let mut next = || OsStr::from_bytes(names.next().unwrap_or_default());
        (next(), next())
    }
}

/// Turns the header of a request into that of its reply.
pub(super) fn write_outcome(
    header: &mut [u8; HEADER],
    request: u64,
    answered: Result<usize, fuser::Errno>,
) {
    let (len, error) = match answered {
        Ok(len) => (len, 0),
        Err(error) => (0, -error.code()),
    };
    let total = u32::try_from(OUT_HEADER + len).unwrap_or(u32::MAX);
    header[0..4].copy_from_slice(&total.to_le_bytes());
    header[4..8].copy_from_slice(&error.to_le_bytes());
    header[8..16].copy_from_slice(&request.to_le_bytes());
    let len = u32::try_from(len).unwrap_or(0);
    header[PAYLOAD_LEN..PAYLOAD_LEN + 4].copy_from_slice(&len.to_le_bytes());
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |field| u32::from_le_bytes(*field))
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |field| u64::from_le_bytes(*field))
}
