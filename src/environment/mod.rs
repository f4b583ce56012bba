//! Environments: named ways into private networks, and the gateways through which all traffic of a
//! connector takes one.
//!
//! ```text
//!  session, walsender, COPY --> gateway (private socket) --> ssh channel or SOCKS --> source
//!  pg_dump ----------------------^ (loopback, our uid only)
//! ```
//!
//! Invariants:
//! * What is to go through an environment never goes another way: the name of the source is
//!   resolved at the far end, and nothing here dials it.
//! * TLS runs inside, between us and the source, and verifies the source's own name.
//! * An ssh host is who `known_host` says it is, or nothing is sent to it.
//!
//! Must never: show a password or a key.

mod gateway;
mod socks;
mod ssh;
mod url;

use std::time::Duration;

use proxy::client::Stream;
use tokio::time::timeout;

use crate::secret::Secret;

pub use gateway::Gateway;
pub use url::endpoint;

use socks::Socks;
use ssh::Ssh;
use url::Address;

/// Longest wait for the way and the far end together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// A way into a private network.
pub struct Way {
    address: Address,
    kind: Kind,
}

enum Kind {
    Ssh(Box<Ssh>),
    Socks(Socks),
}

/// Why a text is not a way. Never quotes it: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidWay {
    /// The URL.
    #[error("invalid environment URL: {0}")]
    Url(&'static str),
    /// The private key.
    #[error("the private key cannot be read")]
    Key(#[source] russh::keys::Error),
    /// The host's public key.
    #[error("known_host holds no public key: give a line of known_hosts")]
    KnownHost,
    /// Something ssh needs was not given.
    #[error("ssh needs {0}")]
    Missing(&'static str),
}

/// Why the far end was not reached.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// The ssh host or proxy does not answer.
    #[error("reach {address}")]
    Unreachable {
        /// It.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ssh host is not the one that `known_host` names.
    #[error("{0} shows another host key than known_host: somebody may be in between")]
    HostKey(String),
    /// It did not let us in.
    #[error("{0} refuses our key or password")]
    Refused(String),
    /// The ssh connection failed.
    #[error("speak ssh with {address}")]
    Ssh {
        /// The host.
        address: String,
        /// What went wrong.
        source: russh::Error,
    },
    /// The proxy failed, or the far end refused.
    #[error("connect through {address}")]
    Socks {
        /// The proxy.
        address: String,
        /// What went wrong.
        source: tokio_socks::Error,
    },
    /// Nothing answered in time.
    #[error("nothing answered through {address} within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout {
        /// The ssh host or proxy.
        address: String,
    },
}

impl Way {
    /// Reads a way: its URL, and for ssh the key to log in with and the host's public key.
    pub fn parse(
        url: &Secret,
        key: Option<&Secret>,
        known_host: Option<&str>,
    ) -> Result<Self, InvalidWay> {
        let address = Address::parse(url.reveal())?;
        let kind = match address.scheme {
            "ssh" => Kind::Ssh(Box::new(Ssh::new(&address, key, known_host)?)),
            _ => Kind::Socks(Socks::new(&address)),
        };
        Ok(Self { address, kind })
    }

    /// The way without its password.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Bytes to and from a host of the network behind.
    pub async fn open(&self, host: &str, port: u16) -> Result<Stream, WayError> {
        let opening = async {
            match &self.kind {
                Kind::Ssh(ssh) => ssh.open(host, port).await,
                Kind::Socks(socks) => socks.open(host, port).await,
            }
        };
        let late = || WayError::Timeout { address: self.address.to_string() };
        timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(|_| Err(late()))
    }
}
