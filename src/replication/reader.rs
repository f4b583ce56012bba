//! Reads the stream, decodes it, queues it for the applier, and tells the source where we stand.
//!
//! The feedback timer runs here, independent of the applier: a source that hears nothing while a
//! long batch is applied would end the connection and send everything again, for ever.
//!
//! Bounds: at most [`QUEUE_BATCHES`] batches of [`BATCH_BYTES`] plus one message each wait for the
//! applier. Beyond that nothing is read, and the source waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy::client::{ReplicationConnection, ReplicationEvent, StandbyStatus};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::lsn::Lsn;

use super::change::{Change, Event};
use super::decoder::Decoder;
use super::error::{Error, at_source};
use super::shared::Shared;
use super::wal2json::lost_change;

pub(super) const QUEUE_BATCHES: usize = 16;
const BATCH_BYTES: usize = 1 << 20;
/// After less than this the source has no more at hand, and the reader rests, so that there is more
/// to read next time.
const BATCH_BYTES_MIN: usize = 8 << 10;
/// Long enough for a few dozen changes, and nothing beside the time that a commit takes.
const REST: Duration = Duration::from_micros(200);
/// While so much comes between two rests, they are longer: long enough to fill the window of a
/// near source, short enough for it not to wait for us.
const DENSE_BYTES: usize = 16 << 10;
const REST_DENSE: Duration = Duration::from_millis(2);
/// A new durable position is told this often.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// An unchanged one this often, as a sign of life: a sixth of the default `wal_sender_timeout`.
const FEEDBACK_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// How often an idle stream moves the slot.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// 2000-01-01 in seconds of the Unix epoch, where Postgres' clock begins.
const POSTGRES_EPOCH_SECONDS: u64 = 946_684_800;

/// Events in order, and what they take.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Event>,
    bytes: usize,
}

pub(super) struct Reader {
    connection: ReplicationConnection,
    decoder: Decoder,
    /// What the trunk holds durably; told to the source as flushed.
    durable: watch::Receiver<Lsn>,
    shared: Arc<Shared>,
    /// Events of the last batch; the next one has about as many.
    events: usize,
    /// Bytes of the batches since the last rest.
    since_rest: usize,
}

impl Reader {
    pub(super) fn new(
        connection: ReplicationConnection,
        decoder: Decoder,
        durable: watch::Receiver<Lsn>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { connection, decoder, durable, shared, events: 0, since_rest: 0 }
    }

    /// Runs until the connection or the applier ends. For a [`Thread`] of its own, on which the
    /// connection was opened.
    pub(super) async fn run(mut self, queue: mpsc::Sender<Batch>) -> Error {
        match self.read(&queue).await {
            Ok(()) => Error::Ended,
            Err(error) => error,
        }
    }

    async fn read(&mut self, queue: &mpsc::Sender<Batch>) -> Result<(), Error> {
        let mut feedback = Feedback::new(*self.durable.borrow());
        let mut timer = interval(FEEDBACK_INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outgoing: Option<Batch> = None;
        loop {
            tokio::select! {
                permit = queue.reserve(), if outgoing.is_some() => {
                    // The applier is gone: whoever stopped it knows why.
                    let Ok(permit) = permit else { return Ok(()) };
                    let batch = outgoing.take().unwrap_or_default();
                    let rest = self.rest_after(batch.bytes);
                    permit.send(batch);
                    if let Some(rest) = rest {
                        // Not awaited: an arrival would wake the thread that awaits.
                        std::thread::sleep(rest);
                    }
                }
                event = self.connection.next(), if outgoing.is_none() => {
                    let batch = self.gather(event.map_err(at_source)?, &mut feedback)?;
                    outgoing = (!batch.events.is_empty()).then_some(batch);
                }
                () = queue.closed() => return Ok(()),
                _ = timer.tick() => {}
            }
            if feedback.is_due(*self.durable.borrow()) {
                self.tell(&mut feedback).await?;
            }
        }
    }

    /// How long to rest after a batch, if at all.
    fn rest_after(&mut self, bytes: usize) -> Option<Duration> {
        self.since_rest += bytes;
        if bytes >= BATCH_BYTES_MIN {
            return None;
        }
        let is_dense = std::mem::take(&mut self.since_rest) >= DENSE_BYTES;
        Some(if is_dense { REST_DENSE } else { REST })
    }

    /// Takes what has been read, up to the size of a batch.
    fn gather(&mut self, first: ReplicationEvent, feedback: &mut Feedback) -> Result<Batch, Error> {
        // Room that grows is allocated and copied many times over.
        let mut batch = Batch { events: Vec::with_capacity(self.events), bytes: 0 };
        let mut next = Some(first);
        while let Some(event) = next {
            self.take(event, feedback, &mut batch)?;
            if batch.bytes >= BATCH_BYTES {
                break;
            }
            next = self.connection.buffered().map_err(at_source)?;
        }
        self.events = batch.events.len();
        self.shared.update(|status| status.received_lsn = feedback.received);
        Ok(batch)
    }

    fn take(
        &mut self,
        event: ReplicationEvent,
        feedback: &mut Feedback,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        match event {
            ReplicationEvent::Data { start, payload } => {
                feedback.received = feedback.received.max(Lsn(start));
                batch.bytes += payload.len();
                self.decoder.decode(&payload, &mut batch.events)?;
            }
            ReplicationEvent::Keepalive { end, reply_requested } => {
                feedback.received = feedback.received.max(Lsn(end));
                feedback.is_wanted |= reply_requested;
                // Everything committed before `end` is in the queue already, ahead of this.
                if !self.decoder.is_in_transaction() && feedback.is_idle_due(Lsn(end)) {
                    batch.events.push(Event::Idle(Lsn(end)));
                }
            }
            ReplicationEvent::Notice(notice) => match lost_change(&notice.message) {
                Some(change) => batch.events.push(Event::Change(change)),
                None => tracing::info!(message = notice.message, "notice of the source"),
            },
            ReplicationEvent::End => return Err(Error::Ended),
        }
        if let Some(Event::Change(Change::Message { .. }) | Event::Commit(_)) = batch.events.last()
        {
            feedback.idle_at = Instant::now();
        }
        Ok(())
    }

    async fn tell(&mut self, feedback: &mut Feedback) -> Result<(), Error> {
        let durable = *self.durable.borrow_and_update();
        feedback.told = feedback.told.max(durable);
        feedback.told_at = Instant::now();
        feedback.is_wanted = false;
        let clock = SystemTime::now()
            .duration_since(UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_SECONDS))
            .unwrap_or_default();
        let status = StandbyStatus {
            written: feedback.received.max(feedback.told).0,
            flushed: feedback.told.0,
            applied: feedback.told.0,
            clock_us: i64::try_from(clock.as_micros()).unwrap_or(0),
            reply_requested: false,
        };
        self.connection.send_status(status).await.map_err(at_source)?;
        self.shared.update(|status| status.confirmed_lsn = feedback.told);
        Ok(())
    }
}

/// What has been heard and said.
struct Feedback {
    received: Lsn,
    told: Lsn,
    told_at: Instant,
    is_wanted: bool,
    idle: Lsn,
    idle_at: Instant,
}

impl Feedback {
    fn new(start: Lsn) -> Self {
        let now = Instant::now();
        Self {
            received: start,
            told: start,
            told_at: now,
            is_wanted: true,
            idle: start,
            idle_at: now,
        }
    }

    fn is_due(&self, durable: Lsn) -> bool {
        let age = self.told_at.elapsed();
        self.is_wanted
            || age >= FEEDBACK_INTERVAL_MAX
            || (durable > self.told && age >= FEEDBACK_INTERVAL)
    }

    fn is_idle_due(&mut self, end: Lsn) -> bool {
        let is_due = end > self.idle && self.idle_at.elapsed() >= IDLE_INTERVAL;
        if is_due {
            self.idle = end;
            self.idle_at = Instant::now();
        }
        is_due
    }
}
