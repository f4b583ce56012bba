//! Layers made in advance, so that no fork waits for directories.
//!
//! To make one takes some tenths of a millisecond, and several milliseconds while the host's file
//! system commits what others sync. A spare is a layer that is being made: no record speaks of it,
//! and the next start sweeps what nobody took.
//!
//! Must never be needed: whoever finds none makes a layer of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::holdings::Holdings;
use crate::id::LayerId;
use crate::journal::Log;
use crate::load;
use crate::locks;

/// Two for each of four forks. Each is a directory, and a journal of one block that is open.
const SPARES_MAX: usize = 8;

pub(super) struct Spares {
    shelf: Arc<Shelf>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shelf {
    stock: Mutex<Stock>,
    changed: Condvar,
}

#[derive(Default)]
struct Stock {
    ready: VecDeque<(LayerId, Log)>,
    /// The last attempt to make one failed; the next one who asks gives reason for another.
    failed: bool,
    stopping: bool,
}

impl Spares {
    /// Starts the thread that makes them; without `background` there are none.
    pub(super) fn start(holdings: Arc<Holdings>, background: bool) -> io::Result<Self> {
        let shelf = Arc::new(Shelf { stock: Mutex::default(), changed: Condvar::new() });
        let keep_full = {
            let shelf = shelf.clone();
            move || shelf.keep_full(&holdings)
        };
        let thread = std::thread::Builder::new().name("spares".to_owned());
        let thread = background.then(|| thread.spawn(keep_full)).transpose()?;
        Ok(Self { shelf, thread: Mutex::new(thread) })
    }

    pub(super) fn take(&self) -> Option<(LayerId, Log)> {
        let mut stock = self.shelf.stock();
        stock.failed = false;
        let taken = stock.ready.pop_front();
        drop(stock);
        self.shelf.changed.notify_one();
        taken
    }

    /// Ends the thread and removes what nobody took.
    pub(super) fn stop(&self) {
        self.shelf.stock().stopping = true;
        self.shelf.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that makes spare layers panicked");
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shelf {
    fn keep_full(&self, holdings: &Holdings) {
        loop {
            let rests = |stock: &mut Stock| {
                !stock.stopping && (stock.failed || stock.ready.len() >= SPARES_MAX)
            };
            let stock = self.changed.wait_while(self.stock(), rests);
            if stock.unwrap_or_else(PoisonError::into_inner).stopping {
                let left = std::mem::take(&mut self.stock().ready);
                return left.into_iter().for_each(|(layer, _)| holdings.remove_layer(layer));
            }
            match make(holdings) {
                Ok(spare) => self.stock().ready.push_back(spare),
                Err(error) => {
                    tracing::debug!(%error, "make a spare layer");
                    self.stock().failed = true;
                }
            }
        }
    }

    /// Nothing that holds it leaves it half changed.
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a layer of which no record speaks yet, or leaves nothing.
pub(super) fn make(holdings: &Holdings) -> io::Result<(LayerId, Log)> {
    let layer = locks::lock(&holdings.shape)?.allocate_layer();
    let layer = layer.ok_or_else(|| io::Error::other("all layer numbers are used up"))?;
    match load::prepare(&holdings.media, layer) {
        Ok(journal) => Ok((layer, journal)),
        Err(error) => {
            holdings.remove_layer(layer);
            Err(error)
        }
    }
}
