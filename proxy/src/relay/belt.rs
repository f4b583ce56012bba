//! The thread that moves the bytes of plain sessions, with an epoll of its own.
//!
//! A runtime's task would do as well, but takes three times as long for what is to be done between
//! a read and a write. A session is two sockets and an [`Exchange`]; it shares counters at most, so
//! there is nothing to lock. What others want of it comes as a command, rung in by an event.
//!
//! Invariants:
//! * A load's sockets are listened to from the moment that it is taken up until it is put down.
//! * The number of a session is never given to another, so an event or a command for a session that
//!   has ended finds nothing.
//! * A session that always has more to move takes turns with the others.
//! * What is counted as at work is the sessions on the belt that are.
//!
//! Must never: wait for anything but its epoll. While the next event comes soon it waits awake
//! ([`patience`](super::patience)).

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use tokio::sync::oneshot;

use super::RelayEnd;
use super::edge::Edge;
use super::exchange::Exchange;
use super::patience::Patience;
use super::task::Plain;
use crate::sessions::Session;
use crate::socket::UnwatchedSocket;
use crate::stream::Stream;

/// What one wait returns at most.
const EVENTS_MAX: usize = 1024;
/// The event of a command; sessions count from 1.
const BELL: u64 = 0;
#[expect(clippy::host_endian_bytes, reason = "the kernel adds it to a number of its own")]
const RING: [u8; 8] = 1_u64.to_ne_bytes();

/// A belt's end at those who use it. Dropped, the belt ends.
#[derive(Debug)]
pub(crate) struct Belt(Handle);

#[derive(Clone, Debug)]
struct Handle {
    commands: Sender<Command>,
    bell: Arc<OwnedFd>,
}

/// A session on the belt. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Load {
    number: u64,
    belt: Handle,
    /// `None` once it has come.
    put_down: Option<oneshot::Receiver<PutDown>>,
    left: Option<PutDown>,
}

/// What is left of a session.
#[derive(Debug)]
struct PutDown {
    /// `None` if it was told to leave.
    end: Option<RelayEnd>,
    client: UnwatchedSocket,
    at_boundary: bool,
}

#[derive(Debug)]
enum Command {
    TakeUp(Box<Carried>),
    StopWhenIdle(u64),
    Leave(u64),
    End,
}

/// A session as the belt has it.
#[derive(Debug)]
struct Carried {
    client: Edge,
    backend: Edge,
    exchange: Exchange,
    session: Arc<Session>,
    /// It is among those whose turn was cut short.
    waits_for_turn: bool,
    put_down: oneshot::Sender<PutDown>,
}

impl Belt {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, received) = channel();
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        let handle = Handle { commands, bell: Arc::clone(&bell) };
        let running = Running::new(epoll, bell, received);
        let run = move || match running.run() {
            Ok(()) => {}
            Err(error) => tracing::error!(%error, "wait for sessions"),
        };
        std::thread::Builder::new().name("belt".to_owned()).spawn(run)?;
        Ok(Self(handle))
    }

    /// Takes up a session.
    pub(super) fn carry(&self, plain: Plain) -> Load {
        let (number, (sender, put_down)) = (plain.session.id, oneshot::channel());
        self.0.send(Command::TakeUp(Box::new(Carried::new(plain, sender))));
        Load { number, belt: self.0.clone(), put_down: Some(put_down), left: None }
    }
}

impl Drop for Belt {
    fn drop(&mut self) {
        self.0.send(Command::End);
    }
}

impl Handle {
    fn send(&self, command: Command) {
        // A belt that has ended has put down all it had.
        if self.commands.send(command).is_ok()
            && let Err(error) = rustix::io::write(&*self.bell, &RING)
        {
            tracing::error!(%error, "ring for a session");
        }
    }
}

impl Load {
    /// Waits until one side ends.
    pub(super) async fn ended(&mut self) -> RelayEnd {
        self.put_down().await;
        let end = self.left.as_mut().and_then(|left| left.end.take());
        end.unwrap_or(RelayEnd::BackendDied)
    }

    pub(super) fn stop_when_idle(&self) {
        self.belt.send(Command::StopWhenIdle(self.number));
    }

    /// Takes it from the belt, wherever it stands.
    pub(super) async fn end(mut self) -> (Stream, bool) {
        self.leave();
        self.put_down().await;
        let Some(PutDown { client, at_boundary, .. }) = self.left.take() else {
            return (Stream::Closed, false);
        };
        (client.watch().map_or(Stream::Closed, Stream::Plain), at_boundary)
    }

    fn leave(&self) {
        if self.put_down.is_some() {
            self.belt.send(Command::Leave(self.number));
        }
    }

    async fn put_down(&mut self) {
        if let Some(put_down) = &mut self.put_down {
            self.left = put_down.await.ok();
            self.put_down = None;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The address of a session's backend in the kernel's answers.
fn backend_of(number: u64) -> u64 {
    number << 1
}

/// The address of a session's client.
fn client_of(number: u64) -> u64 {
    number << 1 | 1
}

/// The thread's own.
struct Running {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
    commands: Receiver<Command>,
    loads: HashMap<u64, Carried>,
    /// Sessions whose turn was over before they had moved all they could.
    cut_short: Vec<u64>,
    patience: Patience,
    /// Sessions that have sent something and not been told that all is done.
    at_work: usize,
}

impl Running {
    fn new(epoll: OwnedFd, bell: Arc<OwnedFd>, commands: Receiver<Command>) -> Self {
        let (loads, cut_short, patience) = (HashMap::new(), Vec::new(), Patience::default());
        Self { epoll, bell, commands, loads, cut_short, patience, at_work: 0 }
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            self.wait(&mut events)?;
            for number in std::mem::take(&mut self.cut_short) {
                if let Some(load) = self.loads.get_mut(&number) {
                    load.waits_for_turn = false;
                }
                self.turn(number);
            }
            let mut rung = false;
            for Event { data, flags } in events.drain(..) {
                match data.u64() {
                    BELL => rung = true,
                    address => self.arrived(address, flags),
                }
            }
            if rung && !self.obey() {
                return Ok(());
            }
        }
    }

    /// Waits for events, unless there is more to do already.
    fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if !self.cut_short.is_empty() {
            return self.look(events, Some(Timespec::default()));
        }
        let (since, awake) = (Instant::now(), self.patience.awake(self.at_work));
        while events.is_empty() && since.elapsed() < awake {
            // Whoever else is to run on this processor goes first.
            std::thread::yield_now();
            self.look(events, Some(Timespec::default()))?;
        }
        while events.is_empty() {
            self.look(events, None)?;
        }
        self.patience.note(awake, since.elapsed());
        Ok(())
    }

    fn look(&self, events: &mut Vec<Event>, at_most: Option<Timespec>) -> io::Result<()> {
        match epoll::wait(&self.epoll, spare_capacity(events), at_most.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Something happened at one side of a session.
    fn arrived(&mut self, address: u64, told: EventFlags) {
        let (number, is_client) = (address >> 1, address & 1 == 1);
        let Some(load) = self.loads.get_mut(&number) else { return };
        let edge = if is_client { &mut load.client } else { &mut load.backend };
        edge.note(told);
        self.turn(number);
    }

    fn turn(&mut self, number: u64) {
        let Some(load) = self.loads.get_mut(&number) else { return };
        let was_busy = load.exchange.is_busy();
        let end = load.turn();
        self.at_work += usize::from(load.exchange.is_busy());
        self.at_work -= usize::from(was_busy);
        if let Some(end) = end {
            return self.put_down(number, Some(end));
        }
        let was_cut_short = load.client.was_cut_short() || load.backend.was_cut_short();
        if was_cut_short && !std::mem::replace(&mut load.waits_for_turn, true) {
            self.cut_short.push(number);
        }
        if let Err(error) = load.listen_for_room(&self.epoll) {
            tracing::error!(%error, "listen for room");
            self.put_down(number, None);
        }
    }

    /// Carries out what was asked. Says whether to go on.
    fn obey(&mut self) -> bool {
        // Nothing to read is as good: what rang is among the commands.
        let _: rustix::io::Result<usize> = rustix::io::read(&*self.bell, &mut [0; 8]);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::TakeUp(load) => self.take_up(*load),
                Command::StopWhenIdle(number) => {
                    if let Some(load) = self.loads.get_mut(&number) {
                        load.exchange.stop_when_idle();
                        self.turn(number);
                    }
                }
                Command::Leave(number) => self.put_down(number, None),
                Command::End => return false,
            }
        }
        true
    }

    fn take_up(&mut self, load: Carried) {
        let number = load.session.id;
        let sides = [(backend_of(number), &load.backend), (client_of(number), &load.client)];
        let listening = sides.into_iter().try_for_each(|(address, edge)| {
            epoll::add(&self.epoll, edge, EventData::new_u64(address), edge.wanted())
        });
        self.at_work += usize::from(load.exchange.is_busy());
        self.loads.insert(number, load);
        match listening {
            Ok(()) => self.turn(number),
            Err(error) => {
                tracing::error!(%error, "listen to a session");
                self.put_down(number, None);
            }
        }
    }

    fn put_down(&mut self, number: u64, end: Option<RelayEnd>) {
        let Some(load) = self.loads.remove(&number) else { return };
        let Carried { client, backend, exchange, put_down, .. } = load;
        for edge in [&client, &backend] {
            // A duplicate of the descriptor would go on telling of it. Was it never listened to?
            let _: rustix::io::Result<()> = epoll::delete(&self.epoll, edge);
        }
        drop(backend);
        self.at_work -= usize::from(exchange.is_busy());
        let (client, at_boundary) = (client.into_socket(), exchange.at_boundary());
        // Whoever waited for it may be gone.
        let _: Result<(), PutDown> = put_down.send(PutDown { end, client, at_boundary });
    }
}

impl Carried {
    fn new(plain: Plain, put_down: oneshot::Sender<PutDown>) -> Self {
        let Plain { client, backend, session, exchange } = plain;
        let (client, backend) = (Edge::new(client), Edge::new(backend));
        Self { client, backend, exchange, session, waits_for_turn: false, put_down }
    }

    /// Moves what it can. A fault of ours ends this session and no other.
    fn turn(&mut self) -> Option<RelayEnd> {
        let Self { client, backend, exchange, session, .. } = self;
        client.begin_turn();
        backend.begin_turn();
        let step = AssertUnwindSafe(|| exchange.step(client, backend, session));
        catch_unwind(step).unwrap_or(Some(RelayEnd::BackendDied))
    }

    fn listen_for_room(&mut self, epoll: &OwnedFd) -> rustix::io::Result<()> {
        let number = self.session.id;
        for (address, edge) in
            [(backend_of(number), &mut self.backend), (client_of(number), &mut self.client)]
        {
            if let Some(wanted) = edge.wants_other() {
                epoll::modify(epoll, &*edge, EventData::new_u64(address), wanted)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::limits::Limits;
    use crate::relay::edge::READS_MAX;
    use crate::relay::exchange::BUFFER_BYTES;
    use crate::sessions::{Identity, Peer, SessionGuard, Sessions};

    /// A session on a belt, its client and its backend.
    struct Carried {
        load: Load,
        client: UnixStream,
        backend: UnixStream,
        _session: SessionGuard,
    }

    fn admitted() -> SessionGuard {
        let peer = Peer::Unix { uid: 0, pid: 0 };
        let identity = Identity { endpoint: None, role: "app".into(), peer };
        Sessions::new().admit(identity, &Limits::default()).unwrap()
    }

    fn plain(client: UnwatchedSocket, backend: UnwatchedSocket, session: &SessionGuard) -> Plain {
        Plain { client, backend, session: session.record(), exchange: Exchange::default() }
    }

    /// Our end and theirs, with room for more than a turn moves.
    fn roomy_pair() -> (UnwatchedSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size_force(end, 8 * BUFFER_BYTES * READS_MAX).unwrap();
        }
        (UnwatchedSocket::unix(ours).unwrap(), theirs)
    }

    fn pair() -> (UnwatchedSocket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (UnwatchedSocket::unix(ours).unwrap(), theirs)
    }

    fn one_carried() -> (Belt, Carried) {
        let (belt, session) = (Belt::start().unwrap(), admitted());
        let ((ours, client), (backends, backend)) = (pair(), pair());
        let load = belt.carry(plain(ours, backends, &session));
        (belt, Carried { load, client, backend, _session: session })
    }

    /// A message from one end to the other.
    async fn passes(from: &mut UnixStream, to: &mut UnixStream, message: &[u8]) {
        from.write_all(message).await.unwrap();
        let mut arrived = vec![0; message.len()];
        to.read_exact(&mut arrived).await.unwrap();
        assert!(arrived == message);
    }

    #[tokio::test]
    async fn more_than_any_buffer_passes_both_ways_at_once() {
        let (_belt, mut carried) = one_carried();
        let bytes: Vec<u8> = (0..16_u32 << 20).map(|place| (place % 251) as u8).collect();
        let (mut from_client, mut to_client) = carried.client.split();
        let (mut from_backend, mut to_backend) = carried.backend.split();
        let (mut at_client, mut at_backend) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        let all = tokio::try_join!(
            to_client.write_all(&bytes),
            to_backend.write_all(&bytes),
            from_client.read_exact(&mut at_client),
            from_backend.read_exact(&mut at_backend),
        );
        all.unwrap();
        assert!(at_client == bytes && at_backend == bytes);
    }

    /// All of it is there before its first turn, and there is room for all of it: what happened at
    /// its sockets is worth two turns, and no more happens.
    #[tokio::test]
    async fn a_session_whose_turn_is_over_gets_another() {
        let (belt, session) = (Belt::start().unwrap(), admitted());
        let ((ours, mut client), (backends, mut backend)) = (roomy_pair(), roomy_pair());
        let bytes = vec![7; 4 * BUFFER_BYTES * READS_MAX];
        backend.write_all(&bytes).await.unwrap();
        let _load = belt.carry(plain(ours, backends, &session));
        client.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_either_side_is_told() {
        let (_belt, mut carried) = one_carried();
        passes(&mut carried.client, &mut carried.backend, b"X\0\0\0\x04").await;
        drop(carried.client);
        assert!(matches!(carried.load.ended().await, RelayEnd::ClientLeft));
        assert_eq!(carried.backend.read(&mut [0]).await.unwrap(), 0);

        let (_belt, mut carried) = one_carried();
        carried.backend.write_all(b"E\0\0\0\x05\0").await.unwrap();
        drop(carried.backend);
        assert!(matches!(carried.load.ended().await, RelayEnd::BackendClosed));
        let (mut ours, at_boundary) = carried.load.end().await;
        assert!(at_boundary);
        ours.write_all(b"more").await.unwrap();
        let mut heard = [0; 10];
        carried.client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"E\0\0\0\x05\0more");
    }

    #[tokio::test]
    async fn one_that_is_to_stop_stops_once_it_is_idle() {
        let (_belt, mut carried) = one_carried();
        passes(&mut carried.client, &mut carried.backend, b"Q\0\0\0\x05\0").await;
        carried.load.stop_when_idle();
        let mut ended = std::pin::pin!(carried.load.ended());
        passes(&mut carried.backend, &mut carried.client, b"Z\0\0\0\x05T").await;
        assert!(futures_util::poll!(ended.as_mut()).is_pending());
        passes(&mut carried.client, &mut carried.backend, b"Q\0\0\0\x05\0").await;
        passes(&mut carried.backend, &mut carried.client, b"Z\0\0\0\x05I").await;
        assert!(matches!(ended.await, RelayEnd::Stopped));
    }

    #[tokio::test]
    async fn one_that_is_dropped_and_all_of_a_belt_that_ends_are_closed() {
        let (_belt, mut carried) = one_carried();
        drop(carried.load);
        assert_eq!(carried.client.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(carried.backend.read(&mut [0]).await.unwrap(), 0);

        let (belt, mut carried) = one_carried();
        drop(belt);
        assert!(matches!(carried.load.ended().await, RelayEnd::BackendDied));
        assert_eq!(carried.client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_at_work_is_counted() {
        let (epoll, bell) =
            (epoll::create(CreateFlags::CLOEXEC).unwrap(), eventfd(0, EventfdFlags::empty()));
        let mut belt = Running::new(epoll, Arc::new(bell.unwrap()), channel().1);
        let session = admitted();
        let number = session.record().id;
        let ((ours, mut client), (backends, mut backend)) = (pair(), pair());
        let plain = plain(ours, backends, &session);
        belt.take_up(super::Carried::new(plain, oneshot::channel().0));
        assert_eq!(belt.at_work, 0);
        client.write_all(b"Q\0\0\0\x05\0").await.unwrap();
        belt.arrived(client_of(number), EventFlags::IN);
        assert_eq!(belt.at_work, 1);
        backend.write_all(b"Z\0\0\0\x05I").await.unwrap();
        belt.arrived(backend_of(number), EventFlags::IN);
        assert_eq!(belt.at_work, 0);
        client.write_all(b"Q\0\0\0\x05\0").await.unwrap();
        belt.arrived(client_of(number), EventFlags::IN);
        belt.put_down(number, None);
        assert_eq!(belt.at_work, 0);
    }
}
