//! What the steps of a connection have in common: the shared state, the proof of a client, and the
//! ways to answer one.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::io::AsyncWriteExt;

use crate::console::Console;
use crate::crowd::Place;
use crate::lanes::LanePlace;
use crate::limits::Limits;
use crate::naming::{Login, Target};
use crate::policy::Policy;
use crate::preauth::Ending;
use crate::refusal::Refusal;
use crate::route::Route;
use crate::scram::ScramVerifier;
use crate::sessions::Peer;
use crate::settings::{Settings, Stop};
use crate::stream::{Stream, close_gently};
use crate::throttle::Throttle;
use crate::tls::Tls;
use crate::wire;

/// What all connections share.
pub(crate) struct Door<R, C> {
    pub(crate) route: Arc<R>,
    pub(crate) console: Arc<C>,
    pub(crate) settings: Settings,
    pub(crate) throttle: Throttle,
    /// Sessions that wait for a compute to wake.
    pub(crate) waiting: AtomicUsize,
    pub(crate) stop: Stop,
}

/// How one listener lets clients in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entrance {
    /// Where connections that name no endpoint go.
    pub(crate) default_endpoint: Option<String>,
}

/// A client that proved who it is.
pub(crate) struct Authenticated {
    pub(crate) login: Login,
    pub(crate) minor: u16,
    /// What it was checked against; checked again once the compute is awake.
    pub(crate) verifier: Option<ScramVerifier>,
    /// To be sent when it is admitted.
    pub(crate) greeting: Vec<u8>,
}

impl<R: Route, C: Console> Door<R, C> {
    /// The bounds in force.
    pub(crate) fn limits(&self) -> Limits {
        self.settings.policy.current().limits.clone()
    }

    /// The credential that a login is checked against.
    pub(crate) async fn verifier(&self, login: &Login) -> Result<Option<ScramVerifier>, Ending> {
        let Ok(role) = std::str::from_utf8(&login.role) else { return Ok(None) };
        match &login.target {
            Target::Nowhere(_) => Ok(None),
            Target::Console => Ok(self.console.verifier(role).await),
            Target::Endpoint(name) => {
                self.route.verifier(name, role).await.map_err(Ending::Refused)
            }
        }
    }
}

/// A connection as it was accepted.
pub(crate) struct Accepted<'a> {
    pub(crate) peer: Peer,
    pub(crate) entrance: &'a Entrance,
    pub(crate) lane: &'a LanePlace,
    pub(crate) policy: Arc<Policy>,
    pub(crate) place: Place,
}

impl Accepted<'_> {
    /// The identity to show; over the unix socket there is nothing to encrypt.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        match self.peer {
            Peer::Tcp(_) => self.policy.tls.as_ref(),
            Peer::Unix { .. } => None,
        }
    }
}

/// Sends a last word and closes.
pub(crate) async fn tell(stream: &mut Stream, refusal: &Refusal) {
    let mut out = Vec::new();
    wire::refusal(&mut out, refusal);
    if send(stream, &out).await.is_ok() {
        close_gently(stream).await;
    }
}

/// Sends at once.
pub(crate) async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), Ending> {
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    sent.await.map_err(|_| Ending::Gone("left"))
}

/// What clients that come or wait are told when the server stops.
pub(crate) fn shutting_down() -> Refusal {
    Refusal::fatal("57P03", "the database system is shutting down")
}

/// Length of a cancel key in protocol 3.`minor`.
pub(crate) fn key_bytes(minor: u16) -> usize {
    if minor >= 2 { 32 } else { 4 }
}
