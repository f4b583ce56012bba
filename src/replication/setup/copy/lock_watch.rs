//! Nobody on the source waits long for a table because we read it: whoever queues for it
//! exclusively makes everybody else queue behind. A part that is in the way is given up.
//!
//! Its session is cancelled on the source, and the job is told: a COPY that waits for us to read on
//! does not hear of a cancellation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proxy::client::{Connection, Session};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::source;

use super::super::super::error::{Error, at_source};
use super::super::Setup;

/// Who is in the way at two looks in a row gives way.
const LOOK: Duration = Duration::from_secs(1);
const OPTIONS: &str = "-c statement_timeout=10s -c lock_timeout=5s";

/// The sessions of ours that may be in somebody's way.
#[derive(Default)]
pub(super) struct LockWatch {
    /// By process number on the source. Held for a look only.
    watched: Mutex<BTreeMap<i32, Arc<Notify>>>,
}

/// Ends the watch over one session when dropped.
pub(super) struct Watched<'a> {
    watch: &'a LockWatch,
    pid: i32,
    told: Arc<Notify>,
}

impl Watched<'_> {
    /// Resolves when the session is in somebody's way.
    pub(super) async fn is_in_the_way(&self) {
        self.told.notified().await;
    }
}

impl LockWatch {
    /// Watches a session from now on.
    pub(super) async fn watch(&self, session: &mut Connection) -> Result<Watched<'_>, Error> {
        // Not what it was told at its start: a pooler in between has numbers of its own.
        let pid = session.value("SELECT pg_catalog.pg_backend_pid()").await.map_err(at_source)?;
        let pid = pid.and_then(|pid| pid.parse().ok());
        let pid = pid.ok_or(Error::Facts(source::Error::Unexpected("a process number")))?;
        let told = Arc::new(Notify::new());
        self.lock().insert(pid, Arc::clone(&told));
        Ok(Watched { watch: self, pid, told })
    }

    /// Looks until dropped; ends by itself only if the source cannot be asked.
    pub(super) async fn run(&self, setup: &Setup<'_>) -> Error {
        match self.look_on(setup).await {
            Ok(never) => never,
            Err(error) => error,
        }
    }

    async fn look_on(&self, setup: &Setup<'_>) -> Result<Error, Error> {
        let session = Session::open(&setup.link.source_target(OPTIONS)).await.map_err(at_source)?;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = BTreeSet::new();
        loop {
            looks.tick().await;
            let watched: Vec<i32> = self.lock().keys().copied().collect();
            let rows = session.query(BLOCKING_SQL, &[&watched]).await.map_err(at_source)?;
            let blocking = rows
                .iter()
                .map(|row| row.try_get(0))
                .collect::<Result<BTreeSet<i32>, _>>()
                .map_err(at_source)?;
            for pid in blocking.intersection(&before) {
                let cancel = "SELECT pg_catalog.pg_cancel_backend($1)";
                session.query(cancel, &[pid]).await.map_err(at_source)?;
                let told = self.lock().get(pid).cloned();
                if let Some(told) = told {
                    told.notify_waiters();
                }
            }
            before = blocking;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, Arc<Notify>>> {
        // A panic while holding it leaves a map behind, never half of one.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watch.lock().remove(&self.pid);
    }
}

const BLOCKING_SQL: &str = "\
SELECT DISTINCT b.pid
  FROM pg_catalog.pg_locks w
 CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) AS b(pid)
 WHERE NOT w.granted AND b.pid = ANY ($1)";
