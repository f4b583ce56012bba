//! The running stream: one task that connects, applies, pauses and comes back, and a handle to it.
//!
//! ```text
//!   Starting --> Streaming <--> Paused       pause() at a transaction boundary, resume()
//!      ^  ^          |  |
//!      |  +- Retrying+  +--> Stopped         transient / unsafe failure
//!      +----- resume() ----------+
//! ```
//! After any failure both connections are dropped and the trunk's progress row is read anew: it
//! alone says what has been applied.

mod stand_by;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::applier::{Applier, Ends};
use super::ddl::{self, Capture};
use super::decoder::Decoder;
use super::emitter::Emitter;
use super::error::{Action, Error};
use super::format;
use super::halt::{Answer, Arrival, Halt};
use super::heartbeat::heartbeat;
use super::link::{Link, TrunkAccess};
use super::message::MessageKey;
use super::reader::{Batch, QUEUE_BATCHES, Reader};
use super::setup::Snapshot;
use super::shared::Shared;
use super::start::{self, Started};
use super::status::{Phase, Position, Status};
use super::thread::Thread;
use super::triggers;
use super::verify::Reference;

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const CONTROLS_MAX: usize = 16;
/// A stop waits this long for the tasks to end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream from a source to a trunk. Dropping it ends the stream where it stands, which is safe
/// at any moment.
pub struct Replication {
    shared: Arc<Shared>,
    emitter: Arc<Emitter>,
    controls: mpsc::Sender<Control>,
    stream: JoinHandle<()>,
    heartbeat: JoinHandle<()>,
}

enum Control {
    Pause(Halt),
    Resume(TrunkAccess, oneshot::Sender<()>),
    Release(TableName, oneshot::Sender<Result<bool, Error>>),
    Stop,
}

impl Replication {
    /// Starts streaming into a trunk whose setup is finished. Connects by itself, and keeps trying.
    pub fn start(link: Link, trunk: TrunkAccess) -> Self {
        let shared = Arc::new(Shared::default());
        shared.update(|status| {
            status.slot = link.slot();
            status.plugin = link.plugin.as_str();
        });
        let key = MessageKey::random();
        let emitter = Arc::new(Emitter::new(link.clone(), key.clone(), Arc::clone(&shared)));
        let (controls, receiver) = mpsc::channel(CONTROLS_MAX);
        let stream = Stream {
            link,
            trunk,
            key,
            shared: Arc::clone(&shared),
            durable: watch::channel(Lsn::default()).0,
            controls: receiver,
            capture: Capture::Unavailable("not asked yet".to_owned()),
            position: None,
        };
        let heartbeat = heartbeat(Arc::clone(&emitter), Arc::clone(&shared));
        Self {
            shared,
            emitter,
            controls,
            stream: tokio::spawn(stream.supervise()),
            heartbeat: tokio::spawn(heartbeat),
        }
    }

    /// Returns once the applier stands at the end of a source transaction and its progress is
    /// durable. Reading from the source goes on until queues are
    /// full.
    pub async fn pause(&self) -> Result<Position, Error> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Pause(Halt::at_boundary(answer))).await?;
        answered.await.map_err(|_| Error::NotRunning("stopped while pausing".to_owned()))?
    }

    /// Pauses like [`Replication::pause`], with the trunk at exactly what a snapshot of the source
    /// sees: every commit before its position and none after it. The caller bounds the wait.
    pub async fn pause_at_reference(&self) -> Result<(Position, Reference), Error> {
        let sequences = self.emitter.sequences().await?;
        self.barrier().await?;
        let (answer, answered) = oneshot::channel();
        let (halt, stands, before) = Halt::ahead(answer);
        let gone = || Error::NotRunning("stopped while pausing".to_owned());
        self.control(Control::Pause(halt)).await?;
        stands.await.map_err(|_| gone())?;
        // The applier stands, so it cannot pass the position that is only found out now.
        let snapshot = Snapshot::take_temporary(self.emitter.link()).await?;
        before.send(snapshot.lsn).map_err(|_| gone())?;
        // A transaction after the snapshot, for the applier to stop before.
        self.emitter.heartbeat().await?;
        let position = answered.await.map_err(|_| gone())??;
        Ok((position, Reference { snapshot, sequences }))
    }

    /// Goes on, with a trunk that may have moved. Also ends a wait after a failure.
    pub async fn resume(&self, trunk: TrunkAccess) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Resume(trunk, answer)).await?;
        answered.await.map_err(|_| Error::NotRunning("stopped while resuming".to_owned()))
    }

    /// Returns once the trunk durably has everything that was committed on the source before this
    /// call, sequences included. The caller bounds the wait.
    pub async fn barrier(&self) -> Result<Position, Error> {
        if let Phase::Stopped { reason } = self.shared.status().phase {
            return Err(Error::NotRunning(reason));
        }
        if !self.shared.is_mode_known() {
            // Fails at once where the stream cannot get to either.
            self.emitter.sequences().await?;
            self.shared.mode_known().await;
        }
        let token = format!("{:032x}", rand::random::<u128>());
        let reached = self.shared.expect_barrier(token.clone());
        self.emitter.barrier(token).await?;
        reached.await.map_err(|_| Error::NotRunning("stopped before the barrier".to_owned()))
    }

    /// Copies a table that is in quarantine again, and follows it then. Returns once that is
    /// certain to happen; false if the table is in no quarantine.
    pub async fn release(&self, table: TableName) -> Result<bool, Error> {
        let (answer, answered) = oneshot::channel();
        self.control(Control::Release(table, answer)).await?;
        answered.await.map_err(|_| Error::NotRunning("stopped while releasing".to_owned()))?
    }

    /// What the stream says about itself.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Ends the stream. The slot stays on the source.
    pub async fn stop(mut self) {
        self.heartbeat.abort();
        if self.control(Control::Stop).await.is_ok() {
            // One that does not end in time is ended by the drop.
            drop(timeout(STOP_TIMEOUT, &mut self.stream).await);
        }
        self.emitter.close().await;
    }

    async fn control(&self, control: Control) -> Result<(), Error> {
        let gone = |_| Error::NotRunning("stopped".to_owned());
        self.controls.send(control).await.map_err(gone)
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.heartbeat.abort();
        self.stream.abort();
    }
}

struct Stream {
    link: Link,
    trunk: TrunkAccess,
    key: MessageKey,
    shared: Arc<Shared>,
    durable: watch::Sender<Lsn>,
    controls: mpsc::Receiver<Control>,
    /// How schema changes are learnt of in this session.
    capture: Capture,
    /// Where the trunk stands while nobody feeds it; none if it has to be asked.
    position: Option<Position>,
}

/// Why a session ended without an error.
struct StopRequested;

impl Stream {
    async fn supervise(mut self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let (error, streamed) = match self.session().await {
                Ok(StopRequested) => break,
                Err(failed) => failed,
            };
            if streamed {
                backoff = BACKOFF_MIN;
                // It may have committed more than was heard of, and a crash have taken some of it.
                self.position = None;
            }
            let reason = error.chain();
            let limit = match error.action() {
                Action::Retry => {
                    tracing::warn!(slot = self.link.slot(), reason, "stream interrupted");
                    self.shared.enter(Phase::Retrying { reason: reason.clone() });
                    Some(backoff)
                }
                Action::Stop => {
                    tracing::error!(slot = self.link.slot(), reason, "stream stopped");
                    self.shared.enter(Phase::Stopped { reason: reason.clone() });
                    self.shared.give_up_barriers();
                    None
                }
            };
            if self.stand_by(limit, &reason).await.is_err() {
                break;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.shared.enter(Phase::Stopped { reason: "stopped by request".to_owned() });
        self.shared.give_up_barriers();
    }

    /// One life of the two connections. The flag of a failure says whether it came to streaming.
    async fn session(&mut self) -> Result<StopRequested, (Error, bool)> {
        self.capture = ddl::install(&self.link).await.map_err(|error| (error, false))?;
        self.shared.learn_by(self.capture.mode());
        if let Capture::Unavailable(reason) = &self.capture {
            self.shared.warn(format!("schema changes are not captured: {reason}"));
        }
        let mut applier = self.begin_applier().await.map_err(|error| (error, false))?;
        let progress = applier.progress().clone();
        // Ends with this life: nothing of it reads on.
        let thread = Thread::start("reader").map_err(|error| (Error::Thread(error), false))?;
        let starting = start::start(self.link.clone(), progress.clone());
        let Started { connection, timeline } = match thread.spawn(starting).await {
            Ok(started) => started.map_err(|error| (error, false))?,
            // It panicked, or the server ends.
            Err(_) => return Err((Error::Ended, false)),
        };
        applier.keep_timeline(timeline).await.map_err(|error| (error, false))?;
        let decoder = Decoder::new(&self.link, progress.lsn);
        let (durable, shared) = (self.durable.subscribe(), Arc::clone(&self.shared));
        let reader = Reader::new(connection, decoder, durable, shared);
        let (sender, queue) = mpsc::channel(QUEUE_BATCHES);
        let mut reading = thread.spawn(reader.run(sender));
        self.shared.enter(Phase::Streaming);
        let outcome = match self.stream(applier, queue).await {
            // The queue ended, so the reader did, and knows why.
            Err(Error::Ended) => match (&mut reading).await {
                Ok(error) => Err(error),
                Err(_) => Err(Error::Ended),
            },
            outcome => outcome,
        };
        reading.abort();
        outcome.map_err(|error| (error, true))
    }

    /// For a trunk that another build may have had last.
    async fn begin_applier(&mut self) -> Result<Applier, Error> {
        format::bring_up(&self.trunk).await?;
        self.open_applier().await
    }

    async fn open_applier(&mut self) -> Result<Applier, Error> {
        let ends = Ends { link: &self.link, trunk: &self.trunk, capture: &self.capture };
        let applier = Applier::open(ends, &self.shared, &self.key, &self.durable).await?;
        self.position = Some(applier.position());
        Ok(applier)
    }

    async fn stream(
        &mut self,
        mut applier: Applier,
        mut queue: mpsc::Receiver<Batch>,
    ) -> Result<StopRequested, Error> {
        let mut events = Vec::new().into_iter().peekable();
        let mut halt: Option<Halt> = None;
        loop {
            if applier.is_at_boundary()
                && let Some(due) = halt.take_if(|halt| halt.is_due(events.peek()))
            {
                match due.arrive().await {
                    Arrival::GoOn(left) => halt = left,
                    Arrival::Release(answer) => match self.pause(&mut applier, answer).await? {
                        Ok(()) => {}
                        Err(stop) => return Ok(stop),
                    },
                }
                continue;
            }
            let control = if let Some(event) = events.next() {
                applier.take(event).await?;
                if !applier.is_at_boundary() {
                    continue;
                }
                self.controls.try_recv().ok()
            } else if let Ok(batch) = queue.try_recv() {
                // What is there is taken before anything is committed.
                events = batch.events.into_iter().peekable();
                None
            } else {
                if applier.is_at_boundary() && applier.commit_is_due() {
                    applier.commit().await?;
                }
                tokio::select! {
                    batch = queue.recv() => {
                        events = batch.ok_or(Error::Ended)?.events.into_iter().peekable();
                        None
                    }
                    () = applier.commit_will_be_due(), if applier.is_at_boundary() => None,
                    () = applier.flush_is_due(), if applier.is_at_boundary() => {
                        applier.flush().await?;
                        None
                    }
                    // Amid a transaction nothing may be committed for anybody.
                    control = self.controls.recv(), if applier.is_at_boundary() => {
                        Some(control.unwrap_or(Control::Stop))
                    }
                }
            };
            match control {
                None => {}
                Some(Control::Release(table, answer)) => {
                    let _told = answer.send(applier.release(&table).await);
                }
                Some(Control::Pause(wanted)) => {
                    // One caller pauses at a time; an older one that is left has given up.
                    halt = Some(wanted);
                }
                // While streaming, this only tells where the trunk will be found next time.
                Some(Control::Resume(trunk, answer)) => {
                    self.trunk = trunk;
                    let _told = answer.send(());
                }
                Some(Control::Stop) => return Ok(StopRequested),
            }
        }
    }

    /// Leaves the trunk alone until resumed, or told to stop.
    async fn pause(
        &mut self,
        applier: &mut Applier,
        answer: Answer,
    ) -> Result<Result<(), StopRequested>, Error> {
        applier.commit_all().await?;
        let is_any = triggers::are_disabled(&applier.session).await?;
        self.shared.update(|status| status.has_disabled_triggers = is_any);
        let position = applier.position();
        self.position = Some(position);
        self.shared.enter(Phase::Paused);
        // Who asked may have gone, and will not resume then.
        if answer.send(Ok(position)).is_ok()
            && let Err(stop) = self.stand_by(None, "paused").await
        {
            return Ok(Err(stop));
        }
        self.shared.enter(Phase::Streaming);
        Ok(Ok(()))
    }
}
