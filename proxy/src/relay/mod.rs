//! Bytes both ways between a client and its backend, unchanged.
//!
//! What a session's bytes go through is an [`exchange`]. Who moves them is the [`belt`] of the
//! connection's lane, a thread with an epoll of its own, if nothing is encrypted; else a [`task`],
//! as encryption is a library's and speaks its runtime's language.
//!
//! When one side ends the relay ends: a session whose client is gone must not keep a backend.

mod belt;
mod edge;
mod exchange;
mod task;

use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;

pub(crate) use belt::Belt;

use crate::sessions::Session;
use crate::socket::{Socket, UnwatchedSocket};
use crate::stream::Stream;

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// The client said Terminate, then closed.
    ClientLeft,
    /// The client is gone without a word: its query must be cancelled.
    ClientDied,
    /// The backend closed, after it had said why.
    BackendClosed,
    /// The backend's connection broke: a crash.
    BackendDied,
    /// We were told to stop, and the stream stands between two messages.
    Stopped,
}

/// A session being relayed. Dropped, it ends.
pub(crate) enum Relay {
    Belt(belt::Load),
    Task(Box<task::Relay>),
}

impl Relay {
    /// Takes over after ReadyForQuery. Fails if descriptors or memory of the kernel run out.
    pub(crate) fn start(
        client: Stream,
        backend: UnixStream,
        session: Arc<Session>,
        belt: &Belt,
    ) -> io::Result<Self> {
        match client {
            Stream::Plain(client) => {
                let backend = UnwatchedSocket::unix(backend)?;
                Ok(Self::Belt(belt.carry(client.unwatch(), backend, session)?))
            }
            client => {
                let backend = Socket::of_backend(backend)?;
                Ok(Self::Task(Box::new(task::Relay::new(client, backend, session))))
            }
        }
    }

    /// Relays until one side ends.
    pub(crate) async fn run(&mut self) -> RelayEnd {
        match self {
            Self::Belt(load) => load.ended().await,
            Self::Task(relay) => relay.run().await,
        }
    }

    /// From now on ends as soon as the session is idle.
    pub(crate) fn stop_when_idle(&mut self) {
        match self {
            Self::Belt(load) => load.stop_when_idle(),
            Self::Task(relay) => relay.stop_when_idle(),
        }
    }

    /// Closes the backend's side. Gives the client back, and whether a message of ours may follow
    /// what it has received.
    pub(crate) async fn end(self) -> (Stream, bool) {
        match self {
            Self::Belt(load) => load.end().await,
            Self::Task(relay) => relay.end(),
        }
    }
}
