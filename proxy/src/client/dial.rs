//! From a [`Target`] to a byte stream: TCP with keepalives or a unix socket, then TLS.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::error::Error;
use super::target::{Host, Target, TlsMode};
use super::tls;
use super::window;

/// Bytes both ways, whatever carries them.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection to a server, before any Postgres startup message.
pub type Stream = Box<dyn ByteStream>;

// A peer or middlebox that vanished is noticed after 30 + 3 * 10 s (replication notes, section 7).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Whether one attempt asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Plain,
    Tls,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Queries,
    /// Changes, as a walsender sends them.
    Replication,
}

/// Opens a stream to the target, encrypted as its `sslmode` says.
pub async fn dial(target: &Target) -> Result<Stream, Error> {
    let attempt = attempts(target).first().copied().unwrap_or(Attempt::Plain);
    dial_as(target, attempt, Purpose::Queries).await
}

/// Checks that something accepts connections there, without saying a word to it.
pub async fn reach(target: &Target) -> Result<(), Error> {
    within(target, connect(target, Purpose::Queries)).await.map(drop)
}

/// What to try, in order. libpq's `allow` comes back with TLS if the plain attempt is refused, and
/// `prefer` without it.
pub(super) fn attempts(target: &Target) -> &'static [Attempt] {
    match (&target.host, target.tls) {
        (Host::Socket(_), _) | (_, TlsMode::Disable) => &[Attempt::Plain],
        (_, TlsMode::Allow) => &[Attempt::Plain, Attempt::Tls],
        (_, TlsMode::Prefer) => &[Attempt::Tls, Attempt::Plain],
        (_, TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull) => &[Attempt::Tls],
    }
}

pub(super) async fn dial_as(
    target: &Target,
    attempt: Attempt,
    purpose: Purpose,
) -> Result<Stream, Error> {
    within(target, async {
        let stream = connect(target, purpose).await?;
        match attempt {
            Attempt::Plain => Ok(stream),
            Attempt::Tls => encrypt(target, stream).await,
        }
    })
    .await
}

pub(super) async fn within<T>(
    target: &Target,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit = target.connect_timeout;
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Error::ConnectTimeout { address: target.address(), timeout: limit })
    })
}

async fn connect(target: &Target, purpose: Purpose) -> Result<Stream, Error> {
    let unreachable = |source| Error::Unreachable { address: target.address(), source };
    match (&target.host, &target.via) {
        (Host::Socket(_), _) => {
            let stream = UnixStream::connect(target.socket_path()).await.map_err(unreachable)?;
            Ok(Box::new(stream))
        }
        (Host::Name(_), Some(via)) => {
            let stream = UnixStream::connect(&via.socket).await.map_err(unreachable)?;
            Ok(Box::new(stream))
        }
        (Host::Name(name), None) => {
            let stream =
                TcpStream::connect((name.as_str(), target.port)).await.map_err(unreachable)?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE_IDLE)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_RETRIES);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            if purpose == Purpose::Replication {
                window::narrow_if_near(&stream);
            }
            Ok(Box::new(stream))
        }
    }
}

/// Asks for TLS. The server answers with one byte; more before the handshake would be an injection
/// (CVE-2021-23222), and cannot reach us because exactly one byte is read.
async fn encrypt(target: &Target, mut stream: Stream) -> Result<Stream, Error> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    match stream.read_u8().await? {
        b'S' => tls::handshake(target, stream).await,
        b'N' if target.tls == TlsMode::Prefer => Ok(stream),
        b'N' | b'E' => Err(Error::TlsRefused),
        _ => Err(Error::Io(io::Error::other("peer is not a Postgres server"))),
    }
}
