//! A new server takes the place of a running one: same listeners, same lock, same store and
//! computes; nobody is refused meanwhile.
//!
//! One connection to `run/takeover.sock` (0600) carries all of it:
//!
//! | from | bytes | meaning |
//! |---|---|---|
//! | new | [`HELLO`] | I want your place; the last word is the version of this table |
//! | old | [`HELLO`], number of TCP listeners, with descriptors | the place, see [`descriptors`] |
//! | new | `r` | I can use it: let go |
//! | old | `r` | nothing here touches source, store or catalog any more: begin |
//! | new | `r` | I am ready |
//! | new | `c`, pid (4), length of key (2), key | do you know this cancel key? |
//! | old | `0` or `1` | carried out if `1` |
//!
//! Between the first and the last `r` connections wait in the listeners' queues. The old server
//! then serves the sessions it has until they end, and exits. If the new one dies before it is
//! ready, the place is empty until the next start, which adopts store and computes as after any
//! crash.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxy::{AskedCancel, Cancels};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::ServerError;
use super::place::Place;
use crate::data_dir::{DataDir, DataDirLock};

const HELLO: &[u8] = b"ardent takeover 1\n";
const RELEASED: u8 = b'r';
const READY: u8 = b'r';
const CANCEL: u8 = b'c';
/// More listeners than anybody has; bounds the descriptors in one message.
const LISTENERS_MAX: usize = 32;
/// Lock, admin socket, uids.
const OTHERS: usize = 3;
/// Longest wait for the peer's next step. Releasing waits for clients that are on their way in and
/// for operations that are under way.
const STEP_WITHIN: Duration = Duration::from_secs(10);
const RELEASED_WITHIN: Duration = Duration::from_secs(180);
/// Cancels that wait for a predecessor's answer.
const CANCELS_WAITING_MAX: usize = 64;
/// A key is at most this long (protocol 3.2).
const KEY_BYTES_MAX: usize = 256;

/// The server that had the place before, as its successor sees it.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// Asks the server of a data directory for its place. It goes on serving until it is told to
    /// let go.
    pub(super) async fn ask(data_dir: &Path) -> Result<(Place, Self), ServerError> {
        let socket = DataDir::of_server(data_dir.to_owned()).takeover_socket();
        let reach = async {
            let mut stream = UnixStream::connect(&socket).await?;
            stream.write_all(HELLO).await?;
            let received = receive(&stream).await?;
            Ok::<_, io::Error>((stream, received))
        };
        let (stream, (listeners, mut descriptors)) = within(STEP_WITHIN, reach).await?;
        let mut next = || descriptors.pop_front().ok_or_else(|| refused("descriptors are missing"));
        let lock = DataDirLock::handed_over(next()?);
        let admin = next()?.into();
        let tcp = (0..listeners).map(|_| next().map(Into::into)).collect::<Result<_, _>>()?;
        let uids = next().ok();
        let data_dir = DataDir::prepare_locked(data_dir, &lock)?;
        Ok((Place { data_dir, lock, uids, tcp, admin }, Self(stream)))
    }

    /// Tells the old server to let go, and waits until it has.
    pub(super) async fn released(&mut self) -> Result<(), ServerError> {
        let Self(stream) = self;
        let wait = async {
            stream.write_all(&[READY]).await?;
            stream.read_u8().await
        };
        match within(RELEASED_WITHIN, wait).await? {
            RELEASED => Ok(()),
            _ => Err(refused("the running server speaks another protocol")),
        }
    }

    /// Says that connections are served here now, and asks about cancel keys from then on.
    pub(super) async fn succeeded(self, cancels: &Cancels) -> io::Result<()> {
        let Self(mut stream) = self;
        stream.write_all(&[READY]).await?;
        let (sender, asked) = mpsc::channel(CANCELS_WAITING_MAX);
        cancels.add_predecessor(sender);
        tokio::spawn(ask_cancels(stream, asked));
        Ok(())
    }
}

/// Ends with the predecessor: the channel closes then.
async fn ask_cancels(mut stream: UnixStream, mut asked: mpsc::Receiver<AskedCancel>) {
    let mut unasked = [0];
    loop {
        let cancel = tokio::select! {
            cancel = asked.recv() => cancel,
            // It says nothing unasked: this is its end.
            _ = stream.read(&mut unasked) => return,
        };
        let Some(AskedCancel { pid, key, answer }) = cancel else { return };
        match ask_cancel(&mut stream, pid, &key).await {
            // Whoever asked may have left.
            Ok(is_known) => drop(answer.send(is_known)),
            Err(_gone) => return,
        }
    }
}

async fn ask_cancel(stream: &mut UnixStream, pid: i32, key: &[u8]) -> io::Result<bool> {
    let length = u16::try_from(key.len()).map_err(io::Error::other)?;
    let frame = [&[CANCEL][..], &pid.to_be_bytes(), &length.to_be_bytes(), key].concat();
    stream.write_all(&frame).await?;
    Ok(stream.read_u8().await? == b'1')
}

/// Where a running server hears of its successor.
pub(super) struct Gate(UnixListener);

/// A successor that has said hello.
pub(super) struct Successor(UnixStream);

impl Gate {
    pub(super) fn open(data_dir: &DataDir) -> io::Result<Self> {
        let path = data_dir.takeover_socket();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        Ok(Self(listener))
    }

    /// Waits for a server that wants our place, and hands it over. Returns once that server has
    /// all it needs and asks us to let go.
    pub(super) async fn successor(&self, place: &Place) -> Successor {
        loop {
            let greeted = async {
                let (stream, _) = self.0.accept().await?;
                let hand_over = hand_over(stream, place);
                tokio::time::timeout(STEP_WITHIN, hand_over).await.map_err(io::Error::other)?
            };
            match greeted.await {
                Ok(stream) => return Successor(stream),
                Err(error) => tracing::warn!(%error, "a takeover came to nothing"),
            }
        }
    }
}

async fn hand_over(mut stream: UnixStream, place: &Place) -> io::Result<UnixStream> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello).await?;
    if hello != *HELLO {
        stream.write_all(HELLO).await?;
        return Err(io::Error::other("it is of another version"));
    }
    send(&stream, place).await?;
    match stream.read_u8().await? {
        READY => Ok(stream),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Successor {
    /// Nothing here touches what is shared any more. Returns whether the successor came up.
    pub(super) async fn release(&mut self) -> bool {
        let Self(stream) = self;
        let released = async {
            stream.write_all(&[RELEASED]).await?;
            stream.read_u8().await
        };
        matches!(released.await, Ok(READY))
    }

    /// Carries out cancels of sessions that are still here, until the successor is gone.
    pub(super) async fn serve_cancels(self, cancels: Arc<Cancels>) {
        let Self(mut stream) = self;
        while let Ok((pid, key)) = read_cancel(&mut stream).await {
            let answer = if cancels.request(pid, key).await { b'1' } else { b'0' };
            if stream.write_all(&[answer]).await.is_err() {
                return;
            }
        }
    }
}

async fn read_cancel(stream: &mut UnixStream) -> io::Result<(i32, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let pid = stream.read_i32().await?;
    let length = usize::from(stream.read_u16().await?);
    if tag != CANCEL || length > KEY_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut key = vec![0; length];
    stream.read_exact(&mut key).await?;
    Ok((pid, key))
}

/// Lock, admin socket, TCP listeners, and the claim on uids if there is one.
fn descriptors(place: &Place) -> Vec<BorrowedFd<'_>> {
    let mut descriptors = vec![place.lock.descriptor(), place.admin.as_fd()];
    descriptors.extend(place.tcp.iter().map(AsFd::as_fd));
    descriptors.extend(place.uids.as_ref().map(AsFd::as_fd));
    descriptors
}

async fn send(stream: &UnixStream, place: &Place) -> io::Result<()> {
    let count = u8::try_from(place.tcp.len()).map_err(io::Error::other)?;
    let message = [HELLO, &[count]].concat();
    let descriptors = descriptors(place);
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("too many listeners to hand over"));
            }
            let parts = [IoSlice::new(&message)];
            Ok(sendmsg(stream, &parts, &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // So short a message is taken whole.
            outcome => return outcome.map(drop),
        }
    }
}

type Received = (usize, std::collections::VecDeque<OwnedFd>);

async fn receive(stream: &UnixStream) -> io::Result<Received> {
    let mut message = [0; HELLO.len() + 1];
    loop {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut message)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let length = recvmsg(stream, &mut parts, &mut ancillary, flags)?.bytes;
            let mut descriptors = std::collections::VecDeque::new();
            for part in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    descriptors.extend(rights);
                }
            }
            Ok((length, descriptors))
        });
        let (length, descriptors) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            outcome => outcome?,
        };
        return match message.split_last() {
            Some((count, hello)) if length == message.len() && hello == HELLO => {
                Ok((usize::from(*count).min(LISTENERS_MAX - OTHERS), descriptors))
            }
            _ => Err(io::Error::other("the running server is of another version")),
        };
    }
}

async fn within<T>(
    limit: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, ServerError> {
    match tokio::time::timeout(limit, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(refused(&match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "no server runs on this data directory: start without --takeover".to_owned()
            }
            _ => error.to_string(),
        })),
        Err(_elapsed) => Err(refused("the running server does not answer")),
    }
}

fn refused(reason: &str) -> ServerError {
    ServerError::Takeover(reason.to_owned())
}
