//! Signals in, readiness out.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the server heeds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What an operator asks for with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM, SIGINT
    Stop,
    /// SIGHUP
    Reload,
}

impl Signals {
    /// Begins to catch them, before anything is started that they should stop.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next of them.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.hangup.recv() => Request::Reload,
        }
    }
}

/// Says that connections are accepted: a line on standard output, and systemd's protocol.
pub(super) fn tell_ready() {
    let mut stdout = io::stdout();
    // Nobody may be listening, which is no reason not to serve.
    let _ = writeln!(stdout, "ready").and_then(|()| stdout.flush());
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET") {
        // After a takeover the service is another process than the one that was started.
        let text = format!("READY=1\nMAINPID={}", std::process::id());
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(text.as_bytes(), path));
        if let Err(error) = sent {
            tracing::warn!(%error, "notify service manager");
        }
    }
}
