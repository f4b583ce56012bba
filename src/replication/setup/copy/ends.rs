//! What a job copies between: a session on each side, and the thread that their sockets are of.

use std::sync::Arc;

use proxy::client::Connection;
use tokio::sync::Mutex;

use super::super::super::error::{Error, at_source, at_trunk};
use super::super::super::thread::Thread;
use super::super::Setup;

pub(super) struct Ends {
    /// In a transaction at the snapshot. Held by the pump of the part under way.
    pub(super) source: Arc<Mutex<Connection>>,
    pub(super) trunk: Arc<Mutex<Connection>>,
    pub(super) thread: Thread,
}

impl Ends {
    pub(super) async fn open(setup: &Setup<'_>) -> Result<Self, Error> {
        let thread = Thread::start("copy").map_err(Error::Thread)?;
        let source = thread.spawn(setup.snapshot.open_connection(setup.link));
        // Not joined: the server ends.
        let mut source = source.await.map_err(|_| Error::Ended)??;
        // Every part ends by going back here, which lets go of its lock.
        source.execute("SAVEPOINT part").await.map_err(at_source)?;
        let target = setup.trunk.as_apply("");
        let trunk = thread.spawn(async move { Connection::open(&target).await });
        let trunk = trunk.await.map_err(|_| Error::Ended)?.map_err(at_trunk)?;
        let (source, trunk) = (Arc::new(Mutex::new(source)), Arc::new(Mutex::new(trunk)));
        Ok(Self { source, trunk, thread })
    }

    pub(super) async fn close(self) {
        for connection in [self.source, self.trunk] {
            // A pump that was given up may have it still, and closes it when it is dropped.
            if let Some(connection) = Arc::into_inner(connection) {
                connection.into_inner().close().await;
            }
        }
    }
}
