//! Cutting branches from a trunk that stands still, at one commit of the source.
//!
//! ```text
//! freshness   a message emitted on the source now has been applied: everything before it has
//!             beside that, a checkpoint of the trunk if its log has grown since the last
//! quiesce     the applier stands between two source transactions; fast shutdown of the trunk
//! fork        one record in the store for each branch that waits
//! resume      the trunk starts again once the branches are up, soon in any case
//! ```
//!
//! The trunk was shut down cleanly, so a branch needs no recovery. The checkpoint beforehand is for
//! the trunk: it shortens the shutdown, for which the applier waits. Requests that wait at the same
//! time share one pause.
//!
//! A branch that is to be compared with the source is cut alone, where a snapshot of the source
//! stands: the applier waits for the snapshot, and stops before the first commit it does not see.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use storage::BranchId;
use tokio::sync::oneshot;
use tokio::time::{timeout, timeout_at};

use super::follow::Followed;
use super::worker::{Command, Next, Reply, Worker};
use crate::cause::Causes;
use crate::compute::ComputeError;
use crate::lsn::Lsn;
use crate::replication::{Link, Position, Reference};

/// A branch to cut.
#[derive(Clone, Copy, Debug)]
pub struct CutRequest {
    /// Its number.
    pub branch: BranchId,
    /// Longest wait for the trunk to reach the source's present position.
    pub freshness_timeout: Duration,
}

/// A branch that was cut. As long as it is held, but not for long, the trunk stays down and leaves
/// the processors to the branch's start.
#[derive(Debug)]
pub struct Cut {
    /// The source position it equals.
    pub lsn: Option<Lsn>,
    /// When the source committed that.
    pub commit_time: Option<SystemTime>,
    /// The source's present position was not reached in time.
    pub stale: bool,
    /// Time until the trunk had what the source had.
    pub freshness_wait: Duration,
    /// Time until the trunk stood still.
    pub quiesce: Duration,
    /// Time the store took.
    pub fork: Duration,
    /// Told when the cut is dropped; none if no trunk waits.
    pub(crate) start: Option<oneshot::Sender<()>>,
}

/// A branch that was cut to be compared with the source.
pub struct ReferenceCut {
    /// What it has to equal.
    pub reference: Reference,
    /// What of the source is followed.
    pub link: Link,
}

/// Why a branch was not cut.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CutError {
    /// Setup is not done, or the stream has stopped.
    #[error("connector \"{name}\" is not ready for branches (current state: {state})")]
    NotReady {
        /// The connector.
        name: String,
        /// Its state.
        state: &'static str,
        /// Why.
        message: Option<String>,
    },
    /// The trunk could not be brought to a stand.
    #[error("trunk could not be cut: {0}")]
    Trunk(String),
    /// The trunk's compute did not stop.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// The server is stopping.
    #[error("server is shutting down")]
    Stopping,
}

/// A trunk that dies under a cut is started again and the cut is tried again.
const ATTEMPTS_MAX: u32 = 3;
/// Longest wait for the trunk to stand where a snapshot of the source does; other branches wait.
const REFERENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// The trunk starts again when the branches are up, and in any case when the applier has waited so
/// long: with the start that makes less than 100 ms on a host that is not busy.
const HOLD_MAX: Duration = Duration::from_millis(65);

type Waiting = (CutRequest, Reply<Cut, CutError>);

/// The trunk at a stand.
#[derive(Clone, Copy)]
struct Stand {
    position: Position,
    stale: bool,
    freshness_wait: Duration,
    quiesce: Duration,
    /// When the applier was told to wait.
    since: tokio::time::Instant,
}

impl Worker {
    /// Cuts the branch, and with it all others that wait. Returns a state to go to if the trunk
    /// cannot be followed any more.
    pub(super) async fn cut(
        &mut self,
        followed: &mut Followed,
        request: CutRequest,
        reply: Reply<Cut, CutError>,
    ) -> Option<Next> {
        let waiting = self.gather((request, reply));
        for attempt in 1..=ATTEMPTS_MAX {
            match self.bring_to_stand(followed, request.freshness_timeout).await {
                Ok(stand) => {
                    let starts = self.fork_all(followed, waiting, stand).await;
                    // Whether they are up or late: the stream must go on.
                    let _ = timeout_at(stand.since + HOLD_MAX, join_all(starts)).await;
                    return self.restart_trunk(followed).await.err();
                }
                Err(error) if attempt == ATTEMPTS_MAX => {
                    refuse_all(waiting, &error);
                    return self.restart_trunk(followed).await.err();
                }
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), attempt, "trunk did not come to a stand");
                }
            }
            if let Err(next) = self.restart_trunk(followed).await {
                refuse_all(waiting, &CutError::Stopping);
                return Some(next);
            }
        }
        None
    }

    /// Cuts a branch where a snapshot of the source stands.
    pub(super) async fn cut_at_reference(
        &mut self,
        followed: &mut Followed,
        request: CutRequest,
        reply: Reply<ReferenceCut, CutError>,
    ) -> Option<Next> {
        let pausing = timeout(REFERENCE_TIMEOUT, followed.stream.pause_at_reference()).await;
        let reference = match pausing {
            Ok(Ok((_, reference))) => reference,
            // The trunk goes on by itself where nobody waits for its pause.
            failed => {
                let said = match failed {
                    Ok(Err(error)) => error.chain(),
                    _ => "it did not reach the source's position in time".to_owned(),
                };
                let _ = reply.send(Err(CutError::Trunk(said)));
                return None;
            }
        };
        let outcome = self.fork_standing(followed, &request).await;
        match outcome {
            Ok(link) => {
                if let Err(Ok(left)) = reply.send(Ok(ReferenceCut { reference, link })) {
                    left.reference.release().await;
                }
            }
            Err(error) => {
                reference.release().await;
                let _ = reply.send(Err(error));
            }
        }
        self.restart_trunk(followed).await.err()
    }

    /// Forks the trunk, whose applier stands, shut down.
    async fn fork_standing(
        &self,
        followed: &mut Followed,
        request: &CutRequest,
    ) -> Result<Link, CutError> {
        followed.lease = None;
        let computes = &self.services.computes;
        computes.stop(followed.target.branch).await?;
        computes.fork(&followed.target, request.branch).await?;
        super::setup::link(&self.services, &self.record, &self.source)
            .map_err(|error| CutError::Trunk(Causes(&error).to_string()))
    }

    /// Takes the cuts from the queue that wait as long as this one; all else keeps its place.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let freshness_timeout = first.0.freshness_timeout;
        while let Ok(command) = self.commands.try_recv() {
            self.deferred.push_back(command);
        }
        let mut waiting = vec![first];
        for command in std::mem::take(&mut self.deferred) {
            match command {
                Command::Cut(request, reply) if request.freshness_timeout == freshness_timeout => {
                    waiting.push((request, reply));
                }
                other => self.deferred.push_back(other),
            }
        }
        waiting
    }

    async fn bring_to_stand(
        &self,
        followed: &mut Followed,
        freshness_timeout: Duration,
    ) -> Result<Stand, CutError> {
        let begun = Instant::now();
        let (computes, trunk) = (&self.services.computes, followed.target.branch);
        let (fresh, _) = tokio::join!(
            timeout(freshness_timeout, followed.stream.barrier()),
            timeout(freshness_timeout, computes.shorten_wal(trunk))
        );
        let stale = !matches!(fresh, Ok(Ok(_)));
        let freshness_wait = begun.elapsed();
        let since = tokio::time::Instant::now();
        let paused = followed.stream.pause().await;
        let position = paused.map_err(|error| CutError::Trunk(error.to_string()))?;
        // Whoever gets a branch may ask at once what of the source is not in it.
        self.publish(followed);
        followed.lease = None;
        computes.stop(trunk).await?;
        let quiesce = since.elapsed();
        Ok(Stand { position, stale, freshness_wait, quiesce, since })
    }

    /// Forks and replies. Each receiver ends when the branch is up or given up.
    async fn fork_all(
        &self,
        followed: &Followed,
        waiting: Vec<Waiting>,
        stand: Stand,
    ) -> Vec<oneshot::Receiver<()>> {
        let mut starts = Vec::new();
        for (request, reply) in waiting {
            let begun = Instant::now();
            let forked = self.services.computes.fork(&followed.target, request.branch).await;
            let (start, started) = oneshot::channel();
            let cut = forked.map_err(CutError::Compute).map(|()| Cut {
                lsn: Some(stand.position.lsn),
                commit_time: stand.position.commit_time,
                stale: stand.stale,
                freshness_wait: stand.freshness_wait,
                quiesce: stand.quiesce,
                fork: begun.elapsed(),
                start: Some(start),
            });
            // A requester that left finds its branch unfinished and undoes it.
            let _ = reply.send(cut);
            starts.push(started);
        }
        starts
    }
}

fn refuse_all(waiting: Vec<Waiting>, error: &CutError) {
    for (_, reply) in waiting {
        // A requester that left needs no answer.
        let _ = reply.send(Err(error.clone()));
    }
}
