//! Binds the sockets that clients come in by.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::ServerError;

/// Connections that the kernel holds while we are busy, or while another server takes over.
const BACKLOG: i32 = 4096;

/// Listens on every address that each of `wanted` (`host:port`) stands for. A name with several
/// addresses needs one of them to be ours.
pub(super) async fn bind_all(wanted: &[String]) -> Result<Vec<TcpListener>, ServerError> {
    let mut listeners = Vec::new();
    for text in wanted {
        let failed = |source| ServerError::Listen { address: text.clone(), source };
        let addresses: Vec<SocketAddr> =
            tokio::net::lookup_host(text.as_str()).await.map_err(failed)?.collect();
        let mut last_error = None;
        let before = listeners.len();
        for address in addresses {
            match bind_one(address) {
                Ok(listener) => listeners.push(listener),
                Err(error) => last_error = Some(error),
            }
        }
        if listeners.len() == before {
            let nothing = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            return Err(failed(last_error.unwrap_or_else(nothing)));
        }
    }
    Ok(listeners)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // As Postgres does: 0.0.0.0 and [::] are two addresses and may be listened on together.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
