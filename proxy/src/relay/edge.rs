//! A plain socket on a belt, and what is known of it: the kernel tells of each change once
//! (edge-triggered), so what it told is kept until a call finds otherwise.
//!
//! | Known | From | Until |
//! |---|---|---|
//! | readable | input, the peer's end, an error | a read that found less than asked for |
//! | ended | the peer's end, an error | never: what is left is read to its end |
//! | full | a write that took less than all | room |
//!
//! Room is listened for only while the socket is full: a unix socket announces it each time that
//! its peer reads.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::EventFlags;

use super::exchange::Side;
use crate::socket::UnwatchedSocket;

/// Reads of one turn: then others have theirs.
pub(super) const READS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Edge {
    socket: UnwatchedSocket,
    readable: bool,
    ended: bool,
    full: bool,
    /// What the kernel was last asked to tell of.
    wanted: EventFlags,
    reads_left: usize,
}

impl Edge {
    /// To be listened to with [`Edge::wanted`].
    pub(super) fn new(socket: UnwatchedSocket) -> Self {
        let wanted = Self::events(false);
        Self { socket, readable: true, ended: false, full: false, wanted, reads_left: 0 }
    }

    pub(super) fn wanted(&self) -> EventFlags {
        self.wanted
    }

    pub(super) fn into_socket(self) -> UnwatchedSocket {
        self.socket
    }

    /// The kernel told of this.
    pub(super) fn note(&mut self, told: EventFlags) {
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        self.ended |= told.intersects(end);
        self.readable |= self.ended || told.contains(EventFlags::IN);
        self.full &= !told.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR);
    }

    pub(super) fn begin_turn(&mut self) {
        self.reads_left = READS_MAX;
    }

    /// Whether its turn was over before it had given all it had.
    pub(super) fn was_cut_short(&self) -> bool {
        self.reads_left == 0
    }

    /// What the kernel is to tell of from now on, if that is not what it was asked for.
    pub(super) fn wants_other(&mut self) -> Option<EventFlags> {
        let wanted = Self::events(self.full);
        (std::mem::replace(&mut self.wanted, wanted) != wanted).then_some(wanted)
    }

    fn events(full: bool) -> EventFlags {
        let always = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if full { always | EventFlags::OUT } else { always }
    }
}

impl AsFd for Edge {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Side for Edge {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.reads_left == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let read = match self.socket.ask(buffer) {
            None if !self.readable => return Err(ErrorKind::WouldBlock.into()),
            None => self.socket.read(buffer),
            Some(read) => read,
        };
        self.reads_left -= 1;
        self.readable = match &read {
            Ok(count) => self.ended || *count == buffer.len(),
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        read
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = self.socket.write(bytes);
        self.full = match &written {
            Ok(count) => *count < bytes.len(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_turn_is_so_many_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut edge = Edge::new(UnwatchedSocket::unix(ours).unwrap());
        theirs.write_all(&[7; READS_MAX + 1]).await.unwrap();
        let reads = |edge: &mut Edge| {
            edge.begin_turn();
            (0..=READS_MAX).take_while(|_| edge.read(&mut [0]).is_ok()).count()
        };
        assert_eq!((reads(&mut edge), edge.was_cut_short()), (READS_MAX, true));
        assert_eq!((reads(&mut edge), edge.was_cut_short()), (1, false));
    }
}
