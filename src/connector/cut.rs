//! Cutting branches from a trunk whose applier stands still, at one commit of the source.
//!
//! ```text
//! freshness   a message emitted on the source now has been applied: everything before it has
//!             beside that, a checkpoint of the trunk if its log has grown long since the last
//! quiesce     the applier stands between two source transactions, its last commit durable
//! fork        one record in the store for each branch that waits, and the trunk's log since its
//!             last checkpoint
//! resume      the applier goes on
//! ```
//!
//! The trunk runs all the while. A branch recovers from its log, which is short: see `warm.rs`.
//! Requests that wait at the same time share one pause.
//!
//! A branch that is to be compared with the source is cut alone, where a snapshot of the source
//! stands: the applier waits for the snapshot, and stops before the first commit it does not see.

use std::time::{Duration, Instant, SystemTime};

use storage::BranchId;
use tokio::time::timeout;

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

/// A branch that was cut.
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
    /// Time the store took, and the copy of the log.
    pub fork: Duration,
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
    /// The trunk could not be forked.
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

type Waiting = (CutRequest, Reply<Cut, CutError>);

/// The trunk at a stand.
#[derive(Clone, Copy)]
struct Stand {
    position: Position,
    stale: bool,
    freshness_wait: Duration,
    quiesce: Duration,
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
                    self.fork_all(followed, waiting, stand).await;
                    followed.warm.keep();
                    return self.go_on(followed).await.err();
                }
                Err(error) if attempt == ATTEMPTS_MAX => {
                    refuse_all(waiting, &error);
                    return self.go_on(followed).await.err();
                }
                Err(error) => {
                    tracing::warn!(error = %Causes(&error), attempt, "trunk did not come to a stand");
                }
            }
            if let Err(next) = self.go_on(followed).await {
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
        self.go_on(followed).await.err()
    }

    /// Forks the trunk, whose applier stands.
    async fn fork_standing(
        &self,
        followed: &Followed,
        request: &CutRequest,
    ) -> Result<Link, CutError> {
        self.services.computes.fork(&followed.target, request.branch).await?;
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
        let (freshness_wait, since) = (begun.elapsed(), Instant::now());
        let paused = followed.stream.pause().await;
        let position = paused.map_err(|error| CutError::Trunk(error.to_string()))?;
        // Whoever gets a branch may ask at once what of the source is not in it.
        self.publish(followed);
        let quiesce = since.elapsed();
        Ok(Stand { position, stale, freshness_wait, quiesce })
    }

    /// Forks and replies.
    async fn fork_all(&self, followed: &Followed, waiting: Vec<Waiting>, stand: Stand) {
        for (request, reply) in waiting {
            let begun = Instant::now();
            let forked = self.services.computes.fork(&followed.target, request.branch).await;
            let cut = forked.map_err(CutError::Compute).map(|()| Cut {
                lsn: Some(stand.position.lsn),
                commit_time: stand.position.commit_time,
                stale: stand.stale,
                freshness_wait: stand.freshness_wait,
                quiesce: stand.quiesce,
                fork: begun.elapsed(),
            });
            // A requester that left finds its branch unfinished and undoes it.
            let _ = reply.send(cut);
        }
    }
}

fn refuse_all(waiting: Vec<Waiting>, error: &CutError) {
    for (_, reply) in waiting {
        // A requester that left needs no answer.
        let _ = reply.send(Err(error.clone()));
    }
}
