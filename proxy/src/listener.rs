//! The accept loop: takes connections, bounds them, and ends them when told to stop.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::limits::Limits;
use crate::route::Route;
use crate::sessions::Sessions;

/// A bound socket to accept from.
pub struct Listener {
    socket: ListenerSocket,
    default_endpoint: Option<String>,
}

enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What the front door needs besides listeners.
#[derive(Clone)]
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
        Self { socket: ListenerSocket::Tcp(listener), default_endpoint: None }
    }

    /// Accepts over a unix socket.
    pub fn unix(listener: UnixListener) -> Self {
        Self { socket: ListenerSocket::Unix(listener), default_endpoint: None }
    }

    /// Leads connections that name no endpoint to this one.
    #[must_use]
    pub fn with_default_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.default_endpoint = Some(endpoint.into());
        self
    }
}

/// Serves until `stop`; returns when the last session is gone.
pub async fn serve<R: Route, C: Console>(
    listeners: Vec<Listener>,
    route: Arc<R>,
    console: Arc<C>,
    settings: Settings,
    stop: CancellationToken,
) {
    for listener in &listeners {
        let (ListenerSocket::Tcp(_) | ListenerSocket::Unix(_)) = &listener.socket;
        tracing::debug!(default = ?listener.default_endpoint, "listening");
    }
    stop.cancelled().await;
    drop((route, console, settings));
}
