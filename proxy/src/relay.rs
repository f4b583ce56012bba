//! Bytes both ways between a client and its backend, unchanged.
//!
//! One task per session drives both directions. What is read is written at once; only what the
//! other side does not take is kept, and then no more is read from this side (back-pressure).
//! The read buffer belongs to the thread and is borrowed for one read and one write, so an idle
//! session holds no buffer.
//!
//! When one side ends the relay ends: a session whose client is gone must not keep a backend.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::sessions::{Session, SessionState};
use crate::socket::Socket;
use crate::wire::{Skimmer, TransactionStatus};

/// COPY and large results gain nothing from more; small messages do not care.
const BUFFER_BYTES: usize = 64 * 1024;
/// Terminate, the last message of a client that leaves in order.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

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

/// A session being relayed.
pub(crate) struct Relay<'a, S> {
    client: &'a mut S,
    backend: &'a mut Socket,
    session: &'a Session,
    to_backend: Pending,
    to_client: Pending,
    skimmer: Skimmer,
    /// The last bytes the client sent, to recognise Terminate.
    last: [u8; 5],
    /// The client has sent something since the last ReadyForQuery.
    busy: bool,
    stopping: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Relay<'a, S> {
    /// Takes over after ReadyForQuery.
    pub(crate) fn new(client: &'a mut S, backend: &'a mut Socket, session: &'a Session) -> Self {
        Self {
            client,
            backend,
            session,
            to_backend: Pending::default(),
            to_client: Pending::default(),
            skimmer: Skimmer::default(),
            last: [0; 5],
            busy: false,
            stopping: false,
        }
    }

    /// From now on ends as soon as the session is idle.
    pub(crate) fn stop_when_idle(&mut self) {
        self.stopping = true;
    }

    /// Whether a message of ours may follow what the client has received.
    pub(crate) fn at_boundary(&self) -> bool {
        self.skimmer.at_boundary() && self.to_client.is_empty()
    }

    /// Relays until one side ends.
    pub(crate) async fn run(&mut self) -> RelayEnd {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        // First the side whose turn it is to speak: most wake-ups come from there.
        for to_client in [self.busy, !self.busy] {
            let end = match to_client {
                true => self.poll_to_client(cx),
                false => self.poll_to_backend(cx),
            };
            if end.is_ready() {
                return end;
            }
        }
        if self.stopping && !self.busy && self.at_boundary() {
            return Poll::Ready(RelayEnd::Stopped);
        }
        Poll::Pending
    }

    fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let (client, backend) = (Pin::new(&mut *self.client), Pin::new(&mut *self.backend));
        let (session, skimmer, busy) = (self.session, &mut self.skimmer, &mut self.busy);
        let end = ready!(self.to_client.pump(cx, backend, client, |bytes| {
            skimmer.feed(bytes);
            session.bytes_out.fetch_add(count(bytes), Ordering::Relaxed);
            if let Some(status) = skimmer.ready() {
                *busy = status != TransactionStatus::Idle;
                session.set_state(status.into());
            }
        }));
        Poll::Ready(match end {
            End::Closed => RelayEnd::BackendClosed,
            End::ReadFailed => RelayEnd::BackendDied,
            End::WriteFailed => RelayEnd::ClientDied,
        })
    }

    fn poll_to_backend(&mut self, cx: &mut Context<'_>) -> Poll<RelayEnd> {
        let (client, backend) = (Pin::new(&mut *self.client), Pin::new(&mut *self.backend));
        let (session, last, busy) = (self.session, &mut self.last, &mut self.busy);
        let end = ready!(self.to_backend.pump(cx, client, backend, |bytes| {
            *busy = true;
            remember_last(last, bytes);
            session.set_state(SessionState::Active);
            session.bytes_in.fetch_add(count(bytes), Ordering::Relaxed);
        }));
        Poll::Ready(match end {
            End::Closed | End::ReadFailed if self.last == TERMINATE => RelayEnd::ClientLeft,
            End::Closed | End::ReadFailed => RelayEnd::ClientDied,
            // It has closed; what it said before that is still to be read.
            End::WriteFailed => ready!(self.poll_to_client(cx)),
        })
    }
}

/// How a direction ended.
enum End {
    Closed,
    ReadFailed,
    WriteFailed,
}

/// Bytes that were read and are not written yet.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
    closed: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Moves bytes until one side is not ready, or the direction ends.
    fn pump<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        mut inspect: impl FnMut(&[u8]),
    ) -> Poll<End> {
        loop {
            if ready!(self.write(cx, to.as_mut())).is_err() {
                return Poll::Ready(End::WriteFailed);
            }
            if self.closed {
                return Poll::Ready(End::Closed);
            }
            let step = BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                match from.as_mut().poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Some(End::ReadFailed)),
                    Poll::Ready(Ok(())) => {}
                }
                let bytes = buffer.filled();
                self.closed = bytes.is_empty();
                let end = self.pass(cx, to.as_mut(), bytes);
                // The other side is at work already.
                inspect(bytes);
                Poll::Ready(end)
            });
            match step {
                Poll::Ready(None) => {}
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    // An encrypted stream may hold what was written until it is flushed.
                    return match to.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(End::WriteFailed),
                        _ => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Writes what can be written at once and keeps the rest.
    fn pass<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        to: Pin<&mut W>,
        bytes: &[u8],
    ) -> Option<End> {
        if bytes.is_empty() {
            return None;
        }
        let written = match to.poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(_)) => return Some(End::WriteFailed),
            Poll::Pending => 0,
        };
        self.bytes.extend_from_slice(bytes.get(written..).unwrap_or_default());
        None
    }

    fn write<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut W>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(to.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        if !self.bytes.is_empty() {
            // Given back: an idle session holds no buffer.
            *self = Self { closed: self.closed, ..Self::default() };
        }
        Poll::Ready(Ok(()))
    }
}

fn remember_last(last: &mut [u8; 5], bytes: &[u8]) {
    if let Some(tail) = bytes.last_chunk() {
        *last = *tail;
    } else if !bytes.is_empty() {
        last.rotate_left(bytes.len());
        let kept = last.len() - bytes.len();
        last.iter_mut().skip(kept).zip(bytes).for_each(|(slot, byte)| *slot = *byte);
    }
}

fn count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminate_is_recognised_however_it_is_cut() {
        let stream = [b"Q\0\0\0\x06;\0".as_slice(), &TERMINATE].concat();
        for cut in 0..=stream.len() {
            let mut last = [0; 5];
            remember_last(&mut last, &stream[..cut]);
            remember_last(&mut last, &stream[cut..]);
            assert_eq!(last, TERMINATE, "{cut}");
        }
    }
}
