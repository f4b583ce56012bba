//! A client's byte stream, encrypted or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::socket::Socket;
use crate::tls::{ALPN, Tls};

/// How long, and how many bytes, a closing socket still reads: closing with unread input resets
/// the connection, and the client may lose the error that was sent to it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 * 1024;

/// A client's byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// Its handshake failed, or is under way: nothing can be said.
    Closed,
}

impl Stream {
    /// The socket beneath.
    pub(crate) fn socket(&self) -> Option<&Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(stream) => Some(stream.get_ref().0),
            Self::Closed => None,
        }
    }

    /// Runs the server's side of a TLS handshake. What is left if it fails is [`Stream::Closed`].
    pub(crate) async fn encrypt(&mut self, tls: &Tls) -> io::Result<()> {
        let Self::Plain(socket) = std::mem::replace(self, Self::Closed) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        *self = Self::Tls(Box::new(tls.acceptor.accept(socket).await?));
        Ok(())
    }

    /// The host name that the client connected to, if it said so while encrypting.
    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.server_name(),
            Self::Plain(_) | Self::Closed => None,
        }
    }

    /// Whether both sides agreed that this is the Postgres protocol.
    pub(crate) fn speaks_postgres(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(ALPN),
            Self::Plain(_) | Self::Closed => false,
        }
    }

    /// Whether the bytes are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
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
    pub(crate) fn watch(stream: &Stream) -> io::Result<Self> {
        let socket = stream.socket().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Self(socket.duplicate()?))
    }

    /// Returns when the peer is gone. Once the peer has sent something that nobody reads, its
    /// leaving cannot be seen: then this never returns.
    pub(crate) async fn happened(&self) {
        if let Ok(Some(_)) = self.0.peek().await {
            std::future::pending::<()>().await;
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Closed => Poll::Ready(Ok(())),
        }
    }
}
