//! The threads that connections live on, each a single-threaded runtime.
//!
//! A session is bytes that come in on one socket and go out on the other, with next to nothing to
//! compute. On a work-stealing runtime each arrival wakes a second thread that looks for work; that
//! costs more than the copy. On a lane the thread that waits for the bytes is the one that moves
//! them. A connection stays on its lane; the bytes of its session, if plain, are moved by the
//! lane's belt, which wakes nobody else either.
//!
//! There is a lane for every other processor: the computes behind them need the rest, and the fewer
//! lanes, the more arrivals each wake-up finds.
//!
//! Must never: run what may take long. That goes to [`Home`](crate::home::Home).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::relay::Belt;

/// More would only be more threads: a lane moves gigabytes a second.
const LANES_MAX: usize = 64;

/// All lanes; their threads end when this is dropped.
#[derive(Debug)]
pub(crate) struct Lanes {
    first: Arc<Lane>,
    others: Vec<Arc<Lane>>,
    #[expect(dead_code, reason = "held until the lanes may end")]
    end: DropGuard,
}

#[derive(Debug)]
struct Lane {
    runtime: Handle,
    belt: Belt,
    connections: AtomicUsize,
}

impl Lanes {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Self> {
        let end = CancellationToken::new();
        let processors = std::thread::available_parallelism()?.get();
        let count = (processors / 2).clamp(1, LANES_MAX);
        let others = (1..count).map(|_| Lane::start(end.clone())).collect::<io::Result<_>>()?;
        Ok(Self { first: Lane::start(end.clone())?, others, end: end.drop_guard() })
    }

    /// A place on the lane that has the fewest connections.
    pub(crate) fn place(&self) -> LanePlace {
        let connections = |lane: &&Arc<Lane>| lane.connections.load(Ordering::Relaxed);
        let lane = self.others.iter().chain([&self.first]).min_by_key(connections);
        let lane = lane.unwrap_or(&self.first);
        lane.connections.fetch_add(1, Ordering::Relaxed);
        LanePlace(Arc::clone(lane))
    }
}

impl Lane {
    fn start(end: CancellationToken) -> io::Result<Arc<Self>> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, connections) = (runtime.handle().clone(), AtomicUsize::new(0));
        let lane = Self { runtime: handle, belt: Belt::start()?, connections };
        let run = move || runtime.block_on(end.cancelled());
        std::thread::Builder::new().name("lane".to_owned()).spawn(run)?;
        Ok(Arc::new(lane))
    }
}

/// A connection's place on a lane, until it is dropped.
#[derive(Debug)]
pub(crate) struct LanePlace(Arc<Lane>);

impl LanePlace {
    /// Where its task runs.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Where its bytes are moved once nothing else is left to do.
    pub(crate) fn belt(&self) -> &Belt {
        &self.0.belt
    }
}

impl Drop for LanePlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
