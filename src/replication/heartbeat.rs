//! A look at the slot every few seconds, and a word of ours on a source that is silent.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::emitter::Emitter;
use super::shared::Shared;
use super::status::Phase;

/// How often the slot is looked at and, if nothing else happens, a heartbeat sent.
const INTERVAL: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub(super) async fn heartbeat(emitter: Arc<Emitter>, shared: Arc<Shared>) {
    let mut timer = interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut transactions = 0;
    loop {
        timer.tick().await;
        let status = shared.status();
        match emitter.slot_state().await {
            Ok(Some(slot)) => {
                shared.saw_source_end(slot.current);
                shared.update(|status| status.retained_wal_bytes = slot.retained_bytes);
                if matches!(slot.wal_status.as_str(), "unreserved" | "lost") {
                    shared.warn(format!(
                        "source has removed or is about to remove log that we need: slot is {}",
                        slot.wal_status
                    ));
                }
            }
            // The stream itself says so when it next connects.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(slot = status.slot, reason = error.chain(), "slot not looked at");
                continue;
            }
        }
        match emitter.unseen_tables().await {
            Ok(tables) => {
                for table in tables {
                    shared.warn(format!("{table} is not followed: no publication names it"));
                }
            }
            Err(error) => {
                tracing::warn!(slot = status.slot, reason = error.chain(), "tables not looked at");
            }
        }
        let is_silent = status.transactions == transactions;
        transactions = status.transactions;
        if is_silent
            && status.phase == Phase::Streaming
            && let Err(error) = emitter.heartbeat().await
        {
            tracing::warn!(slot = status.slot, reason = error.chain(), "heartbeat not sent");
        }
    }
}
