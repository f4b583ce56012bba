//! Offers a client's own socket to the backend that serves it. A backend that takes it talks to the
//! client directly from then on: at the speed of a direct connection, and beyond this server's end.
//!
//! | step | by | on the private socket |
//! |---|---|---|
//! | offer | us, once the client has its ReadyForQuery | Sync, with the descriptor attached |
//! | taken | a backend with [`LIBRARY`] | closed, with nothing unread |
//! | declined | any other, and one whose earlier words we have not read | ReadyForQuery |
//!
//! Must never: read from the private socket between offer and outcome. What the backend says of its
//! own accord (a setting that changed) would then have two writers to one client; as long as it is
//! unread, the library declines.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use crate::backend::{BackendError, whole_message};
use crate::process::BackendProcess;
use crate::socket::Socket;

/// A shared library for `LD_PRELOAD` of a postmaster; its source is `proxy/handoff/handoff.c`.
pub const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/handoff.so"));

/// Harmless to a backend without the library, and answered by it.
const SYNC: [u8; 5] = [b'S', 0, 0, 0, 4];

/// More than an idle backend says of its own accord in the moment that an offer takes.
const UNREAD_BYTES_MAX: usize = 4096;

/// What became of an offer.
#[derive(Debug)]
pub(crate) enum Offer {
    /// The backend has the client: our copy of the socket is to be closed without a word.
    Taken(BackendProcess),
    /// The session is ours to relay; the client has not had these bytes of its backend yet.
    Declined(Vec<u8>),
}

/// Offers `client` to its backend, which is idle. Nobody may have read from the client ahead.
pub(crate) async fn offer(
    client: &Socket,
    backend: &mut UnixStream,
    pid: i32,
) -> Result<Offer, BackendError> {
    // Opened while the backend certainly lives, so that it is this process and no later one.
    let process = BackendProcess::open(pid)?;
    send(backend, client).await?;
    if is_taken(backend).await? {
        return Ok(Offer::Taken(process));
    }
    answer(backend).await.map(Offer::Declined)
}

/// Waits for the outcome without reading anything.
async fn is_taken(backend: &UnixStream) -> io::Result<bool> {
    let mut unread = vec![0; UNREAD_BYTES_MAX];
    let outcome = || {
        let count = recv(backend, unread.as_mut_slice(), RecvFlags::PEEK)?.0;
        let unread = unread.get(..count).unwrap_or_default();
        let is_full = count == UNREAD_BYTES_MAX;
        if unread.is_empty() || is_full || holds_answer(unread) || has_closed(backend)? {
            return Ok(unread.is_empty());
        }
        // Words of its own; what comes after them wakes us again.
        Err(io::ErrorKind::WouldBlock.into())
    };
    backend.async_io(Interest::READABLE, outcome).await
}

/// Whether ReadyForQuery is among these messages.
fn holds_answer(mut bytes: &[u8]) -> bool {
    while let Ok(Some(message)) = whole_message(bytes) {
        if message.starts_with(b"Z") {
            return true;
        }
        bytes = bytes.get(message.len()..).unwrap_or_default();
    }
    false
}

/// Whether the backend has ended, having said why.
fn has_closed(backend: &UnixStream) -> io::Result<bool> {
    let mut polled = [PollFd::new(backend, PollFlags::RDHUP)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(polled.iter().any(|polled| !polled.revents().is_empty()))
}

async fn send(backend: &UnixStream, client: &Socket) -> io::Result<()> {
    let send = || {
        let descriptors = [client.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        Ok(sendmsg(backend, &[IoSlice::new(&SYNC)], &mut ancillary, SendFlags::NOSIGNAL)?)
    };
    // So short a message is taken whole.
    backend.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// Reads up to the answer to our Sync. Returns what else was said: before it, and perhaps after.
async fn answer(backend: &mut UnixStream) -> Result<Vec<u8>, BackendError> {
    let (mut said, mut unread) = (Vec::new(), Vec::new());
    while backend.read_buf(&mut unread).await? > 0 {
        while let Some(message) = whole_message(&unread)? {
            let (is_answer, length) = (message.starts_with(b"Z"), message.len());
            let rest = unread.split_off(length);
            if is_answer {
                said.extend_from_slice(&rest);
                return Ok(said);
            }
            said.append(&mut std::mem::replace(&mut unread, rest));
        }
    }
    // It has ended, and said why.
    said.append(&mut unread);
    Ok(said)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn an_outcome_is_waited_for_behind_words_that_stay_unread() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"S\0\0\0\x08a\0b\0").await.unwrap();
        {
            let mut outcome = std::pin::pin!(is_taken(&ours));
            assert!(futures_util::poll!(outcome.as_mut()).is_pending());
            theirs.write_all(b"Z\0\0\0\x05I").await.unwrap();
            assert!(!outcome.await.unwrap());
        }
        assert_eq!(answer(&mut ours).await.unwrap(), b"S\0\0\0\x08a\0b\0");
        theirs.write_all(b"E\0\0\0\x05\0").await.unwrap();
        drop(theirs);
        assert!(!is_taken(&ours).await.unwrap(), "it has ended");
        assert_eq!(answer(&mut ours).await.unwrap(), b"E\0\0\0\x05\0");
        assert!(is_taken(&ours).await.unwrap());
    }

    #[tokio::test]
    async fn only_the_answer_is_kept_from_the_client() {
        for (sent, passed) in [
            (b"Z\0\0\0\x05I".as_slice(), b"".as_slice()),
            (b"S\0\0\0\x08a\0b\0Z\0\0\0\x05IN\0\0\0\x05\0", b"S\0\0\0\x08a\0b\0N\0\0\0\x05\0"),
            (b"E\0\0\0\x05\0", b"E\0\0\0\x05\0"),
        ] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(sent).await.unwrap();
            drop(theirs);
            assert_eq!(answer(&mut ours).await.unwrap(), passed);
        }
    }
}
