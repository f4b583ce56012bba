//! Signals in, readiness out.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end the server.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to catch them, before anything is started that they should stop.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Resolves at the first of them.
    pub(super) async fn stop_requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Says that connections are accepted: a line on standard output, and systemd's protocol.
pub(super) fn tell_ready() {
    let mut stdout = io::stdout();
    // Nobody may be listening, which is no reason not to serve.
    let _ = writeln!(stdout, "ready").and_then(|()| stdout.flush());
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"READY=1", path));
        if let Err(error) = sent {
            tracing::warn!(%error, "notify service manager");
        }
    }
}
