//! What is known of a connection when it ends: one log line. Never a secret, never a query.

use std::time::{Duration, Instant};

use crate::naming::{Login, Target};
use crate::preauth::Ending;
use crate::sessions::{Peer, SessionGuard};

/// How far a connection got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Opening,
    Cancelling,
    Authenticating,
    Waking,
    Relaying,
    HandedOff,
    Console,
}

impl Phase {
    /// Its word in the metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Cancelling => "cancelling",
            Self::Authenticating => "authenticating",
            Self::Waking => "waking",
            Self::Relaying => "relaying",
            Self::HandedOff => "handed off",
            Self::Console => "console",
        }
    }
}

/// The facts of one connection.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) peer: Peer,
    pub(crate) phase: Phase,
    pub(crate) cancel_hit: Option<bool>,
    since: Instant,
    session: Option<u64>,
    endpoint: Option<String>,
    role: Option<String>,
    authenticated_after: Option<Duration>,
    ready_after: Option<Duration>,
    backend_pid: Option<i32>,
}

impl Record {
    /// A connection was accepted.
    pub(crate) fn new(peer: Peer) -> Self {
        Self {
            peer,
            phase: Phase::Opening,
            cancel_hit: None,
            since: Instant::now(),
            session: None,
            endpoint: None,
            role: None,
            authenticated_after: None,
            ready_after: None,
            backend_pid: None,
        }
    }

    /// The client has said where it wants to go.
    pub(crate) fn name(&mut self, login: &Login) {
        self.role = Some(String::from_utf8_lossy(&login.role).into_owned());
        self.endpoint = match &login.target {
            Target::Console => None,
            Target::Endpoint(name) | Target::Nowhere(name) => Some(name.clone()),
        };
    }

    /// It was let in.
    pub(crate) fn session(&mut self, session: &SessionGuard) {
        self.session = Some(session.id);
        self.authenticated_after = Some(self.since.elapsed());
    }

    /// Its backend is ready for queries. Returns how long that took since it was accepted.
    pub(crate) fn connected(&mut self, backend_pid: i32) -> Duration {
        self.phase = Phase::Relaying;
        self.backend_pid = Some(backend_pid);
        *self.ready_after.insert(self.since.elapsed())
    }

    /// Writes the line. A health check, which says nothing, gets none.
    pub(crate) fn log(&self, ending: &Result<&'static str, Ending>) {
        let (reason, sqlstate) = match ending {
            Ok(reason) | Err(Ending::Gone(reason)) => (*reason, None),
            Err(Ending::Refused(refusal)) => (refusal.message.as_str(), Some(refusal.sqlstate)),
            Err(Ending::Silent) => return,
        };
        tracing::info!(
            peer = %self.peer,
            phase = ?self.phase,
            session = self.session,
            endpoint = self.endpoint.as_deref(),
            role = self.role.as_deref(),
            backend_pid = self.backend_pid,
            authenticated_ms = self.authenticated_after.map(millis),
            ready_ms = self.ready_after.map(millis),
            lasted_ms = millis(self.since.elapsed()),
            cancel_hit = self.cancel_hit,
            sqlstate,
            reason,
            "connection closed"
        );
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
