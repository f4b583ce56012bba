//! The accept loop: takes connections, bounds them, and ends them when told to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use crate::console::Console;
use crate::door::{self, Accepted, Door, Entrance};
use crate::home::Home;
use crate::lanes::{LanePlace, Lanes};
use crate::route::Route;
use crate::sessions::Peer;
use crate::settings::{Settings, Stop};
use crate::socket::UnwatchedSocket;
use crate::stream::Stream;
use crate::throttle::Throttle;

/// Out of descriptors: nothing tells when one is free again, so accepting pauses for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Beyond the grace of sessions: time to tell clients and to forward cancels.
const STOP_MARGIN: Duration = Duration::from_secs(7);

/// A bound socket to accept from.
#[derive(Debug)]
pub struct Listener {
    socket: ListenerSocket,
    entrance: Entrance,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Accepts over TCP.
    pub fn tcp(listener: TcpListener) -> Self {
        Self { socket: ListenerSocket::Tcp(listener), entrance: Entrance::default() }
    }

    /// Accepts over a unix socket.
    pub fn unix(listener: UnixListener) -> Self {
        Self { socket: ListenerSocket::Unix(listener), entrance: Entrance::default() }
    }

    /// Leads connections that name no endpoint to this one.
    #[must_use]
    pub fn with_default_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.entrance.default_endpoint = Some(endpoint.into());
        self
    }

    async fn accept(&self) -> io::Result<(UnwatchedSocket, Peer)> {
        Ok(match &self.socket {
            ListenerSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                (UnwatchedSocket::tcp(stream)?, Peer::Tcp(address))
            }
            ListenerSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let (uid, pid) = (credentials.uid(), credentials.pid().unwrap_or(0));
                (UnwatchedSocket::unix(stream)?, Peer::Unix { uid, pid })
            }
        })
    }
}

/// Serves until `stop`, and returns when all sessions are gone. After `stop.accepting` they end
/// by themselves. After `stop.sessions` idle ones are told 57P01 and closed, and busy ones get
/// `limits.stop_grace`. Called on a runtime, on which routes and admin statements then run; fails
/// if the threads for connections cannot be had.
pub fn serve<R: Route, C: Console>(
    listeners: Vec<Listener>,
    route: Arc<R>,
    console: Arc<C>,
    settings: Settings,
    stop: Stop,
) -> io::Result<impl Future<Output = ()> + Send> {
    let lanes = Arc::new(Lanes::start()?);
    let (route, console) = (Arc::new(Home::here(route)), Arc::new(Home::here(console)));
    let (throttle, waiting) = (Throttle::default(), AtomicUsize::new(0));
    let door = Arc::new(Door { route, console, settings, throttle, waiting, stop });
    Ok(async move {
        let mut loops = JoinSet::new();
        for listener in listeners {
            loops.spawn(accept_loop(listener, Arc::clone(&door), Arc::clone(&lanes)));
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "accept loop");
            }
        }
    })
}

async fn accept_loop<R: Route, C: Console>(
    listener: Listener,
    door: Arc<Door<R, C>>,
    lanes: Arc<Lanes>,
) {
    let entrance = Arc::new(listener.entrance.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            () = door.stop.accepting.cancelled() => break,
        };
        match accepted {
            Ok(accepted) => {
                let (door, entrance) = (Arc::clone(&door), Arc::clone(&entrance));
                let lane = lanes.place();
                let runtime = lane.runtime().clone();
                let served = async move { connection(&door, accepted, (&entrance, &lane)).await };
                connections.spawn_on(served, &runtime);
            }
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The client left before it was accepted.
            Err(error) => tracing::debug!(%error, "accept"),
        }
    }
    drop(listener);
    let limit = async {
        door.stop.sessions.cancelled().await;
        let grace = door.settings.policy.current().limits.stop_grace;
        tokio::time::sleep(grace + STOP_MARGIN).await;
    };
    tokio::select! {
        () = all_ended(&mut connections) => return,
        () = limit => {}
    }
    tracing::warn!(left = connections.len(), "sessions did not end in time");
    connections.shutdown().await;
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

async fn connection<R: Route, C: Console>(
    door: &Door<R, C>,
    (socket, peer): (UnwatchedSocket, Peer),
    (entrance, lane): (&Entrance, &LanePlace),
) {
    let Ok(socket) = socket.watch() else { return };
    let mut stream = Stream::Plain(socket);
    let policy = door.settings.policy.current();
    door.settings.meters.accepted();
    match door.settings.entrants.0.enter(peer, &policy.limits) {
        Ok(place) => {
            door.connection(stream, Accepted { peer, entrance, lane, policy, place }).await;
        }
        Err(refusal) => {
            tracing::warn!(%peer, reason = refusal.message, "connection refused");
            door.settings.meters.closed(Some(refusal.sqlstate), "opening");
            door::tell(&mut stream, &refusal).await;
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "connection task");
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}
