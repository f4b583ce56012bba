//! Who is connected: read by `ARDENT SHOW SESSIONS` and by the check whether a branch is idle.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over the unix socket, as the kernel reports it.
    Unix {
        /// The process' user.
        uid: u32,
        /// The process, 0 if the kernel does not say.
        pid: i32,
    },
}

/// What a session is doing, as far as the front door can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Authenticated, waiting for its compute.
    Waking,
    /// Waiting for the client.
    Idle,
    /// Waiting for the client, inside a transaction.
    InTransaction,
    /// Running something.
    Active,
}

/// One authenticated session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Number, unique while this server runs.
    pub id: u64,
    /// Its endpoint; `None` for the admin console.
    pub endpoint: Option<String>,
    /// The role that logged in.
    pub role: String,
    /// Where from.
    pub peer: Peer,
    /// When it authenticated.
    pub since: SystemTime,
    /// The compute's backend process, once connected.
    pub backend_pid: Option<i32>,
    /// What it is doing.
    pub state: SessionState,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

/// All authenticated sessions.
#[derive(Debug, Default)]
pub struct Sessions {}

impl Sessions {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// All sessions, by number.
    pub fn list(&self) -> Vec<SessionInfo> {
        Vec::new()
    }

    /// Sessions of one endpoint, those that wait for it to wake included.
    pub fn count(&self, endpoint: &str) -> usize {
        let _ = endpoint;
        0
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid, pid } => write!(f, "unix uid={uid} pid={pid}"),
        }
    }
}
