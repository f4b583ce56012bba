//! Locks by name: what is done to one branch name is done by one task at a time.

use std::sync::{Arc, Weak};

use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::catalog::ConnectorId;

/// One lock for each name in use; names nobody works on take no memory after the next use of
/// their shard.
#[derive(Default)]
pub(super) struct NameLocks(DashMap<(ConnectorId, String), Weak<Mutex<()>>>);

impl NameLocks {
    /// Waits for its turn on a name.
    pub(super) async fn lock(&self, connector: ConnectorId, name: &str) -> OwnedMutexGuard<()> {
        let lock = self.of(connector, name);
        lock.lock_owned().await
    }

    fn of(&self, connector: ConnectorId, name: &str) -> Arc<Mutex<()>> {
        self.0.retain(|_, lock| lock.strong_count() > 0);
        let mut entry = self.0.entry((connector, name.to_owned())).or_default();
        if let Some(lock) = entry.upgrade() {
            return lock;
        }
        let lock = Arc::new(Mutex::new(()));
        *entry = Arc::downgrade(&lock);
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_one_holder() {
        let locks = NameLocks::default();
        let held = locks.lock(ConnectorId(1), "a").await;
        assert!(locks.of(ConnectorId(1), "a").try_lock().is_err());
        assert!(locks.of(ConnectorId(1), "b").try_lock().is_ok());
        assert!(locks.of(ConnectorId(2), "a").try_lock().is_ok());
        drop(held);
        assert!(locks.of(ConnectorId(1), "a").try_lock().is_ok());
    }
}
