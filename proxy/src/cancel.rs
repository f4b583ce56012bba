//! Cancel keys: issued to each session, looked up by a CancelRequest, forgotten with the session.
//!
//! The process id in a key is the backend's own, because tools use it with `pg_cancel_backend`;
//! the secret is ours, so that a compute's secret never leaves this host; a session that is handed
//! off outlives us, and has its backend's own. A cancel never wakes a compute: only a live session
//! has a key.
//!
//! A server that was taken over keeps its sessions and their keys; its successor asks it about
//! keys that it does not know itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::wire;

/// A compute that does not close a cancel connection within this is given up on.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Servers that were taken over and still have sessions; more than one only if takeovers follow
/// each other faster than sessions end.
const PREDECESSORS_MAX: usize = 8;

/// All keys in use.
#[derive(Debug, Default)]
pub struct Cancels {
    keys: DashMap<(i32, Vec<u8>), CancelTarget>,
    predecessors: Mutex<Vec<mpsc::Sender<AskedCancel>>>,
}

/// A cancel that a predecessor is asked to carry out.
#[derive(Debug)]
pub struct AskedCancel {
    /// Process id in the key.
    pub pid: i32,
    /// The secret.
    pub key: Vec<u8>,
    /// To be told whether the key was known, once the cancel is carried out.
    pub answer: oneshot::Sender<bool>,
}

/// What a key cancels.
#[derive(Clone, Debug)]
pub(crate) enum CancelTarget {
    Backend(BackendKey),
    Console(Arc<RunningStatement>),
}

/// How a compute's backend is cancelled.
#[derive(Clone, Debug)]
pub(crate) struct BackendKey {
    pub(crate) socket: PathBuf,
    pub(crate) pid: i32,
    pub(crate) key: Vec<u8>,
}

/// The statement that a console session is running, if any.
#[derive(Debug, Default)]
pub(crate) struct RunningStatement(Mutex<Option<oneshot::Sender<()>>>);

/// Keeps a key valid.
#[derive(Debug)]
pub(crate) struct CancelGuard {
    cancels: Arc<Cancels>,
    entry: (i32, Vec<u8>),
}

impl Cancels {
    /// Issues a key for a session with this process id.
    pub(crate) fn issue(
        self: &Arc<Self>,
        pid: i32,
        key_bytes: usize,
        target: &CancelTarget,
    ) -> CancelGuard {
        loop {
            let mut secret = vec![0; key_bytes];
            rand::fill(secret.as_mut_slice());
            if let Some(guard) = self.enter((pid, secret), target) {
                return guard;
            }
        }
    }

    /// Lets a session that is to be handed off have its backend's own key: any later server can
    /// carry out a cancel with that, having only to find the compute.
    pub(crate) fn issue_own(self: &Arc<Self>, backend: &BackendKey) -> CancelGuard {
        let target = CancelTarget::Backend(backend.clone());
        let own = self.enter((backend.pid, backend.key.clone()), &target);
        own.unwrap_or_else(|| self.issue(backend.pid, backend.key.len(), &target))
    }

    fn enter(
        self: &Arc<Self>,
        entry: (i32, Vec<u8>),
        target: &CancelTarget,
    ) -> Option<CancelGuard> {
        let Entry::Vacant(vacant) = self.keys.entry(entry) else { return None };
        let entry = vacant.key().clone();
        vacant.insert(target.clone());
        Some(CancelGuard { cancels: Arc::clone(self), entry })
    }

    /// Carries out a CancelRequest. Returns whether the key was known.
    pub async fn request(&self, pid: i32, key: Vec<u8>) -> bool {
        let entry = (pid, key);
        let target = self.keys.get(&entry).map(|entry| entry.value().clone());
        match target {
            Some(CancelTarget::Backend(backend)) => backend.cancel().await,
            Some(CancelTarget::Console(statement)) => statement.cancel(),
            None => return self.ask_predecessors(entry).await,
        }
        true
    }

    /// From now on unknown keys are asked of this server too, until its end of the channel closes.
    pub fn add_predecessor(&self, predecessor: mpsc::Sender<AskedCancel>) {
        let mut predecessors = self.predecessors();
        predecessors.retain(|predecessor| !predecessor.is_closed());
        predecessors.truncate(PREDECESSORS_MAX - 1);
        predecessors.push(predecessor);
    }

    async fn ask_predecessors(&self, (pid, key): (i32, Vec<u8>)) -> bool {
        let predecessors = self.predecessors().clone();
        for predecessor in predecessors {
            let (answer, answered) = oneshot::channel();
            let asked = AskedCancel { pid, key: key.clone(), answer };
            if predecessor.send(asked).await.is_ok() && answered.await == Ok(true) {
                return true;
            }
        }
        false
    }

    fn predecessors(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<AskedCancel>>> {
        self.predecessors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BackendKey {
    /// Sends the cancel and waits until the compute has acted on it: it closes the connection
    /// then. Whoever sent it to us may thus start the next query without fear.
    pub(crate) async fn cancel(&self) {
        let forward = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let mut request = Vec::new();
            wire::cancel_request(&mut request, self.pid, &self.key);
            stream.write_all(&request).await?;
            stream.read_to_end(&mut Vec::new()).await
        };
        match tokio::time::timeout(FORWARD_TIMEOUT, forward).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, pid = self.pid, "forward cancel"),
            Err(_elapsed) => tracing::warn!(pid = self.pid, "compute does not answer a cancel"),
        }
    }
}

impl RunningStatement {
    /// A statement starts; the receiver resolves when it is to be cancelled.
    pub(crate) fn start(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        *self.slot() = Some(sender);
        receiver
    }

    /// The statement is over: a late cancel must not hit the next one.
    pub(crate) fn finish(&self) {
        *self.slot() = None;
    }

    fn cancel(&self) {
        if let Some(sender) = self.slot().take()
            && sender.send(()).is_err()
        {
            tracing::trace!("cancel of a statement that ended just now");
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CancelGuard {
    /// The secret to tell the client.
    pub(crate) fn key(&self) -> &[u8] {
        &self.entry.1
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.cancels.keys.remove(&self.entry);
    }
}
