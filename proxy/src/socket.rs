//! The client's socket: TCP or unix behind one type, with the options each needs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::{RecvFlags, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::sessions::Peer;

/// A dead peer is noticed after idle + interval x retries = 2 minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;
/// Sent data that is not acknowledged for so long ends the connection.
const USER_TIMEOUT_MS: u32 = 60_000;
/// How long, and how many bytes, a closing socket still reads: closing with unread input resets
/// the connection, and the client may lose the error that was sent to it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Takes a TCP connection: no delay, keepalive.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_RETRIES)?;
        sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
        Ok(Self::Tcp(stream))
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(stream) => Ok(Peer::Tcp(stream.peer_addr()?)),
            Self::Unix(stream) => {
                let credentials = stream.peer_cred()?;
                Ok(Peer::Unix { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) })
            }
        }
    }

    /// How many bytes (0 or 1) could be read without reading them; 0 is the end.
    async fn peek(&self) -> io::Result<usize> {
        let peek = || {
            let mut byte = [0_u8];
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let (count, _) = rustix::net::recv(self, &mut byte, flags)?;
            Ok(count)
        };
        match self {
            Self::Tcp(stream) => {
                stream.readable().await?;
                stream.try_io(Interest::READABLE, peek)
            }
            Self::Unix(stream) => {
                stream.readable().await?;
                stream.try_io(Interest::READABLE, peek)
            }
        }
    }
}

/// Sends what is buffered, says that no more will come, and waits a little for the peer to hang
/// up. Errors do not matter any more.
pub(crate) async fn close_gently(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let discard = async {
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, discard).await {
        tracing::trace!(%error, "close");
    }
}

/// Tells when a peer has hung up, without reading what it may have sent.
#[derive(Debug)]
pub(crate) struct Hangup(Socket);

impl Hangup {
    /// Watches a socket through a duplicate of its descriptor, so that the socket itself can be
    /// in use elsewhere.
    pub(crate) fn watch(socket: &Socket) -> io::Result<Self> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        Ok(Self(match socket {
            Socket::Tcp(_) => Socket::Tcp(TcpStream::from_std(duplicate.into())?),
            Socket::Unix(_) => Socket::Unix(UnixStream::from_std(duplicate.into())?),
        }))
    }

    /// Returns when the peer is gone. Once the peer has sent something that nobody reads, its
    /// leaving cannot be seen: then this never returns.
    pub(crate) async fn happened(&self) {
        loop {
            match self.0.peek().await {
                Ok(0) => return,
                Ok(_) => return std::future::pending().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
