//! A look at the source every few seconds, and a word of ours where it is silent.
//!
//! What the source pays for being followed is watched here: the log it keeps for our slot, and
//! whose transaction makes it keep more. Past a limit that the operator chose, the slot goes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::ddl::MODE_POLLING;
use super::emitter::{Emitter, SlotState};
use super::error::Error;
use super::link::drop_slot;
use super::shared::Shared;
use super::status::Phase;

/// How often the slot is looked at and, if nothing else happens, a heartbeat sent.
const INTERVAL: Duration = Duration::from_secs(10);
/// A transaction that is open for longer is worth a warning.
const OPEN_MAX: Duration = Duration::from_secs(3600);

/// Runs until it is aborted.
pub(super) async fn heartbeat(emitter: Arc<Emitter>, shared: Arc<Shared>) {
    let mut timer = interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut transactions = 0;
    loop {
        timer.tick().await;
        let status = shared.status();
        if let Err(error) = look(&emitter, &shared).await {
            tracing::warn!(slot = status.slot, reason = error.chain(), "source not looked at");
            continue;
        }
        let is_silent = status.transactions == transactions;
        transactions = status.transactions;
        if (is_silent || status.ddl_mode == MODE_POLLING)
            && status.phase == Phase::Streaming
            && let Err(error) = emitter.heartbeat().await
        {
            tracing::warn!(slot = status.slot, reason = error.chain(), "heartbeat not sent");
        }
    }
}

async fn look(emitter: &Emitter, shared: &Shared) -> Result<(), Error> {
    // The stream itself says so when the slot is gone and it next connects.
    if let Some(slot) = emitter.slot_state().await? {
        watch_slot(emitter, shared, &slot).await?;
    }
    let oldest = emitter.oldest_transaction().await?;
    if let Some(open) = oldest.as_ref().filter(|open| open.age > OPEN_MAX) {
        let minutes = OPEN_MAX.as_secs() / 60;
        shared.warn(format!(
            "{} has been open for over {minutes} minutes: the source keeps its log meanwhile",
            open.holder
        ));
    }
    shared.update(|status| status.oldest_transaction = oldest);
    emitter.free_tables().await
}

async fn watch_slot(emitter: &Emitter, shared: &Shared, slot: &SlotState) -> Result<(), Error> {
    shared.saw_source_end(slot.current);
    shared.update(|status| status.retained_wal_bytes = slot.retained_bytes);
    if matches!(slot.wal_status.as_str(), "unreserved" | "lost") {
        shared.warn(format!(
            "source has removed or is about to remove log that we need: slot is {}",
            slot.wal_status
        ));
    }
    let limits = emitter.link().slot_wal;
    let is_beyond = |limit: u64| limit > 0 && slot.retained_bytes > limit;
    if is_beyond(limits.drop_bytes) {
        shared.warn(format!(
            "slot dropped: the source kept more than {} bytes of log for it",
            limits.drop_bytes
        ));
        let link = emitter.link();
        return drop_slot(&link.source, &link.connector).await;
    }
    if is_beyond(limits.alarm_bytes) {
        shared.warn(format!(
            "the source keeps more than {} bytes of log for the slot",
            limits.alarm_bytes
        ));
    }
    Ok(())
}
