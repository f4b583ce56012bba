//! The receive window of a stream of small messages from a near server.
//!
//! A walsender sends every change by itself. While our window is open, each becomes a packet that
//! crosses the whole stack at once, at the sender's cost: as much as decoding the change takes, and
//! writing it out. Once the window is full, the sender's kernel gathers what follows and sends
//! 64 KiB at a time. So we keep the window of a near server small, and read it at intervals.
//!
//! The window of a distant server stays the kernel's: it has to hold what the wire carries in a
//! round trip.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

/// With a round trip of less than this, a narrow window lets 256 MB pass in a second.
const NEAR: Duration = Duration::from_micros(250);
/// The kernel doubles it, for what it keeps beside the bytes.
const NARROW_BYTES: usize = 32 << 10;

/// Keeps the window of a server that is near at [`NARROW_BYTES`] from now on. Where the system
/// does not let us, the server only has more to send.
pub(super) fn narrow_if_near(stream: &TcpStream) {
    let narrowed = round_trip(stream.as_fd()).and_then(|time| match is_near(time) {
        true => SockRef::from(stream).set_recv_buffer_size(NARROW_BYTES),
        false => Ok(()),
    });
    if let Err(error) = narrowed {
        tracing::debug!(%error, "the window of a stream is left as it is");
    }
}

/// Zero is what a system says that has not measured.
fn is_near(round_trip: Duration) -> bool {
    !round_trip.is_zero() && round_trip < NEAR
}

/// What the handshake took, or the kernel has measured since.
fn round_trip(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: the socket is open for the call, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain numbers, of which none is invalid; what the kernel did not write is zero.
    let info = unsafe { info.assume_init() };
    Ok(Duration::from_micros(u64::from(info.tcpi_rtt)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_distant_server_is_not_near_nor_one_of_which_nothing_is_known() {
        let near = [0, 1, 249, 250, 50_000].map(|us| is_near(Duration::from_micros(us)));
        assert_eq!(near, [false, true, true, false, false]);
    }

    #[tokio::test]
    async fn a_server_on_this_host_is_near() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        narrow_if_near(&stream);
        assert_eq!(SockRef::from(&stream).recv_buffer_size().unwrap(), 2 * NARROW_BYTES);
    }
}
