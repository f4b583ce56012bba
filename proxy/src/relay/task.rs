//! A relay as a part of its connection's task: of an encrypted client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::RelayEnd;
use super::exchange::{Exchange, Side};
use crate::sessions::Session;
use crate::socket::Socket;
use crate::stream::Stream;

/// A session being relayed.
pub(crate) struct Relay {
    client: Stream,
    backend: Socket,
    session: Arc<Session>,
    exchange: Exchange,
}

impl Relay {
    pub(super) fn new(client: Stream, backend: Socket, session: Arc<Session>) -> Self {
        Self { client, backend, session, exchange: Exchange::default() }
    }

    pub(super) fn stop_when_idle(&mut self) {
        self.exchange.stop_when_idle();
    }

    pub(super) async fn run(&mut self) -> RelayEnd {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn end(self) -> (Stream, bool) {
        (self.client, self.exchange.at_boundary())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        // Both wake the same task.
        let waker = cx.waker();
        let mut client = Polled(&mut self.client, Context::from_waker(waker));
        let mut backend = Polled(&mut self.backend, Context::from_waker(waker));
        match self.exchange.step(&mut client, &mut backend, &self.session) {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
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
