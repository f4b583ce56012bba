//! One entry of a kernel queue: its buffers, and the commands that pass them to and fro.
//!
//! ```text
//! header    0  in: fuse_in_header, out: fuse_out_header
//!         128  in: what the operation is given; see `serve.rs`
//!         256  flags 8, id of the request 8, bytes of the payload 4, padding 12
//! payload      in: names or data, out: everything that the reply holds
//! command      flags 8, id of the request that is answered 8, queue 2, padding
//! ```
//! Invariant: the kernel uses the buffers only from when a command is submitted to when it
//! completes; in between nothing here touches them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::call::{self, Call, HEADER};

/// Bytes of a payload: the largest write, and the largest read. With less than INIT allowed the
/// kernel refuses the entry.
const PAYLOAD: usize = 256 << 10;

/// `FUSE_IO_URING_CMD_REGISTER` and `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// Where a submission holds how many buffers there are.
const LEN_OFFSET: usize = 24;
const BUFFERS: u32 = 2;

/// One entry has one command at a time.
const SUBMISSIONS: u32 = 1;

type Ring = IoUring<squeue::Entry128>;

pub(super) struct Entry {
    // First, so that it is gone before the buffers are.
    ring: Ring,
    device: i32,
    queue: u16,
    header: Box<[u8; HEADER]>,
    payload: Vec<u8>,
    /// Address and length of both.
    buffers: Box<[u64; 4]>,
}

impl Entry {
    /// Whether this process may have a ring.
    pub(super) fn probe() -> io::Result<()> {
        ring().map(drop)
    }

    /// Offers an entry to `queue`, whose requests this thread gets from then on.
    pub(super) fn register(device: &OwnedFd, queue: usize) -> io::Result<Self> {
        let ring = ring()?;
        let queue = u16::try_from(queue).map_err(io::Error::other)?;
        let (header, payload) = (Box::new([0; HEADER]), vec![0; PAYLOAD]);
        let buffers = Box::default();
        let mut entry = Self { ring, device: device.as_raw_fd(), queue, header, payload, buffers };
        *entry.buffers = [
            address(entry.header.as_mut_ptr()),
            HEADER as u64,
            address(entry.payload.as_mut_ptr()),
            PAYLOAD as u64,
        ];
        entry.push(REGISTER, 0)?;
        entry.ring.submit()?;
        Ok(entry)
    }

    /// Answers requests until the entry ends, which is an error always.
    pub(super) fn run(
        mut self,
        answer: impl Fn(&Call<'_>, &mut [u8]) -> Result<usize, fuser::Errno>,
    ) -> io::Result<()> {
        loop {
            self.wait()?;
            let call = Call::new(&self.header);
            let (request, answered) = (call.request(), answer(&call, &mut self.payload));
            call::write_outcome(&mut self.header, request, answered);
            self.push(COMMIT_AND_FETCH, request)?;
        }
    }

    /// Submits what was pushed and waits until it completes.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            if let Some(done) = self.ring.completion().next() {
                return match done.result() {
                    failed if failed < 0 => Err(io::Error::from_raw_os_error(-failed)),
                    _ => Ok(()),
                };
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a command ready to be submitted. Where the buffers are is for the first one; in others
    /// the kernel ignores it.
    fn push(&mut self, command: u32, request: u64) -> io::Result<()> {
        let mut bytes = [0; 80];
        bytes[8..16].copy_from_slice(&request.to_le_bytes());
        bytes[16..18].copy_from_slice(&self.queue.to_le_bytes());
        let command = opcode::UringCmd80::new(types::Fd(self.device), command).cmd(bytes);
        let mut submission = command.addr(Some(address(self.buffers.as_ptr()))).build();
        // SAFETY: a submission is the 128 bytes that the kernel reads, whose field `len` is at this
        // offset; the library has no other way to set it for commands.
        unsafe {
            let len = (&raw mut submission).cast::<u8>().add(LEN_OFFSET).cast::<u32>();
            len.write_unaligned(BUFFERS);
        }
        // SAFETY: the buffers and the list of them live until the ring is dropped, and are not
        // touched before the command has completed.
        unsafe { self.ring.submission().push(&submission) }.map_err(io::Error::other)
    }
}

/// A ring for the one thread that makes it. What the kernel has to do for an entry it does while
/// that thread waits, and interrupts nothing else.
fn ring() -> io::Result<Ring> {
    Ring::builder().setup_single_issuer().setup_defer_taskrun().build(SUBMISSIONS)
}

/// Whether the kernel was disturbed, or out of memory for the moment. Giving up would leave a
/// request without an answer.
fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INTR | Errno::AGAIN | Errno::BUSY))
}

fn address<T>(pointer: *const T) -> u64 {
    pointer.addr() as u64
}
