//! The accept loop: takes connections, bounds them, and ends them when told to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cancel::Cancels;
use crate::console::Console;
use crate::door::{self, Door, Entrance};
use crate::limits::Limits;
use crate::refusal::Refusal;
use crate::route::Route;
use crate::sessions::Sessions;
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::Tls;

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

/// What the front door needs besides listeners.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds.
    pub limits: Limits,
    /// Secret of this server, the same after a restart: makes the salts of unknown names.
    pub mock_secret: [u8; 32],
    /// Where sessions are listed.
    pub sessions: Arc<Sessions>,
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

    /// Offers encryption.
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.entrance.tls = Some(tls);
        self
    }

    /// Refuses plaintext. Only for a listener with TLS.
    #[must_use]
    pub fn requiring_tls(mut self) -> Self {
        self.entrance.require_tls = true;
        self
    }

    async fn accept(&self) -> io::Result<Socket> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => Socket::tcp(listener.accept().await?.0),
            ListenerSocket::Unix(listener) => Ok(Socket::Unix(listener.accept().await?.0)),
        }
    }
}

/// Serves until `stop`. Then nothing more is accepted, idle sessions are told 57P01 and closed,
/// busy ones get `limits.stop_grace`; returns when all are gone.
pub async fn serve<R: Route, C: Console>(
    listeners: Vec<Listener>,
    route: Arc<R>,
    console: Arc<C>,
    settings: Settings,
    stop: CancellationToken,
) {
    let preauth = Arc::new(Semaphore::new(settings.limits.preauth_connections));
    let cancels = Arc::new(Cancels::default());
    let door = Arc::new(Door { route, console, settings, cancels, preauth, stop });
    let mut loops = JoinSet::new();
    for listener in listeners {
        loops.spawn(accept_loop(listener, Arc::clone(&door)));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "accept loop");
        }
    }
}

async fn accept_loop<R: Route, C: Console>(listener: Listener, door: Arc<Door<R, C>>) {
    let entrance = Arc::new(listener.entrance.clone());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            () = door.stop.cancelled() => break,
        };
        match accepted {
            Ok(socket) => {
                let (door, entrance) = (Arc::clone(&door), Arc::clone(&entrance));
                connections.spawn(async move { connection(&door, socket, &entrance).await });
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
    let ends = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    let limit = door.settings.limits.stop_grace + STOP_MARGIN;
    if tokio::time::timeout(limit, ends).await.is_err() {
        tracing::warn!(left = connections.len(), "sessions did not end in time");
        connections.shutdown().await;
    }
}

async fn connection<R: Route, C: Console>(door: &Door<R, C>, socket: Socket, entrance: &Entrance) {
    let Ok(peer) = socket.peer() else { return };
    let mut stream = Stream::Plain(socket);
    match Arc::clone(&door.preauth).try_acquire_owned() {
        Ok(permit) => door.connection(stream, peer, entrance, permit).await,
        Err(_none_left) => {
            tracing::warn!(%peer, "too many connections that have not authenticated");
            let refusal = Refusal::fatal("53300", "sorry, too many clients already");
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
