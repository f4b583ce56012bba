//! What one session's bytes go through, whoever moves them.
//!
//! What is read is written at once; only what the other side does not take is kept, and then no
//! more is read from this side (back-pressure). The read buffer belongs to the thread and is
//! borrowed for one read and one write, so an idle session holds no buffer.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;

use super::RelayEnd;
use crate::sessions::{Session, SessionState};
use crate::wire::{Skimmer, TransactionStatus};

/// COPY and large results gain nothing from more; small messages do not care.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
/// Terminate, the last message of a client that leaves in order.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// A client or a backend. The error `WouldBlock` says that whoever moves the bytes will come again
/// once it is ready.
pub(super) trait Side {
    /// Takes what has arrived; nothing at the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends what there is room for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends what encryption holds back.
    fn flush(&mut self) -> io::Result<()>;
}

/// Both directions of a session.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    to_backend: Pending,
    to_client: Pending,
    skimmer: Skimmer,
    /// The last bytes the client sent, to recognise Terminate.
    last: [u8; 5],
    /// The client has sent something since the last ReadyForQuery.
    busy: bool,
    stopping: bool,
}

impl Exchange {
    /// From now on ends as soon as the session is idle.
    pub(super) fn stop_when_idle(&mut self) {
        self.stopping = true;
    }

    /// Whether a message of ours may follow what the client has received.
    pub(super) fn at_boundary(&self) -> bool {
        self.skimmer.at_boundary() && self.to_client.is_empty()
    }

    /// Whether the client has sent something since the backend last said that all is done.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Moves what can be moved. Returns how the relay ended, if it did.
    pub(super) fn step(
        &mut self,
        client: &mut impl Side,
        backend: &mut impl Side,
        session: &Session,
    ) -> Option<RelayEnd> {
        // First the side whose turn it is to speak: most arrivals come from there.
        for to_client in [self.busy, !self.busy] {
            let end = match to_client {
                true => self.step_to_client(client, backend, session),
                false => self.step_to_backend(client, backend, session),
            };
            if end.is_some() {
                return end;
            }
        }
        (self.stopping && !self.busy && self.at_boundary()).then_some(RelayEnd::Stopped)
    }

    fn step_to_client(
        &mut self,
        client: &mut impl Side,
        backend: &mut impl Side,
        session: &Session,
    ) -> Option<RelayEnd> {
        let (skimmer, busy) = (&mut self.skimmer, &mut self.busy);
        let end = self.to_client.pump(backend, client, |bytes| {
            skimmer.feed(bytes);
            session.bytes_out.fetch_add(count(bytes), Ordering::Relaxed);
            if let Some(status) = skimmer.ready() {
                *busy = status != TransactionStatus::Idle;
                session.set_state(status.into());
            }
        })?;
        Some(match end {
            End::Closed => RelayEnd::BackendClosed,
            End::ReadFailed => RelayEnd::BackendDied,
            End::WriteFailed => RelayEnd::ClientDied,
        })
    }

    fn step_to_backend(
        &mut self,
        client: &mut impl Side,
        backend: &mut impl Side,
        session: &Session,
    ) -> Option<RelayEnd> {
        let (last, busy) = (&mut self.last, &mut self.busy);
        let end = self.to_backend.pump(client, backend, |bytes| {
            *busy = true;
            remember_last(last, bytes);
            session.set_state(SessionState::Active);
            session.bytes_in.fetch_add(count(bytes), Ordering::Relaxed);
        })?;
        match end {
            End::Closed | End::ReadFailed if self.last == TERMINATE => Some(RelayEnd::ClientLeft),
            End::Closed | End::ReadFailed => Some(RelayEnd::ClientDied),
            // It has closed; what it said before that is still to be read.
            End::WriteFailed => self.step_to_client(client, backend, session),
        }
    }
}

/// How a direction ended.
#[derive(Debug)]
enum End {
    Closed,
    ReadFailed,
    WriteFailed,
}

/// Bytes that were read and are not written yet.
#[derive(Debug, Default)]
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
    fn pump(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        mut inspect: impl FnMut(&[u8]),
    ) -> Option<End> {
        loop {
            match self.write(to) {
                Ok(()) if self.closed => return Some(End::Closed),
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(End::WriteFailed),
            }
            let is_waiting = BUFFER.with_borrow_mut(|buffer| {
                let count = match from.read(buffer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(_) => return Err(End::ReadFailed),
                };
                let bytes = buffer.get(..count).unwrap_or_default();
                self.closed = bytes.is_empty();
                let passed = self.pass(to, bytes);
                // The other side is at work already.
                inspect(bytes);
                passed.map(|()| false)
            });
            match is_waiting {
                Ok(false) => {}
                Ok(true) => return flushed(to).err(),
                Err(end) => return Some(end),
            }
        }
    }

    /// Writes what can be written at once and keeps the rest.
    fn pass(&mut self, to: &mut impl Side, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = match to.write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return Err(End::WriteFailed),
        };
        if let Some(rest) = bytes.get(written..) {
            self.bytes.extend_from_slice(rest);
        }
        Ok(())
    }

    fn write(&mut self, to: &mut impl Side) -> io::Result<()> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match to.write(rest)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => self.written += written,
            }
        }
        if !self.bytes.is_empty() {
            // Given back: an idle session holds no buffer.
            *self = Self { closed: self.closed, ..Self::default() };
        }
        Ok(())
    }
}

/// An encrypted stream may hold what was written until it is flushed.
fn flushed(to: &mut impl Side) -> Result<(), End> {
    match to.flush() {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(End::WriteFailed),
        _ => Ok(()),
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
