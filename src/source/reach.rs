//! Does anything answer at the source's address, and if not, why, and whom must it let in?

use std::net::{IpAddr, SocketAddr, UdpSocket};

use proxy::client::{Host, Target, reach};
use tokio::net::lookup_host;

use super::report::Row;
use super::server::describe;

const NAME: &str = "tcp reachable";

/// `beyond`: what came of dialling through an environment, where one is gone through.
pub(super) async fn row(target: &Target, beyond: Option<&Result<(), String>>) -> Row {
    let address = target.address();
    match beyond {
        Some(Ok(())) => return Row::pass(NAME),
        Some(Err(why)) => {
            let remedy = format!(
                "Check the environment, and that {address} is reached from inside its network."
            );
            return Row::fail(NAME, why, remedy);
        }
        None => {}
    }
    let Err(error) = reach(target).await else { return Row::pass(NAME) };
    let Host::Name(name) = &target.host else {
        return Row::fail(NAME, describe(&error), "Check the path of the socket.");
    };
    let found: Vec<SocketAddr> = match lookup_host((name.as_str(), target.port)).await {
        Ok(found) => found.collect(),
        Err(_) => {
            let detail = format!("Host {name} does not resolve");
            return Row::fail(NAME, detail, "Check the host name in the URL.");
        }
    };
    let addresses: Vec<String> = found.iter().map(|found| found.ip().to_string()).collect();
    let mut detail = describe(&error);
    let mut remedy = String::from("Check host and port");
    if found.iter().all(SocketAddr::is_ipv6) {
        detail += &format!("\nHost {name} has IPv6 addresses only ({})", addresses.join(", "));
        remedy += ", use a host name with an IPv4 address";
    }
    remedy += &match found.iter().find_map(our_address) {
        Some(ours) => format!(
            ", and let {ours} (this machine, or the address its network shows outside) reach \
             {address} through the source's firewall."
        ),
        None => format!(", and give this machine a route to {}.", addresses.join(", ")),
    };
    Row::fail(NAME, detail, remedy)
}

/// The address of ours that packets to a peer come from. Connecting a datagram socket sends
/// nothing.
fn our_address(peer: &SocketAddr) -> Option<IpAddr> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
