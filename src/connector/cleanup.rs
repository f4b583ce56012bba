//! Deleting a connector: the trunk first, then everything of ours on the source, then the row.
//!
//! A source that cannot be reached keeps the row in `Deleting`, and the worker keeps trying: a
//! forgotten slot fills production's disk.

use std::time::Duration;

use super::setup;
use super::worker::{Ended, Reply, Worker};
use super::{ConnectorError, SetupError};
use crate::cause::Causes;
use crate::replication;

/// Pause between two attempts; doubled with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

impl Worker {
    /// Cleans up until nothing is left, or the server stops. Whoever asked hears of the first
    /// attempt; the rest goes on behind it.
    pub(super) async fn clean_up(self, reply: Option<Reply<(), ConnectorError>>) -> Ended {
        let mut reply = reply;
        let mut pause = PAUSE_MIN;
        loop {
            let outcome = self.try_clean_up().await;
            let done = outcome.is_ok();
            if let Err(error) = &outcome {
                let reason = Causes(&error).to_string();
                tracing::error!(connector = %self.record.made.name, error = %reason, "delete connector");
                self.view.send_modify(|view| view.message = Some(reason));
            }
            if let Some(reply) = reply.take() {
                // Whoever asked may have left.
                let _ = reply.send(outcome);
            }
            if done {
                return Ended::Deleted;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ended::Stopped,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn try_clean_up(&self) -> Result<(), ConnectorError> {
        let local = |error: SetupError| ConnectorError::TrunkCleanup(error.to_string());
        setup::remove_trunk(&self.services, &self.record).await.map_err(local)?;
        let connector = self.record.id.to_string();
        replication::drop_source_objects(&self.source, &connector).await.map_err(|error| {
            ConnectorError::SourceCleanup {
                reason: error.to_string(),
                sql: replication::drop_sql(&connector),
            }
        })?;
        self.services.catalog.delete_connector(self.record.id)?;
        tracing::info!(connector = %self.record.made.name, "deleted connector");
        Ok(())
    }
}
