//! The life of one connection, from accept to its log line.
//!
//! ```text
//! open -> name the target -> authenticate -> admit -> wake -> connect -> relay
//!      \-> cancel                                  \-> console
//! ```

use std::sync::Arc;

use std::time::Instant;

use crate::cancel::BackendKey;
use crate::console::{self, Console, ConsoleSession};
use crate::crowd;
use crate::door::{Accepted, Authenticated, Door, key_bytes, send, shutting_down, tell};
use crate::naming::{self, Origin, Target};
use crate::preauth::{self, Challenge, Ending, Manners, Opening};
use crate::record::{Phase, Record};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::scram::{ChannelBinding, ScramVerifier};
use crate::session::Context;
use crate::sessions::{Identity, Peer, SessionGuard};
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wire::{self, StartupPacket};

impl<R: Route, C: Console> Door<R, C> {
    /// Serves a connection to its end.
    pub(crate) async fn connection(&self, mut stream: Stream, mut accepted: Accepted<'_>) {
        let mut record = Record::new(accepted.peer);
        let entered = match self.preauth(&mut stream, &accepted, &mut record).await {
            Ok(Some(client)) => {
                let session = self.admit(&mut stream, &client, &mut accepted, &mut record).await;
                session.map(|session| Some((client, session)))
            }
            Ok(None) => Ok(None),
            Err(ending) => Err(ending),
        };
        let ending = match entered {
            Ok(None) => Ok("cancel request"),
            Ok(Some((client, session))) => match &client.login.target {
                Target::Endpoint(endpoint) => {
                    let context = Context { session: &session, record: &mut record, accepted };
                    self.branch(&mut stream, &client, endpoint, context).await
                }
                Target::Console | Target::Nowhere(_) => {
                    record.phase = Phase::Console;
                    accepted.place.settled();
                    let ending = self.admin(stream, &client, &session).await;
                    return self.over(&record, &ending);
                }
            },
            Err(ending) => Err(ending),
        };
        if let Err(Ending::Refused(refusal)) = &ending {
            tell(&mut stream, refusal).await;
        }
        self.over(&record, &ending);
    }

    fn over(&self, record: &Record, ending: &Result<&'static str, Ending>) {
        let sqlstate = match ending {
            Err(Ending::Refused(refusal)) => Some(refusal.sqlstate),
            _ => None,
        };
        self.settings.meters.closed(sqlstate, record.phase.as_str());
        record.log(ending);
    }

    async fn preauth(
        &self,
        stream: &mut Stream,
        accepted: &Accepted<'_>,
        record: &mut Record,
    ) -> Result<Option<Authenticated>, Ending> {
        let policy = &accepted.policy;
        let limit = policy.limits.preauth;
        let manners = Manners {
            first_byte: policy.limits.first_byte,
            closing: &self.stop.accepting,
            tls: accepted.tls(),
            require_tls: policy.require_tls && accepted.tls().is_some(),
        };
        let steps = async {
            match preauth::open(stream, manners).await? {
                Opening::Cancel { pid, key } => {
                    record.phase = Phase::Cancelling;
                    record.cancel_hit = Some(self.cancel(accepted, pid, key).await);
                    Ok(None)
                }
                Opening::Startup(packet) => {
                    if stream.is_encrypted() {
                        self.settings.meters.encrypted();
                    }
                    record.phase = Phase::Authenticating;
                    self.authenticate(stream, packet, accepted, record).await.map(Some)
                }
            }
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, steps) => ended,
            () = accepted.place.evicted.cancelled() => {
                let text = "sorry, too many clients already";
                return Err(Ending::Refused(Refusal::fatal("53300", text)));
            }
            () = self.stop.entering.cancelled() => {
                return Err(Ending::Refused(shutting_down()));
            }
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

    /// Carries out a cancel, unless its sender seems to be guessing keys.
    async fn cancel(&self, accepted: &Accepted<'_>, pid: i32, key: Vec<u8>) -> bool {
        // No endpoint has such a name.
        const GUESSES: &str = "\0";
        let origin = crowd::Origin::of(accepted.peer);
        let free = accepted.policy.limits.failed_logins;
        if self.throttle.check(origin, GUESSES, (free, Instant::now())).is_err() {
            self.settings.meters.cancelled("throttled");
            return false;
        }
        let is_known = self.settings.cancels.request(pid, key.clone()).await;
        if is_known {
            self.throttle.succeeded(origin, GUESSES);
        } else {
            self.throttle.failed(origin, GUESSES, Instant::now());
            // Whether the key is right only the compute knows: a guess like any other to us.
            if let Some(socket) = self.route.compute_of(pid) {
                BackendKey { socket, pid, key }.cancel().await;
                self.settings.meters.cancelled("forwarded");
                return false;
            }
        }
        self.settings.meters.cancelled(if is_known { "found" } else { "not found" });
        is_known
    }

    async fn authenticate(
        &self,
        stream: &mut Stream,
        packet: StartupPacket,
        accepted: &Accepted<'_>,
        record: &mut Record,
    ) -> Result<Authenticated, Ending> {
        let mut challenge_greeting = Vec::new();
        let (minor, unknown) = (packet.minor_spoken(), packet.unknown_options());
        if packet.minor != minor || !unknown.is_empty() {
            wire::negotiate_version(&mut challenge_greeting, minor, &unknown);
        }
        let tls = accepted.tls();
        let host = stream.server_name().and_then(|host| tls?.endpoint_in(host));
        let origin = Origin {
            host_endpoint: host.as_deref(),
            default_endpoint: accepted.entrance.default_endpoint.as_deref(),
            over_unix_socket: matches!(record.peer, Peer::Unix { .. }),
        };
        let is_endpoint = |name: &str| self.route.is_endpoint(name);
        let login =
            naming::login(packet.parameters, origin, is_endpoint).map_err(Ending::Refused)?;
        record.name(&login);
        self.settings.meters.routed(login.named_by);
        let mut greeting = Vec::new();
        if login.target == Target::Console && is_local_admin(record.peer) {
            greeting.append(&mut challenge_greeting);
            wire::auth_ok(&mut greeting);
            self.settings.meters.authenticated("peer");
            return Ok(Authenticated { login, minor, verifier: None, greeting });
        }
        let (origin, endpoint) = (crowd::Origin::of(record.peer), login.target.name());
        let free = accepted.policy.limits.failed_logins;
        let may_try = self.throttle.check(origin, endpoint, (free, Instant::now()));
        may_try.map_err(|refusal| {
            self.settings.meters.authenticated("throttled");
            Ending::Refused(refusal)
        })?;
        let known = self.verifier(&login).await?;
        let mock = known
            .is_none()
            .then(|| ScramVerifier::mock(&self.settings.mock_secret, endpoint, &login.user));
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
        let proved = preauth::authenticate(stream, challenge).await;
        self.note_proof(origin, endpoint, &proved);
        let last = proved?;
        wire::auth_sasl_final(&mut greeting, last.as_bytes());
        wire::auth_ok(&mut greeting);
        if let Some(contradiction) = login.contradiction {
            return Err(Ending::Refused(contradiction));
        }
        Ok(Authenticated { login, minor, verifier: known, greeting })
    }

    fn note_proof(&self, origin: crowd::Origin, endpoint: &str, proved: &Result<String, Ending>) {
        let meters = &self.settings.meters;
        match proved {
            Ok(_) => {
                meters.authenticated("ok");
                self.throttle.succeeded(origin, endpoint);
            }
            Err(Ending::Refused(refusal)) if refusal.sqlstate == preauth::WRONG_PASSWORD => {
                meters.authenticated("wrong password");
                self.throttle.failed(origin, endpoint, Instant::now());
            }
            Err(_) => meters.authenticated("broken off"),
        }
    }

    async fn admit(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        accepted: &mut Accepted<'_>,
        record: &mut Record,
    ) -> Result<SessionGuard, Ending> {
        let endpoint = match &client.login.target {
            Target::Endpoint(name) => Some(name.clone()),
            Target::Console | Target::Nowhere(_) => None,
        };
        let role = String::from_utf8_lossy(&client.login.role).into_owned();
        let identity = Identity { endpoint, role, peer: record.peer };
        let session = self.settings.sessions.admit(identity, &accepted.policy.limits);
        let session = session.map_err(Ending::Refused)?;
        accepted.place.authenticated();
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
            cancels: &self.settings.cancels,
            stop: &self.stop.accepting,
            stop_grace: self.settings.policy.current().limits.stop_grace,
        };
        console::serve(stream, Arc::clone(&self.console), start, session).await
    }
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
