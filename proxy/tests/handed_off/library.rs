//! The library in the backend, met without a front door.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use crate::raw::{Raw, message, query, startup};
use crate::support::{Postgres, within};

const SYNC: &[u8] = b"S\0\0\0\x04";

/// A session at Postgres itself, after its first ReadyForQuery.
async fn session(postgres: &Postgres) -> Raw<UnixStream> {
    let mut raw = Raw(UnixStream::connect(postgres.socket()).await.unwrap());
    raw.send(&startup(0, &[("user", "app"), ("database", "shop")])).await;
    raw.until('Z').await;
    raw
}

/// Sends bytes with a descriptor attached.
fn send_with(raw: &Raw<UnixStream>, bytes: &[u8], descriptor: impl AsFd) {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(&raw.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty());
    assert_eq!(sent.unwrap(), bytes.len());
}

/// A client's socket as its backend and as the client have it.
fn client() -> (StdUnixStream, Raw<UnixStream>) {
    let (theirs, ours) = StdUnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_nonblocking(true).unwrap();
    (theirs, Raw(UnixStream::from_std(ours).unwrap()))
}

async fn answers(raw: &mut Raw<UnixStream>) -> String {
    raw.send(&query("select 'an answer'")).await;
    raw.answer().await
}

#[tokio::test]
async fn a_client_is_taken_over() {
    let postgres = tokio::task::spawn_blocking(Postgres::shared).await.unwrap();
    let mut private = session(&postgres).await;
    let (theirs, mut client) = client();
    send_with(&private, SYNC, theirs);
    let mut rest = Vec::new();
    within(private.0.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"", "closed without a word");
    assert!(answers(&mut client).await.contains("an answer"));
    client.send(&message(b'X', b"")).await;
    assert_eq!(client.rest().await, b"", "and its end is the session's");
}

#[tokio::test]
async fn nothing_is_taken_over_while_words_of_the_backend_are_unread() {
    let postgres = tokio::task::spawn_blocking(Postgres::shared).await.unwrap();
    let mut private = session(&postgres).await;
    private.send(&query("listen unread")).await;
    private.until('Z').await;
    // Notifications reach listeners of the same database only.
    let mut other = session(&postgres).await;
    other.send(&query("notify unread, 'earlier words'")).await;
    other.until('Z').await;
    let peek = || Ok(recv(&private.0, &mut [0_u8], RecvFlags::PEEK)?.0);
    assert_eq!(within(private.0.async_io(Interest::READABLE, peek)).await.unwrap(), 1);
    let (theirs, _client) = client();
    send_with(&private, SYNC, theirs);
    // Reading earlier would be a reason to take over.
    let mut unread = [0; 128];
    let answered = || match recv(&private.0, &mut unread, RecvFlags::PEEK)?.0 {
        count if unread[..count].ends_with(b"Z\0\0\0\x05I") => Ok(()),
        _ => Err(std::io::ErrorKind::WouldBlock.into()),
    };
    within(private.0.async_io(Interest::READABLE, answered)).await.unwrap();
    let (tag, body) = private.message().await;
    assert_eq!(tag, 'A', "{}", String::from_utf8_lossy(&body));
    assert_eq!(private.message().await.0, 'Z', "the offer is declined");
    assert!(answers(&mut private).await.contains("an answer"));
}

#[tokio::test]
async fn a_descriptor_with_anything_but_an_offer_is_dropped() {
    let postgres = tokio::task::spawn_blocking(Postgres::shared).await.unwrap();
    let mut private = session(&postgres).await;
    let (theirs, mut client) = client();
    send_with(&private, &query("select 'to the old socket'"), theirs);
    assert_eq!(private.until('Z').await.len(), 4);
    assert_eq!(client.rest().await, b"", "closed");
    assert!(answers(&mut private).await.contains("an answer"));
}
