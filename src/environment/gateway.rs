//! The sockets of one connector that lead through its environment. Bytes pass as they are: TLS is
//! between whoever connects here and the source.
//!
//! | socket | who connects |
//! |---|---|
//! | `direct`, in a directory that only the server's user can enter | our own client |
//! | a port of 127.0.0.1, for the server's user alone | `pg_dump`: it has no TLS on a unix socket |

use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy::client::{ByteStream, Target, Via};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::Way;
use crate::cause::Causes;

/// Open while it lives; dropping it ends what goes through.
pub struct Gateway {
    directory: PathBuf,
    /// Accepts connections and relays them.
    _relays: JoinSet<()>,
}

/// Connections through one socket at a time; more than setup and stream use together.
const CONNECTIONS_MAX: usize = 256;

/// Where a gateway leads.
struct FarEnd {
    way: Way,
    host: String,
    port: u16,
}

impl Gateway {
    /// Opens the sockets in `directory`, which is made for them. `endpoint` is where the far end
    /// connects to; the target it returns is the same source, reached through here.
    pub fn open(
        directory: &Path,
        way: Way,
        (host, port): (String, u16),
        source: &Target,
    ) -> io::Result<(Self, Target)> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        let socket = directory.join("direct");
        let unix = UnixListener::bind(&socket)?;
        let any_port = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let loopback = std::net::TcpListener::bind(any_port)?;
        loopback.set_nonblocking(true)?;
        let loopback_port = loopback.local_addr()?.port();
        let loopback = TcpListener::from_std(loopback)?;
        let far_end = Arc::new(FarEnd { way, host, port });
        let mut relays = JoinSet::new();
        relays.spawn(accept_unix(unix, far_end.clone()));
        relays.spawn(accept_loopback(loopback, far_end));
        let target = source.through(Via { socket, loopback_port });
        Ok((Self { directory: directory.to_owned(), _relays: relays }, target))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "sockets of a gateway stay behind");
        }
    }
}

async fn accept_unix(listener: UnixListener, far_end: Arc<FarEnd>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, _)) => drop(connections.spawn(relay(client, far_end.clone()))),
                Err(error) => return tracing::error!(%error, "accept at a gateway"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept_loopback(listener: TcpListener, far_end: Arc<FarEnd>) {
    let mut connections = JoinSet::new();
    let us = rustix::process::geteuid().as_raw();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, peer)) if owner_of(peer) == Some(us) => {
                    connections.spawn(relay(client, far_end.clone()));
                }
                Ok(_) => tracing::warn!("another user knocked at a gateway"),
                Err(error) => return tracing::error!(%error, "accept at a gateway"),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(mut client: impl ByteStream, far_end: Arc<FarEnd>) {
    match far_end.way.open(&far_end.host, far_end.port).await {
        // Either end closing ends both; whoever spoke last knows why.
        Ok(mut far) => drop(copy_bidirectional(&mut client, &mut far).await),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "source not reached through environment");
        }
    }
}

/// The uid of the process at the other end of a connection within this machine.
#[expect(clippy::host_endian_bytes, reason = "the kernel prints the address as it holds it")]
fn owner_of(peer: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(peer) = peer else { return None };
    // proc(5), /proc/net/tcp: the address as the machine's own 32-bit integer, in hexadecimal.
    let address = u32::from_ne_bytes(peer.ip().octets());
    let local = format!("{address:08X}:{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        (fields.next()? == local).then(|| fields.nth(5)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_connects() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(owner_of(peer), Some(rustix::process::geteuid().as_raw()));
        drop(client);
        assert_eq!(owner_of("127.0.0.1:1".parse().unwrap()), None);
    }
}
