//! A relayed session's socket at its compute, watched for input alone.
//!
//! A unix socket announces room each time that its peer reads, whether or not it ever was full. To
//! a lane that listens for room that is one more wake-up for every query. So room is listened for
//! only from a write that found none to the next one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The socket.
#[derive(Debug)]
pub(crate) struct BackendSocket {
    input: AsyncFd<OwnedFd>,
    /// While it was full when last written to: the same socket by another descriptor.
    room: Option<AsyncFd<OwnedFd>>,
}

impl BackendSocket {
    /// Takes over a connected socket.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let input = watch(stream.into_std()?.into(), Interest::READABLE)?;
        Ok(Self { input, room: None })
    }
}

fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and returns the same descriptor until it is dropped, and the
    // `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

impl AsyncRead for BackendSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut input = ready!(self.input.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            let wanted = unfilled.len();
            let count = match recv(&self.input, unfilled, RecvFlags::empty()) {
                Err(Errno::WOULDBLOCK) => {
                    input.clear_ready();
                    continue;
                }
                received => received?.0,
            };
            // Less than asked for: that was all. What comes later is announced.
            if 0 < count && count < wanted {
                input.clear_ready();
            }
            buffer.advance(count);
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for BackendSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(room) = &self.room {
                ready!(room.poll_write_ready(cx))?.retain_ready();
                self.room = None;
            }
            match send(&self.input, bytes, SendFlags::NOSIGNAL) {
                // Listening begins with whether there is room by now.
                Err(Errno::WOULDBLOCK) => {
                    let socket = self.input.as_fd().try_clone_to_owned()?;
                    self.room = Some(watch(socket, Interest::WRITABLE)?);
                }
                sent => return Poll::Ready(Ok(sent?)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.input, rustix::net::Shutdown::Write);
        Poll::Ready(shut.map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_full_socket_is_written_to_once_there_is_room() {
        const BYTES: usize = 4 << 20;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = BackendSocket::new(ours).unwrap();
        let writing = tokio::spawn(async move {
            ours.write_all(&vec![7; BYTES]).await.unwrap();
            let mut answer = [0; 2];
            ours.read_exact(&mut answer).await.unwrap();
            (ours, answer)
        });
        let mut bytes = vec![0; BYTES];
        theirs.read_exact(&mut bytes).await.unwrap();
        theirs.write_all(b"o").await.unwrap();
        theirs.write_all(b"k").await.unwrap();
        let (mut ours, answer) = writing.await.unwrap();
        assert_eq!((bytes.iter().all(|byte| *byte == 7), &answer), (true, b"ok"));
        assert!(ours.room.is_none());
        drop(theirs);
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 0);
        assert!(ours.write_all(b"gone").await.is_err());
    }
}
