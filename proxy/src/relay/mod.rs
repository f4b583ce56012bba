//! Bytes both ways between a client and its backend, unchanged.
//!
//! What a session's bytes go through is an [`exchange`]. Who moves them:
//!
//! | Who | Which sessions |
//! |---|---|
//! | the connection's [`task`] | each at first, and encrypted ones: that is its runtime's |
//! | the [`belt`] of its lane, a thread with an epoll of its own | plain ones, after a while |
//!
//! Most sessions are over soon, and to hand one on takes two threads' time.
//!
//! When one side ends the relay ends: a session whose client is gone must not keep a backend.

mod belt;
mod edge;
mod exchange;
mod patience;
mod task;

use std::io;
use std::sync::Arc;

use tokio::net::UnixStream;

pub(crate) use belt::Belt;

use crate::sessions::Session;
use crate::socket::Socket;
use crate::stream::Stream;
use task::Moved;

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
pub(crate) struct Relay<'a> {
    belt: &'a Belt,
    mover: Mover,
}

enum Mover {
    Task(Box<task::Relay>),
    Belt(belt::Load),
    /// Neither took it: it has ended.
    Nobody,
}

impl<'a> Relay<'a> {
    /// Takes over after ReadyForQuery. Fails if descriptors or memory of the kernel run out.
    pub(crate) fn start(
        client: Stream,
        backend: UnixStream,
        session: Arc<Session>,
        belt: &'a Belt,
    ) -> io::Result<Self> {
        let relay = task::Relay::new(client, Socket::of_backend(backend)?, session);
        Ok(Self { belt, mover: Mover::Task(Box::new(relay)) })
    }

    /// Relays until one side ends.
    pub(crate) async fn run(&mut self) -> RelayEnd {
        loop {
            match &mut self.mover {
                Mover::Task(relay) => match relay.run().await {
                    Moved::ToItsEnd(end) => return end,
                    Moved::ForAWhile => self.hand_on(),
                },
                Mover::Belt(load) => return load.ended().await,
                Mover::Nobody => return RelayEnd::BackendDied,
            }
        }
    }

    /// From the task to the belt.
    fn hand_on(&mut self) {
        self.mover = match std::mem::replace(&mut self.mover, Mover::Nobody) {
            Mover::Task(relay) => match relay.into_plain() {
                Ok(plain) => Mover::Belt(self.belt.carry(plain)),
                Err(relay) => Mover::Task(relay),
            },
            other => other,
        };
    }

    /// From now on ends as soon as the session is idle.
    pub(crate) fn stop_when_idle(&mut self) {
        match &mut self.mover {
            Mover::Task(relay) => relay.stop_when_idle(),
            Mover::Belt(load) => load.stop_when_idle(),
            Mover::Nobody => {}
        }
    }

    /// Closes the backend's side. Gives the client back, and whether a message of ours may follow
    /// what it has received.
    pub(crate) async fn end(self) -> (Stream, bool) {
        match self.mover {
            Mover::Task(relay) => relay.end(),
            Mover::Belt(load) => load.end().await,
            Mover::Nobody => (Stream::Closed, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limits::Limits;
    use crate::sessions::{Identity, Peer, Sessions};
    use crate::socket::UnwatchedSocket;

    const QUERY: &[u8] = b"Q\0\0\0\x05\0";

    /// The client sends so many queries, one at least; the backend says after each that it is in a
    /// transaction, and lastly, told to stop, that it is idle.
    async fn relays(queries: usize) -> bool {
        let belt = Belt::start().unwrap();
        let identity =
            Identity { endpoint: None, role: "app".into(), peer: Peer::Unix { uid: 0, pid: 0 } };
        let session = Sessions::new().admit(identity, &Limits::default()).unwrap();
        let (ours, mut client) = UnixStream::pair().unwrap();
        let (backends, mut backend) = UnixStream::pair().unwrap();
        let ours = Stream::Plain(UnwatchedSocket::unix(ours).unwrap().watch().unwrap());
        let mut relay = Relay::start(ours, backends, session.record(), &belt).unwrap();
        let answers = async {
            for _ in 0..queries {
                client.write_all(QUERY).await.unwrap();
                answer(&mut backend, b'T').await;
                client.read_exact(&mut [0; 6]).await.unwrap();
            }
            client.write_all(QUERY).await.unwrap();
        };
        tokio::select! {
            biased;
            end = relay.run() => panic!("{end:?}"),
            () = answers => relay.stop_when_idle(),
        }
        let (end, ()) = tokio::join!(relay.run(), answer(&mut backend, b'I'));
        assert!(matches!(end, RelayEnd::Stopped));
        client.read_exact(&mut [0; 6]).await.unwrap();
        let was_handed_on = matches!(relay.mover, Mover::Belt(_));
        assert!(relay.end().await.1);
        let (bytes_in, bytes_out) = session.relayed();
        assert_eq!((bytes_in, bytes_out), (6 * (queries as u64 + 1), 6 * (queries as u64 + 1)));
        was_handed_on
    }

    async fn answer(backend: &mut UnixStream, status: u8) {
        let mut query = [0; 6];
        backend.read_exact(&mut query).await.unwrap();
        assert_eq!(query, QUERY);
        backend.write_all(&[b'Z', 0, 0, 0, 5, status]).await.unwrap();
    }

    #[tokio::test]
    async fn a_session_that_goes_on_is_handed_on_and_nothing_of_it_is_lost() {
        // Around the statement at which it happens, and around a stop there, too.
        let handed_on: Vec<bool> = futures_util::future::join_all((1..40).map(relays)).await;
        assert!(!handed_on[2] && handed_on[38]);
        assert!(handed_on.is_sorted());
    }
}
