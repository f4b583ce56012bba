//! The life of one connection, from accept to its log line.
//!
//! ```text
//! open -> name the target -> authenticate -> admit -> wake -> connect -> relay
//!      \-> cancel                                  \-> console
//! ```

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::console::{self, Console, ConsoleSession};
use crate::door::{Authenticated, Door, Entrance, key_bytes, send, shutting_down, tell};
use crate::naming::{self, Origin, Target};
use crate::preauth::{self, Challenge, Ending, Manners, Opening};
use crate::record::{Phase, Record};
use crate::refusal::Refusal;
use crate::route::Route;
use crate::scram::{ChannelBinding, ScramVerifier};
use crate::sessions::{Identity, Peer, SessionGuard};
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wire::{self, StartupPacket};

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
