//! The life of one connection, from accept to its log line.
//!
//! ```text
//! open -> name the target -> authenticate -> admit -> wake -> connect -> relay
//!      \-> cancel                                  \-> console
//! ```

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::backend::{self, BackendError, Connected};
use crate::cancel::{CancelTarget, Cancels};
use crate::console::{self, Console, ConsoleSession};
use crate::listener::Settings;
use crate::naming::{self, Login, Origin, Target};
use crate::preauth::{self, Challenge, Ending, Manners, Opening};
use crate::record::{Phase, Record};
use crate::refusal::Refusal;
use crate::relay::{Relay, RelayEnd};
use crate::route::{Backend, Route};
use crate::scram::{ChannelBinding, ScramVerifier};
use crate::sessions::{Identity, Peer, SessionGuard};
use crate::stream::{Hangup, Stream, close_gently};
use crate::tls::Tls;
use crate::wire::{self, StartupPacket};

/// What all connections share.
pub(crate) struct Door<R, C> {
    pub(crate) route: Arc<R>,
    pub(crate) console: Arc<C>,
    pub(crate) settings: Settings,
    pub(crate) cancels: Arc<Cancels>,
    pub(crate) preauth: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
}

/// How one listener lets clients in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entrance {
    /// Where connections that name no endpoint go.
    pub(crate) default_endpoint: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) require_tls: bool,
}

/// A client that proved who it is.
struct Authenticated {
    login: Login,
    minor: u16,
    /// What it was checked against; checked again once the compute is awake.
    verifier: Option<ScramVerifier>,
    /// To be sent when it is admitted.
    greeting: Vec<u8>,
}

impl<R: Route, C: Console> Door<R, C> {
    /// Serves a connection to its end. The permit bounds connections before authentication.
    pub(crate) async fn connection(
        &self,
        mut stream: Stream,
        peer: Peer,
        entrance: &Entrance,
        permit: OwnedSemaphorePermit,
    ) {
        let mut record = Record::new(peer);
        let entered = match self.preauth(&mut stream, entrance, &mut record).await {
            Ok(Some(client)) => {
                let session = self.admit(&mut stream, &client, permit, &mut record).await;
                session.map(|session| Some((client, session)))
            }
            Ok(None) => Ok(None),
            Err(ending) => Err(ending),
        };
        let ending = match entered {
            Ok(None) => Ok("cancel request"),
            Ok(Some((client, session))) => match &client.login.target {
                Target::Endpoint(endpoint) => {
                    self.branch(&mut stream, &client, endpoint, (&session, &mut record)).await
                }
                Target::Console | Target::Nowhere(_) => {
                    record.phase = Phase::Console;
                    let ending = self.admin(stream, &client, &session).await;
                    return record.log(&ending);
                }
            },
            Err(ending) => Err(ending),
        };
        if let Err(Ending::Refused(refusal)) = &ending {
            tell(&mut stream, refusal).await;
        }
        record.log(&ending);
    }

    async fn preauth(
        &self,
        stream: &mut Stream,
        entrance: &Entrance,
        record: &mut Record,
    ) -> Result<Option<Authenticated>, Ending> {
        let limit = self.settings.limits.preauth;
        let manners = Manners {
            first_byte: self.settings.limits.first_byte,
            tls: entrance.tls.as_ref(),
            require_tls: entrance.require_tls,
        };
        let steps = async {
            match preauth::open(stream, manners).await? {
                Opening::Cancel { pid, key } => {
                    record.phase = Phase::Cancelling;
                    record.cancel_hit = Some(self.cancels.request(pid, key).await);
                    Ok(None)
                }
                Opening::Startup(packet) => {
                    record.phase = Phase::Authenticating;
                    self.authenticate(stream, packet, entrance, record).await.map(Some)
                }
            }
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, steps) => ended,
            () = self.stop.cancelled() => return Err(Ending::Refused(shutting_down())),
        };
        ended.unwrap_or_else(|_elapsed| {
            Err(match record.phase {
                Phase::Authenticating => {
                    let text = "canceling authentication due to timeout";
                    Ending::Refused(Refusal::fatal("57014", text))
                }
                _ => Ending::Gone("timeout before startup"),
            })
        })
    }

    async fn authenticate(
        &self,
        stream: &mut Stream,
        packet: StartupPacket,
        entrance: &Entrance,
        record: &mut Record,
    ) -> Result<Authenticated, Ending> {
        let mut challenge_greeting = Vec::new();
        let (minor, unknown) = (packet.minor_spoken(), packet.unknown_options());
        if packet.minor != minor || !unknown.is_empty() {
            wire::negotiate_version(&mut challenge_greeting, minor, &unknown);
        }
        let tls = entrance.tls.as_ref();
        let host = stream.server_name().and_then(|host| tls?.endpoint_in(host));
        let origin = Origin {
            host_endpoint: host.as_deref(),
            default_endpoint: entrance.default_endpoint.as_deref(),
            over_unix_socket: matches!(record.peer, Peer::Unix { .. }),
        };
        let is_endpoint = |name: &str| self.route.is_endpoint(name);
        let login =
            naming::login(packet.parameters, origin, is_endpoint).map_err(Ending::Refused)?;
        record.name(&login);
        let mut greeting = Vec::new();
        if login.target == Target::Console && is_local_admin(record.peer) {
            greeting.append(&mut challenge_greeting);
            wire::auth_ok(&mut greeting);
            return Ok(Authenticated { login, minor, verifier: None, greeting });
        }
        let known = self.verifier(&login).await?;
        let mock = known.is_none().then(|| {
            let endpoint = match &login.target {
                Target::Console => "",
                Target::Endpoint(name) | Target::Nowhere(name) => name,
            };
            ScramVerifier::mock(&self.settings.mock_secret, endpoint, &login.user)
        });
        let Some(verifier) = known.as_ref().or(mock.as_ref()) else {
            return Err(Ending::Refused(preauth::wrong_password(&login.user)));
        };
        let challenge = Challenge {
            user: &login.user,
            verifier,
            doomed: known.is_none(),
            channel: channel(stream, tls),
            greeting: challenge_greeting,
        };
        let last = preauth::authenticate(stream, challenge).await?;
        wire::auth_sasl_final(&mut greeting, last.as_bytes());
        wire::auth_ok(&mut greeting);
        if let Some(contradiction) = login.contradiction {
            return Err(Ending::Refused(contradiction));
        }
        Ok(Authenticated { login, minor, verifier: known, greeting })
    }

    async fn verifier(&self, login: &Login) -> Result<Option<ScramVerifier>, Ending> {
        let Ok(role) = std::str::from_utf8(&login.role) else { return Ok(None) };
        match &login.target {
            Target::Nowhere(_) => Ok(None),
            Target::Console => Ok(self.console.verifier(role).await),
            Target::Endpoint(name) => {
                self.route.verifier(name, role).await.map_err(Ending::Refused)
            }
        }
    }

    async fn admit(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        permit: OwnedSemaphorePermit,
        record: &mut Record,
    ) -> Result<SessionGuard, Ending> {
        let endpoint = match &client.login.target {
            Target::Endpoint(name) => Some(name.clone()),
            Target::Console | Target::Nowhere(_) => None,
        };
        let role = String::from_utf8_lossy(&client.login.role).into_owned();
        let identity = Identity { endpoint, role, peer: record.peer };
        let session = self.settings.sessions.admit(identity, &self.settings.limits);
        let session = session.map_err(Ending::Refused)?;
        drop(permit);
        record.session(&session);
        send(stream, &client.greeting).await?;
        Ok(session)
    }

    async fn admin(
        &self,
        stream: Stream,
        client: &Authenticated,
        session: &SessionGuard,
    ) -> Result<&'static str, Ending> {
        let application_name = client.login.parameters.value(b"application_name");
        let application_name = String::from_utf8_lossy(application_name.unwrap_or_default());
        let who = ConsoleSession {
            id: session.id,
            role: session.identity.role.clone(),
            is_local_admin: is_local_admin(session.identity.peer),
            peer: session.identity.peer,
            application_name: application_name.into_owned(),
        };
        let start = console::Start {
            who,
            key_bytes: key_bytes(client.minor),
            cancels: &self.cancels,
            stop: &self.stop,
            stop_grace: self.settings.limits.stop_grace,
        };
        console::serve(stream, Arc::clone(&self.console), start, session).await
    }

    async fn branch(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        endpoint: &str,
        (session, record): (&SessionGuard, &mut Record),
    ) -> Result<&'static str, Ending> {
        record.phase = Phase::Waking;
        let waking = self.attach(stream, client, endpoint);
        let (connected, in_use) = tokio::select! {
            attached = waking => attached?,
            () = self.stop.cancelled() => return Err(Ending::Refused(shutting_down())),
        };
        let Connected { stream: mut backend, key, before_key: mut greeting, after_key } = connected;
        record.connected(key.pid);
        session.connected(key.pid);
        let target = CancelTarget::Backend(key.clone());
        let cancel = self.cancels.issue(key.pid, key_bytes(client.minor), &target);
        wire::backend_key_data(&mut greeting, key.pid, cancel.key());
        greeting.extend_from_slice(&after_key);
        send(stream, &greeting).await?;

        let mut relay = Relay::new(stream, &mut backend, session);
        let mut end = tokio::select! {
            end = relay.run() => Some(end),
            () = self.stop.cancelled() => None,
        };
        if end.is_none() {
            relay.stop_when_idle();
            let grace = self.settings.limits.stop_grace;
            end = tokio::time::timeout(grace, relay.run()).await.ok();
        }
        let at_boundary = relay.at_boundary();
        drop(backend);
        if matches!(end, None | Some(RelayEnd::ClientDied)) {
            key.cancel().await;
        }
        drop((cancel, in_use));
        finish(stream, end, at_boundary).await
    }

    /// Wakes the compute and opens a session there. A compute that stops in between is woken once
    /// more.
    async fn attach(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        endpoint: &str,
    ) -> Result<(Connected, Box<dyn std::any::Any + Send>), Ending> {
        let hangup = Hangup::watch(stream).map_err(|_| Ending::Gone("no descriptor left"))?;
        match self.try_attach((stream, &hangup), client, endpoint).await {
            Err(AttachError::ComputeStopped) => {}
            Err(AttachError::Ending(ending)) => return Err(ending),
            Ok(attached) => return Ok(attached),
        }
        self.try_attach((stream, &hangup), client, endpoint).await.map_err(|error| match error {
            AttachError::Ending(ending) => ending,
            AttachError::ComputeStopped => {
                let text = format!("branch \"{endpoint}\" is starting up");
                Ending::Refused(Refusal::fatal("57P03", text).with_hint("Try again."))
            }
        })
    }

    async fn try_attach(
        &self,
        (stream, hangup): (&mut Stream, &Hangup),
        client: &Authenticated,
        endpoint: &str,
    ) -> Result<(Connected, Box<dyn std::any::Any + Send>), AttachError> {
        let Backend { socket: path, session: in_use } =
            self.wake((stream, hangup), client, endpoint).await?;
        let connecting = backend::connect(&path, &client.login.parameters);
        let limit = self.settings.limits.backend_startup;
        let both = async {
            // The check again and the backend's fork take their time side by side.
            tokio::join!(self.verifier(&client.login), tokio::time::timeout(limit, connecting))
        };
        let (verifier, connected) = tokio::select! {
            both = both => both,
            () = hangup.happened() => return Err(Ending::Gone("left while connecting").into()),
        };
        if verifier? != client.verifier {
            return Err(Ending::Refused(preauth::wrong_password(&client.login.user)).into());
        }
        match connected {
            Ok(Ok(connected)) => Ok((connected, in_use)),
            Ok(Err(BackendError::NotThere)) => Err(AttachError::ComputeStopped),
            Ok(Err(BackendError::Refused { sqlstate, .. })) if sqlstate == "57P03" => {
                Err(AttachError::ComputeStopped)
            }
            Ok(Err(BackendError::Refused { bytes, .. })) => {
                // The compute's own words, sent as they are.
                send(stream, &bytes).await?;
                close_gently(stream).await;
                Err(Ending::Gone("refused by the compute").into())
            }
            Ok(Err(error)) => {
                tracing::error!(%error, endpoint, "open a session at the compute");
                let text = format!("branch \"{endpoint}\" cannot be reached");
                Err(Ending::Refused(Refusal::fatal("58000", text)).into())
            }
            Err(_elapsed) => {
                let text = format!("branch \"{endpoint}\" does not answer");
                Err(Ending::Refused(Refusal::fatal("57P03", text)).into())
            }
        }
    }

    async fn wake(
        &self,
        (stream, hangup): (&mut Stream, &Hangup),
        client: &Authenticated,
        endpoint: &str,
    ) -> Result<Backend, Ending> {
        let role = std::str::from_utf8(&client.login.role).unwrap_or_default();
        let mut waking = std::pin::pin!(self.route.wake(endpoint, role));
        let patience = tokio::time::sleep(self.settings.limits.wake_notice);
        tokio::select! {
            backend = &mut waking => return backend.map_err(Ending::Refused),
            () = hangup.happened() => return Err(Ending::Gone("left while waking")),
            () = patience => {}
        }
        let mut out = Vec::new();
        wire::notice(&mut out, &format!("branch \"{endpoint}\" is starting"));
        send(stream, &out).await?;
        tokio::select! {
            backend = &mut waking => backend.map_err(Ending::Refused),
            () = hangup.happened() => Err(Ending::Gone("left while waking")),
        }
    }
}

enum AttachError {
    /// It stopped between waking and connecting.
    ComputeStopped,
    Ending(Ending),
}

impl From<Ending> for AttachError {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}

async fn finish(
    stream: &mut Stream,
    end: Option<RelayEnd>,
    at_boundary: bool,
) -> Result<&'static str, Ending> {
    match end {
        Some(RelayEnd::ClientLeft) => Ok("client left"),
        Some(RelayEnd::ClientDied) => Ok("client died"),
        Some(RelayEnd::BackendClosed) => {
            close_gently(stream).await;
            Ok("closed by the compute")
        }
        Some(RelayEnd::BackendDied) if at_boundary => {
            let text = "terminating connection because the branch's server process crashed";
            Err(Ending::Refused(Refusal::fatal("57P02", text)))
        }
        Some(RelayEnd::BackendDied) => Ok("compute died"),
        None | Some(RelayEnd::Stopped) if at_boundary => {
            let text = "terminating connection due to administrator command";
            Err(Ending::Refused(Refusal::fatal("57P01", text)))
        }
        None | Some(RelayEnd::Stopped) => Ok("server stopped"),
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

async fn send(stream: &mut Stream, bytes: &[u8]) -> Result<(), Ending> {
    use tokio::io::AsyncWriteExt;
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    sent.await.map_err(|_| Ending::Gone("left"))
}

fn shutting_down() -> Refusal {
    Refusal::fatal("57P03", "the database system is shutting down")
}

/// Root and the server's own user may do anything to this server anyway.
fn is_local_admin(peer: Peer) -> bool {
    match peer {
        Peer::Tcp(_) => false,
        Peer::Unix { uid, .. } => uid == 0 || uid == rustix::process::geteuid().as_raw(),
    }
}

fn channel(stream: &Stream, tls: Option<&Tls>) -> ChannelBinding {
    match tls.and_then(|tls| tls.end_point.clone()) {
        Some(hash) if stream.is_encrypted() => ChannelBinding::ServerEndPoint(hash),
        _ => ChannelBinding::Unavailable,
    }
}

fn key_bytes(minor: u16) -> usize {
    if minor >= 2 { 32 } else { 4 }
}
