//! Following the source: the stream runs, the trunk is kept running under it, branches are cut.
//!
//! A trunk whose first copy went on after it was cut short is followed before it is ready, until
//! its tables are at one position. Nothing is cut from it meanwhile.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::setup;
use super::warm::Warm;
use super::worker::{Command, Next, Worker};
use super::{ConnectorError, SetupError};
use crate::catalog::ConnectorState;
use crate::cause::Causes;
use crate::compute::{ComputeTarget, Lease};
use crate::replication::{Phase, Replication, SetupProgress, Stage, Status, TrunkAccess};

/// How often what the stream says is looked at and shown.
const LOOK: Duration = Duration::from_millis(500);
/// Pause before a trunk that died is started again; doubled with each failure in a row.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// A trunk under its stream.
pub(super) struct Followed {
    pub(super) target: ComputeTarget,
    pub(super) stream: Replication,
    /// Keeps the trunk's compute; none while it is started again.
    pub(super) lease: Option<Lease>,
    /// Keeps its log short for a while after each cut.
    pub(super) warm: Warm,
}

impl Worker {
    /// Follows the source until something ends it.
    pub(super) async fn follow(&mut self) -> Next {
        let mut followed = match self.begin_following().await {
            Ok(followed) => followed,
            Err(SetupError::Stopping) => return Next::Stop,
            Err(error) => {
                return Next::State(ConnectorState::Broken, Some(Causes(&error).to_string()));
            }
        };
        let next = self.keep_following(&mut followed).await;
        self.publish(&followed);
        followed.stream.stop().await;
        next
    }

    /// Follows the source until the trunk's tables are at one position. What ends it before leaves
    /// nothing, as any setup that fails.
    pub(super) async fn catch_up(&mut self) -> Next {
        let stage = Stage::CatchUp;
        tracing::info!(connector = %self.record.made.name, stage = stage.as_str(), "setup");
        let progress = SetupProgress { stage, ..SetupProgress::default() };
        self.view.send_modify(|view| view.setup = Some(progress));
        let next = self.follow().await;
        self.view.send_modify(|view| view.setup = None);
        match next {
            Next::State(ConnectorState::Broken, reason) => {
                setup::abandon(&self.services, &self.record, &self.source).await;
                Next::State(ConnectorState::SetupPending, reason)
            }
            next => next,
        }
    }

    async fn begin_following(&mut self) -> Result<Followed, SetupError> {
        let trunk = setup::find_trunk(&self.services, &self.record)?.ok_or(SetupError::NoTrunk)?;
        let target = ComputeTarget::of(&trunk);
        let link = setup::link(&self.services, &self.record, &self.source)?;
        let lease = self.wake_trunk(&target).await?;
        let access = access(&lease, &target);
        self.view.send_modify(|view| view.major = Some(target.major));
        let mut warm = Warm::new(lease.compute().clone());
        // Its last checkpoint is one of a shutdown, which is no good for the first cut either.
        warm.keep();
        let stream = Replication::start(link, access);
        Ok(Followed { target, stream, lease: Some(lease), warm })
    }

    /// Starts the trunk, however often that takes: it fails only while the host is in trouble.
    async fn wake_trunk(&self, target: &ComputeTarget) -> Result<Lease, SetupError> {
        let mut pause = RESTART_PAUSE_MIN;
        loop {
            match self.services.computes.wake(target.clone()).await {
                Ok(lease) => return Ok(lease),
                Err(error) => tracing::error!(error = %Causes(&error), "start trunk"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(SetupError::Stopping),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
    }

    async fn keep_following(&mut self, followed: &mut Followed) -> Next {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(command) = self.deferred.pop_front() {
                match self.obey(followed, command).await {
                    Some(next) => return next,
                    None => continue,
                }
            }
            let exit = trunk_exit(followed);
            tokio::select! {
                () = self.stop.cancelled() => return Next::Stop,
                () = exit => {
                    tracing::error!(connector = %self.record.made.name, "trunk ended; restarting it");
                    if let Err(error) = self.go_on(followed).await {
                        return error;
                    }
                }
                _ = looks.tick() => {
                    self.publish(followed);
                    let status = followed.stream.status();
                    if let Phase::Stopped { reason } = status.phase {
                        return Next::State(ConnectorState::Broken, Some(reason));
                    }
                    if !self.is_ready() && is_even(&status) {
                        return Next::State(ConnectorState::Ready, None);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.deferred.push_back(command),
                    None => return Next::Stop,
                },
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.record.state == ConnectorState::Ready
    }

    async fn obey(&mut self, followed: &mut Followed, command: Command) -> Option<Next> {
        match command {
            Command::Retry(_, reply) => drop(reply.send(Ok(()))),
            Command::Cut(_, reply) if !self.is_ready() => {
                drop(reply.send(Err(self.not_ready())));
            }
            Command::CutAtReference(_, reply) if !self.is_ready() => {
                drop(reply.send(Err(self.not_ready())));
            }
            Command::Cut(request, reply) => return self.cut(followed, request, reply).await,
            Command::Release(table, reply) => {
                let released = followed.stream.release(table).await;
                self.publish(followed);
                let refused = |error| ConnectorError::NotFollowing(Some(error));
                drop(reply.send(released.map_err(refused)));
            }
            Command::CutAtReference(request, reply) => {
                return self.cut_at_reference(followed, request, reply).await;
            }
            Command::Delete(drain, reply) => {
                if let Some(limit) = drain
                    && !self.drain(followed, limit).await
                {
                    drop(reply.send(Err(ConnectorError::NotDrained(limit))));
                    return None;
                }
                return Some(Next::Delete(reply));
            }
        }
        None
    }

    /// Waits until what the source has committed by now is applied; false if that took too long.
    async fn drain(&self, followed: &Followed, limit: Duration) -> bool {
        matches!(timeout(limit, followed.stream.barrier()).await, Ok(Ok(_)))
    }

    /// Lets the stream go on in the trunk, which is started again if it does not run.
    pub(super) async fn go_on(&self, followed: &mut Followed) -> Result<(), Next> {
        followed.lease = None;
        let lease = self.wake_trunk(&followed.target).await.map_err(|_| Next::Stop)?;
        let access = access(&lease, &followed.target);
        followed.lease = Some(lease);
        followed
            .stream
            .resume(access)
            .await
            .map_err(|error| Next::State(ConnectorState::Broken, Some(Causes(&error).to_string())))
    }

    pub(super) fn publish(&self, followed: &Followed) {
        let status = followed.stream.status();
        self.view.send_if_modified(|view| {
            let changed = view.status != status;
            view.status = status;
            changed
        });
    }
}

/// What the stream has found in the trunk, and not what it has not looked for yet.
fn is_even(status: &Status) -> bool {
    status.phase == Phase::Streaming
        && !status.is_uneven
        && !status.quarantined.iter().any(|entry| entry.is_resync_due)
}

fn access(lease: &Lease, target: &ComputeTarget) -> TrunkAccess {
    TrunkAccess {
        socket_dir: lease.compute().socket_dir().to_owned(),
        database: target.database.clone(),
    }
}

/// Resolves when the trunk's compute has ended by itself.
fn trunk_exit(followed: &Followed) -> impl Future<Output = ()> + use<> {
    let compute = followed.lease.as_ref().map(|lease| lease.compute().clone());
    async move {
        match compute {
            Some(compute) => drop(compute.wait_exit().await),
            None => std::future::pending().await,
        }
    }
}
