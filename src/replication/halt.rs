//! Where the applier is to stop and release the trunk.
//!
//! | halt | due | then |
//! |---|---|---|
//! | `Boundary` | at the end of the source transaction in progress | release |
//! | `Ahead` | there too | say so, learn a position, go on as `Before` it |
//! | `Before` | when the next transaction's commit is at or after the position | release |

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::lsn::Lsn;

use super::change::Event;
use super::error::Error;
use super::status::Position;

/// Longest stand before the position is known: branches wait as long.
pub(super) const STANDING_MAX: Duration = Duration::from_secs(15);

pub(super) type Answer = oneshot::Sender<Result<Position, Error>>;

/// A halt that somebody waits for.
pub(super) struct Halt {
    place: Place,
    answer: Answer,
}

enum Place {
    Boundary,
    Ahead { standing: oneshot::Sender<()>, target: oneshot::Receiver<Lsn> },
    Before(Lsn),
}

/// What to do at a halt that was due.
pub(super) enum Arrival {
    /// Release the trunk and answer.
    Release(Answer),
    /// Go on, to another halt or to none.
    GoOn(Option<Halt>),
}

impl Halt {
    pub(super) fn at_boundary(answer: Answer) -> Self {
        Self { place: Place::Boundary, answer }
    }

    /// Also: hears that the applier stands, and tells it how far to go.
    pub(super) fn ahead(answer: Answer) -> (Self, oneshot::Receiver<()>, oneshot::Sender<Lsn>) {
        let (standing, stands) = oneshot::channel();
        let (sender, target) = oneshot::channel();
        (Self { place: Place::Ahead { standing, target }, answer }, stands, sender)
    }

    /// To be asked at a boundary, with the event to come next if it is there.
    pub(super) fn is_due(&self, next: Option<&Event>) -> bool {
        match (&self.place, next) {
            (Place::Before(end), Some(Event::Begin(commit))) => commit >= end,
            (Place::Before(_), _) => false,
            _ => true,
        }
    }

    pub(super) async fn arrive(self) -> Arrival {
        let Place::Ahead { standing, target } = self.place else {
            return Arrival::Release(self.answer);
        };
        // Whoever asked may have given up, before this or while it stands.
        if standing.send(()).is_err() {
            return Arrival::GoOn(None);
        }
        match timeout(STANDING_MAX, target).await {
            Ok(Ok(end)) => {
                Arrival::GoOn(Some(Self { place: Place::Before(end), answer: self.answer }))
            }
            _ => Arrival::GoOn(None),
        }
    }

    /// The answer, if the trunk is released anyhow and any position will do.
    pub(super) fn into_answer(self, reason: &str) -> Option<Answer> {
        if matches!(self.place, Place::Boundary) {
            return Some(self.answer);
        }
        // Whoever asked may have gone.
        let _told = self.answer.send(Err(Error::NotRunning(reason.to_owned())));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_applier_goes_on_to_the_position_it_is_told() {
        let (answer, _answered) = oneshot::channel();
        let (halt, stands, target) = Halt::ahead(answer);
        assert!(halt.is_due(None));
        target.send(Lsn(10)).unwrap();
        let Arrival::GoOn(Some(halt)) = halt.arrive().await else { panic!("released") };
        stands.await.unwrap();
        assert!(!halt.is_due(None) && !halt.is_due(Some(&Event::Begin(Lsn(9)))));
        assert!(halt.is_due(Some(&Event::Begin(Lsn(10)))));
        assert!(matches!(halt.arrive().await, Arrival::Release(_)));
    }

    #[tokio::test]
    async fn an_applier_goes_on_when_nobody_waits_for_it() {
        let (answer, _answered) = oneshot::channel();
        let (halt, _stands, target) = Halt::ahead(answer);
        drop(target);
        assert!(matches!(halt.arrive().await, Arrival::GoOn(None)));
    }
}
