//! Who is connected: read by `ARDENT SHOW SESSIONS` and by the check whether a branch is idle.
//!
//! Invariants:
//! * A session is in the registry from its admission until its [`SessionGuard`] is dropped.
//! * `per_endpoint[e]` is the number of sessions whose endpoint is `e`; an entry at zero is
//!   removed, so the map does not grow with names that are gone.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::wire::TransactionStatus;

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
    /// Talking to its backend directly: what it does, and how much, is not known here.
    HandedOff,
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
    /// Bytes from the client since it was relayed.
    pub bytes_in: u64,
    /// Bytes to the client since it was relayed.
    pub bytes_out: u64,
}

/// All authenticated sessions.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    last_id: u64,
    sessions: BTreeMap<u64, Arc<Session>>,
    per_endpoint: HashMap<String, usize>,
}

/// Who logged in where.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) endpoint: Option<String>,
    pub(crate) role: String,
    pub(crate) peer: Peer,
}

/// The live record of a session; its own task writes it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    since: SystemTime,
    backend_pid: AtomicI32,
    state: AtomicU8,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// Keeps a session in the registry.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    session: Arc<Session>,
    sessions: Arc<Sessions>,
}

impl Sessions {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// All sessions, by number.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.registry().sessions.values().map(|session| session.info()).collect()
    }

    /// Sessions of one endpoint, those that wait for it to wake included.
    pub fn count(&self, endpoint: &str) -> usize {
        self.registry().per_endpoint.get(endpoint).copied().unwrap_or(0)
    }

    /// Lets a session in, or says that there are too many.
    pub(crate) fn admit(
        self: &Arc<Self>,
        identity: Identity,
        limits: &Limits,
    ) -> Result<SessionGuard, Refusal> {
        let mut registry = self.registry();
        if registry.sessions.len() >= limits.sessions {
            return Err(Refusal::fatal("53300", "sorry, too many clients already"));
        }
        if let Some(endpoint) = &identity.endpoint {
            let count = registry.per_endpoint.entry(endpoint.clone()).or_default();
            if *count >= limits.sessions_per_endpoint {
                let text = format!("too many connections for branch \"{endpoint}\"");
                return Err(Refusal::fatal("53300", text));
            }
            *count += 1;
        }
        registry.last_id += 1;
        let session = Arc::new(Session::new(registry.last_id, identity));
        registry.sessions.insert(session.id, Arc::clone(&session));
        Ok(SessionGuard { session, sessions: Arc::clone(self) })
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Each change leaves the registry whole, so one that panicked elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The compute's backend is known.
    pub(crate) fn connected(&self, backend_pid: i32) {
        self.backend_pid.store(backend_pid, Ordering::Relaxed);
        self.set_state(SessionState::Idle);
    }

    /// Bytes from and to the client so far.
    pub(crate) fn relayed(&self) -> (u64, u64) {
        (self.bytes_in.load(Ordering::Relaxed), self.bytes_out.load(Ordering::Relaxed))
    }

    /// It is doing something else now.
    pub(crate) fn set_state(&self, state: SessionState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn new(id: u64, identity: Identity) -> Self {
        Self {
            id,
            identity,
            since: SystemTime::now(),
            backend_pid: AtomicI32::new(0),
            state: AtomicU8::new(SessionState::Waking as u8),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
        }
    }

    fn info(&self) -> SessionInfo {
        let backend_pid = self.backend_pid.load(Ordering::Relaxed);
        SessionInfo {
            id: self.id,
            endpoint: self.identity.endpoint.clone(),
            role: self.identity.role.clone(),
            peer: self.identity.peer,
            since: self.since,
            backend_pid: (backend_pid != 0).then_some(backend_pid),
            state: SessionState::from_code(self.state.load(Ordering::Relaxed)),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

impl SessionState {
    fn from_code(code: u8) -> Self {
        let states = [Self::Waking, Self::Idle, Self::InTransaction, Self::HandedOff];
        states.into_iter().find(|state| *state as u8 == code).unwrap_or(Self::Active)
    }
}

impl From<TransactionStatus> for SessionState {
    fn from(status: TransactionStatus) -> Self {
        match status {
            TransactionStatus::Idle => Self::Idle,
            TransactionStatus::InTransaction | TransactionStatus::Failed => Self::InTransaction,
        }
    }
}

impl SessionGuard {
    /// The record, which outlives its place in the registry.
    pub(crate) fn record(&self) -> Arc<Session> {
        Arc::clone(&self.session)
    }
}

impl std::ops::Deref for SessionGuard {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut registry = self.sessions.registry();
        registry.sessions.remove(&self.session.id);
        if let Some(endpoint) = &self.session.identity.endpoint
            && let Some(count) = registry.per_endpoint.get_mut(endpoint)
        {
            *count -= 1;
            if *count == 0 {
                registry.per_endpoint.remove(endpoint);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_bounds() {
        let sessions = Sessions::new();
        let limits = Limits { sessions: 3, sessions_per_endpoint: 2, ..Limits::default() };
        let admit = |endpoint: &str| {
            let peer = Peer::Unix { uid: 0, pid: 0 };
            let identity = Identity { endpoint: Some(endpoint.into()), role: "app".into(), peer };
            sessions.admit(identity, &limits)
        };
        let first = admit("b1").unwrap();
        let _second = admit("b1").unwrap();
        assert_eq!(admit("b1").unwrap_err().message, "too many connections for branch \"b1\"");
        assert_eq!(sessions.count("b1"), 2);
        let _third = admit("b2").unwrap();
        assert_eq!(admit("b2").unwrap_err().sqlstate, "53300");
        drop(first);
        assert_eq!((sessions.count("b1"), sessions.list().len()), (1, 2));
        assert_eq!(sessions.list()[0].state, SessionState::Waking);
    }
}
