//! A relay as a part of its connection's task.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::RelayEnd;
use super::exchange::{Exchange, Side};
use crate::sessions::Session;
use crate::socket::{Socket, UnwatchedSocket};
use crate::stream::Stream;

/// So often a plain session is polled before it is handed on: some ten statements.
const POLLS: u32 = 32;

/// How far a task has moved a session's bytes.
pub(super) enum Moved {
    ToItsEnd(RelayEnd),
    /// It is plain, and has gone on for a while.
    ForAWhile,
}

/// A plain session as it stands.
pub(super) struct Plain {
    pub(super) client: UnwatchedSocket,
    pub(super) backend: UnwatchedSocket,
    pub(super) session: Arc<Session>,
    pub(super) exchange: Exchange,
}

/// A session being relayed.
pub(crate) struct Relay {
    client: Stream,
    backend: Socket,
    session: Arc<Session>,
    exchange: Exchange,
    /// Polls that are left, of a plain session.
    polls_left: u32,
}

impl Relay {
    pub(super) fn new(client: Stream, backend: Socket, session: Arc<Session>) -> Self {
        Self { client, backend, session, exchange: Exchange::default(), polls_left: POLLS }
    }

    pub(super) fn stop_when_idle(&mut self) {
        self.exchange.stop_when_idle();
    }

    pub(super) async fn run(&mut self) -> Moved {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// As another can go on with it, unless it is encrypted.
    pub(super) fn into_plain(self: Box<Self>) -> Result<Plain, Box<Self>> {
        let Self { client, backend, session, exchange, .. } = *self;
        match client {
            Stream::Plain(client) => {
                let (client, backend) = (client.unwatch(), backend.unwatch());
                Ok(Plain { client, backend, session, exchange })
            }
            client => Err(Box::new(Self { client, backend, session, exchange, polls_left: POLLS })),
        }
    }

    pub(super) fn end(self) -> (Stream, bool) {
        (self.client, self.exchange.at_boundary())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Moved> {
        // Both wake the same task.
        let waker = cx.waker();
        let mut client = Polled(&mut self.client, Context::from_waker(waker));
        let mut backend = Polled(&mut self.backend, Context::from_waker(waker));
        if let Some(end) = self.exchange.step(&mut client, &mut backend, &self.session) {
            return Poll::Ready(Moved::ToItsEnd(end));
        }
        if !matches!(self.client, Stream::Plain(_)) {
            return Poll::Pending;
        }
        self.polls_left = self.polls_left.saturating_sub(1);
        if self.polls_left == 0 { Poll::Ready(Moved::ForAWhile) } else { Poll::Pending }
    }
}

/// A stream that wakes the task once it is ready.
struct Polled<'a, S>(&'a mut S, Context<'a>);

impl<S: AsyncRead + AsyncWrite + Unpin> Side for Polled<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        let read = Pin::new(&mut *self.0).poll_read(&mut self.1, &mut buffer);
        or_would_block(read).map(|()| buffer.filled().len())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.0).poll_write(&mut self.1, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_would_block(Pin::new(&mut *self.0).poll_flush(&mut self.1))
    }
}

fn or_would_block<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}
