//! A session at a branch: wake its compute, connect there, relay until one side ends.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::UnixStream;

use crate::backend::{self, BackendError, Connected};
use crate::cancel::CancelTarget;
use crate::console::Console;
use crate::door::{Accepted, Authenticated, Door, key_bytes, send, shutting_down};
use crate::handoff::{self, Offer};
use crate::preauth::{self, Ending};
use crate::process::BackendProcess;
use crate::record::{Phase, Record};
use crate::refusal::Refusal;
use crate::relay::{Relay, RelayEnd};
use crate::route::{Backend, Route};
use crate::sessions::{SessionGuard, SessionState};
use crate::stream::{Hangup, Stream, close_gently};
use crate::wire;

/// What a session is served with, besides its client.
pub(crate) struct Context<'a> {
    pub(crate) session: &'a SessionGuard,
    pub(crate) record: &'a mut Record,
    pub(crate) accepted: Accepted<'a>,
}

/// A session at the compute, and what keeps the compute in use.
type Attached = (Connected, Box<dyn Any + Send>);

impl<R: Route, C: Console> Door<R, C> {
    /// Serves an admitted client from its wake to its end.
    pub(crate) async fn branch(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        endpoint: &str,
        Context { session, record, mut accepted }: Context<'_>,
    ) -> Result<&'static str, Ending> {
        record.phase = Phase::Waking;
        let waking = self.attach(stream, client, endpoint);
        let (connected, in_use) = tokio::select! {
            attached = waking => attached?,
            () = self.stop.entering.cancelled() => {
                return Err(Ending::Refused(shutting_down()));
            }
        };
        let Connected { stream: mut backend, key, before_key: mut greeting, after_key } = connected;
        self.settings.meters.connected(record.connected(key.pid));
        session.connected(key.pid);
        let may_hand_off = accepted.policy.handoff && !stream.is_encrypted();
        let cancel = if may_hand_off {
            self.settings.cancels.issue_own(&key)
        } else {
            let target = CancelTarget::Backend(key.clone());
            self.settings.cancels.issue(key.pid, key_bytes(client.minor), &target)
        };
        wire::backend_key_data(&mut greeting, key.pid, cancel.key());
        greeting.extend_from_slice(&after_key);
        send(stream, &greeting).await?;
        if may_hand_off && let Some(process) = hand_off(stream, &mut backend, key.pid).await? {
            drop(backend);
            record.phase = Phase::HandedOff;
            session.set_state(SessionState::HandedOff);
            self.settings.meters.handed_off();
            accepted.place.settled();
            return Ok(self.watch(&process).await);
        }
        accepted.place.settled();

        let client = std::mem::replace(stream, Stream::Closed);
        let Ok(mut relay) = Relay::start(client, backend, session.record(), accepted.lane.belt())
        else {
            return Err(Ending::Gone("no descriptor left"));
        };
        // As a set of one it is polled when it was woken only, and not for every message.
        let mut stop: FuturesUnordered<_> = [self.stop.sessions.cancelled()].into_iter().collect();
        let mut end = tokio::select! {
            biased;
            end = relay.run() => Some(end),
            _ = stop.next() => None,
        };
        if end.is_none() {
            relay.stop_when_idle();
            let grace = self.limits().stop_grace;
            end = tokio::time::timeout(grace, relay.run()).await.ok();
        }
        let at_boundary;
        (*stream, at_boundary) = relay.end().await;
        if matches!(end, None | Some(RelayEnd::ClientDied)) {
            key.cancel().await;
        }
        drop((cancel, in_use));
        let (bytes_in, bytes_out) = session.relayed();
        self.settings.meters.relayed(bytes_in, bytes_out);
        finish(stream, end, at_boundary).await
    }

    /// Waits for the end of a session that was handed off: until then its compute is in use, and it
    /// counts. A server that takes over learns of it from the compute.
    async fn watch(&self, process: &BackendProcess) -> &'static str {
        tokio::select! {
            biased;
            () = process.ended() => "its backend ended",
            () = self.stop.sessions.cancelled() => {
                process.stop(self.limits().stop_grace).await;
                "server stopped"
            }
            () = self.stop.accepting.cancelled() => "left to the next server",
        }
    }

    /// Wakes the compute and opens a session there. A compute that stops in between is woken once
    /// more.
    async fn attach(
        &self,
        stream: &mut Stream,
        client: &Authenticated,
        endpoint: &str,
    ) -> Result<Attached, Ending> {
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
    ) -> Result<Attached, AttachError> {
        let Backend { socket: path, session: in_use } =
            self.wake((stream, hangup), client, endpoint).await?;
        let connecting = backend::connect(&path, &client.login.parameters);
        let limit = self.limits().backend_startup;
        let both = async {
            // The check again and the backend's fork take their time side by side.
            tokio::join!(
                self.route.verifier_again(endpoint, role_of(client)),
                tokio::time::timeout(limit, connecting)
            )
        };
        let (verifier, connected) = tokio::select! {
            both = both => both,
            () = hangup.happened() => return Err(Ending::Gone("left while connecting").into()),
        };
        if verifier.map_err(Ending::Refused)? != client.verifier {
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

    /// Queues a client for a wake, unless too many wait already.
    fn queue(&self, longest: usize) -> Result<Waiter<'_>, Ending> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter(&self.waiting);
        if before < longest {
            return Ok(waiter);
        }
        let text = "too many clients wait for branches to start";
        Err(Ending::Refused(Refusal::fatal("53300", text).with_hint("Try again in a moment.")))
    }

    async fn wake(
        &self,
        (stream, hangup): (&mut Stream, &Hangup),
        client: &Authenticated,
        endpoint: &str,
    ) -> Result<Backend, Ending> {
        let role = role_of(client);
        let limits = self.limits();
        let begun = Instant::now();
        let mut waking = std::pin::pin!(async {
            let woken = self.route.wake(endpoint, role).await;
            self.settings.meters.woken(begun.elapsed());
            woken
        });
        // A compute that is awake answers at once and takes nobody's place in the queue.
        let first = std::future::poll_fn(|cx| Poll::Ready(waking.as_mut().poll(cx))).await;
        if let Poll::Ready(backend) = first {
            return backend.map_err(Ending::Refused);
        }
        let _waiter = self.queue(limits.wakes_waiting)?;
        let patience = tokio::time::sleep(limits.wake_notice);
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

/// Hands the client to its backend; `None` if that declines and the session is to be relayed.
async fn hand_off(
    stream: &mut Stream,
    backend: &mut UnixStream,
    pid: i32,
) -> Result<Option<BackendProcess>, Ending> {
    let Some(socket) = stream.socket() else { return Ok(None) };
    match handoff::offer(socket, backend, pid).await {
        Ok(Offer::Taken(process)) => {
            *stream = Stream::Closed;
            Ok(Some(process))
        }
        Ok(Offer::Declined(said)) => send(stream, &said).await.map(|()| None),
        // The relay meets the same failure, and knows what to say of it.
        Err(error) => {
            tracing::debug!(%error, pid, "offer a client to its backend");
            Ok(None)
        }
    }
}

/// A client that has proved itself has a role in UTF-8: no other has a verifier.
fn role_of(client: &Authenticated) -> &str {
    std::str::from_utf8(&client.login.role).unwrap_or_default()
}

/// A place among those who wait for computes.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
