//! A stream socket, TCP or unix, of a client or of a backend.
//!
//! A unix socket announces room each time that its peer reads, whether or not it ever was full. To
//! a lane that listens for room, as tokio's own streams do, that is one more wake-up for every
//! query. So at a unix socket room is listened for only from a write that found none to the next.
//! TCP announces room only after a write that found none.
//!
//! A backend that streams a large result sends one buffer after the other, and pays itself for each
//! wake-up of a lane that waits for the next. So the next is asked for a little while first.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, shutdown, sockopt,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::poll_proceed;

/// A dead peer is noticed after idle + interval x retries = 2 minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;
/// Sent data that is not acknowledged for so long ends the connection.
const USER_TIMEOUT_MS: u32 = 60_000;

/// Postgres' own buffer: who sends so much at once over a unix socket has more.
const STREAMED_BYTES: usize = 8192;
/// How often more of a stream is asked for before waiting. More of it takes the processor from
/// whoever sends, or reads at the other end: 64 cost half as much again, and brought nothing.
const ASKS: usize = 8;

/// A connected socket on the runtime that watches it.
#[derive(Debug)]
pub(crate) struct Socket {
    watched: AsyncFd<OwnedFd>,
    family: Family,
    /// While a unix socket was full when last written to: the same by another descriptor.
    room: Option<AsyncFd<OwnedFd>>,
    streaming: Streaming,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Tcp,
    Unix,
}

/// Whether the last read was of a stream from this host.
#[derive(Debug, Default)]
struct Streaming(bool);

impl Streaming {
    /// Asks for the next part, if there is to be one.
    fn ask(&mut self, socket: impl AsFd, buffer: &mut [u8]) -> Option<Result<usize, Errno>> {
        if !std::mem::take(&mut self.0) {
            return None;
        }
        let mut asks = (0..ASKS).map(|_| receive(&socket, buffer));
        asks.find(|received| *received != Err(Errno::WOULDBLOCK))
    }

    fn note(&mut self, family: Family, count: usize) {
        self.0 = matches!(family, Family::Unix) && count >= STREAMED_BYTES;
    }
}

fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    Ok(recv(socket, buffer, RecvFlags::empty())?.0)
}

impl Socket {
    /// Takes over a connection to a backend.
    pub(crate) fn of_backend(stream: UnixStream) -> io::Result<Self> {
        UnwatchedSocket::unix(stream)?.watch()
    }

    /// Takes it from the runtime.
    pub(crate) fn unwatch(self) -> UnwatchedSocket {
        let Self { watched, family, streaming, .. } = self;
        UnwatchedSocket { socket: watched.into_inner(), family, streaming }
    }

    /// The same connection by a descriptor of its own.
    pub(crate) fn duplicate(&self) -> io::Result<Self> {
        let socket = self.as_fd().try_clone_to_owned()?;
        UnwatchedSocket { socket, family: self.family, streaming: Streaming::default() }.watch()
    }

    /// The next byte, left where it is; `None` at the end.
    pub(crate) async fn peek(&self) -> io::Result<Option<u8>> {
        self.watched.async_io(Interest::READABLE, peek).await
    }

    /// As [`Socket::peek`], or the error `WouldBlock`.
    pub(crate) fn try_peek(&self) -> io::Result<Option<u8>> {
        self.watched.try_io(Interest::READABLE, peek)
    }

    fn has_read(&mut self, count: usize, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.advance(count);
        self.streaming.note(self.family, count);
        Poll::Ready(Ok(()))
    }

    /// Sends once there is room.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        send: impl Fn(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        match self.family {
            Family::Tcp => self.poll_send_tcp(cx, wanted, send),
            Family::Unix => self.poll_send_unix(cx, send),
        }
    }

    fn poll_send_tcp(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        send: impl Fn(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut room = ready!(self.watched.poll_write_ready(cx))?;
            let sent = send(self.watched.get_ref());
            // Not all of it: now it is full. Room is announced.
            if !sent.is_ok_and(|sent| sent == wanted) {
                room.clear_ready();
            }
            if sent != Err(Errno::WOULDBLOCK) {
                return Poll::Ready(Ok(sent?));
            }
        }
    }

    fn poll_send_unix(
        &mut self,
        cx: &mut Context<'_>,
        send: impl Fn(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(room) = &self.room {
                ready!(room.poll_write_ready(cx))?.retain_ready();
                self.room = None;
            }
            match send(self.watched.get_ref()) {
                // Listening begins with whether there is room by now.
                Err(Errno::WOULDBLOCK) => {
                    let socket = self.as_fd().try_clone_to_owned()?;
                    self.room = Some(watch(socket, Interest::WRITABLE)?);
                }
                sent => return Poll::Ready(Ok(sent?)),
            }
        }
    }
}

/// A connected socket that no runtime watches.
#[derive(Debug)]
pub(crate) struct UnwatchedSocket {
    socket: OwnedFd,
    family: Family,
    streaming: Streaming,
}

impl UnwatchedSocket {
    /// Takes a TCP connection: no delay, keepalive.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_RETRIES)?;
        sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
        Ok(Self::of(stream.into_std()?.into(), Family::Tcp))
    }

    /// Takes a connection over a unix socket.
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::of(stream.into_std()?.into(), Family::Unix))
    }

    fn of(socket: OwnedFd, family: Family) -> Self {
        Self { socket, family, streaming: Streaming::default() }
    }

    /// Takes what has arrived, or the error `WouldBlock`.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = receive(&self.socket, buffer)?;
        self.streaming.note(self.family, count);
        Ok(count)
    }

    /// Asks for the next part of a stream, if this is one: `None` if it is not there yet.
    pub(crate) fn ask(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let received = self.streaming.ask(&self.socket, buffer)?;
        self.streaming.note(self.family, received.unwrap_or_default());
        Some(received.map_err(io::Error::from))
    }

    /// Sends what there is room for, or the error `WouldBlock`.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
    }

    /// Gives it to the runtime of the caller.
    pub(crate) fn watch(self) -> io::Result<Socket> {
        let Self { socket, family, streaming } = self;
        let interest = match family {
            Family::Tcp => Interest::READABLE | Interest::WRITABLE,
            Family::Unix => Interest::READABLE,
        };
        Ok(Socket { watched: watch(socket, interest)?, family, room: None, streaming })
    }
}

fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and returns the same descriptor until it is dropped, and the
    // `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

fn peek(socket: &OwnedFd) -> io::Result<Option<u8>> {
    let mut byte = [0_u8];
    let (count, _) = recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    Ok((count > 0).then_some(byte[0]))
}

impl AsFd for UnwatchedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if socket.streaming.0 {
            // A stream without end must not keep the lane from others.
            let turn = ready!(poll_proceed(cx));
            let asked = socket.streaming.ask(&socket.watched, buffer.initialize_unfilled());
            if let Some(received) = asked {
                turn.made_progress();
                return socket.has_read(received?, buffer);
            }
        }
        loop {
            let mut input = ready!(socket.watched.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            let wanted = unfilled.len();
            let count = match receive(&socket.watched, unfilled) {
                Err(Errno::WOULDBLOCK) => {
                    input.clear_ready();
                    continue;
                }
                received => received?,
            };
            // Less than asked for: that was all. What comes later is announced.
            if 0 < count && count < wanted {
                input.clear_ready();
            }
            return socket.has_read(count, buffer);
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes.len(), |socket| send(socket, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = parts.iter().map(|part| part.len()).sum();
        self.poll_send(cx, wanted, |socket| {
            sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.watched, Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const BYTES: usize = 16 << 20;

    /// Sends more than any buffer holds to a peer that reads all of it and answers in two parts.
    async fn a_full_socket_is_written_to_once_there_is_room(
        mut ours: Socket,
        mut theirs: impl AsyncRead + AsyncWrite + Unpin,
    ) {
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
        assert_eq!(ours.peek().await.unwrap(), None);
        assert_eq!(ours.read(&mut bytes).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn room_at_a_unix_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Socket::of_backend(ours).unwrap();
        a_full_socket_is_written_to_once_there_is_room(ours, theirs).await;
    }

    #[tokio::test]
    async fn room_at_a_tcp_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let ours = UnwatchedSocket::tcp(listener.accept().await.unwrap().0).unwrap();
        a_full_socket_is_written_to_once_there_is_room(ours.watch().unwrap(), theirs).await;
    }
}
