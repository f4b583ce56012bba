//! Between two lives of a stream: after a failure, when no trunk connection is open, or paused.
//!
//! Must never: take a pause for granted that was refused, since nobody ends it then.

use std::time::Duration;

use tokio::time::sleep;

use super::super::error::Error;
use super::{Control, Position, StopRequested, Stream};

/// A backend whose client is gone ends after its statement, which is a round at most.
const ASK_ATTEMPTS: u32 = 40;
const ASK_PAUSE: Duration = Duration::from_millis(50);

impl Stream {
    /// Waits for the next attempt: for a while, or until told to go on. A pause is granted at once,
    /// as nothing is at work in the trunk, and lasts until resumed; it is refused while somebody
    /// else has the trunk.
    pub(super) async fn stand_by(
        &mut self,
        limit: Option<Duration>,
        reason: &str,
    ) -> Result<(), StopRequested> {
        let mut limit = limit;
        loop {
            let wait = async {
                match limit {
                    Some(limit) => sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let control = tokio::select! {
                control = self.controls.recv() => control,
                () = wait => return Ok(()),
            };
            match control {
                Some(Control::Pause(halt)) => {
                    let Some(answer) = halt.into_answer(reason) else { continue };
                    let Some(position) = self.position_at_rest().await else {
                        // Refused: nobody is going to resume.
                        let _told = answer.send(Err(Error::NotRunning(reason.to_owned())));
                        continue;
                    };
                    // A caller that went away will not resume either.
                    if answer.send(Ok(position)).is_ok() {
                        limit = None;
                    }
                }
                Some(Control::Resume(trunk, answer)) => {
                    self.trunk = trunk;
                    let _told = answer.send(());
                    return Ok(());
                }
                Some(Control::Release(_, answer)) => {
                    let _told = answer.send(Err(Error::NotRunning(reason.to_owned())));
                }
                Some(Control::Stop) | None => return Err(StopRequested),
            }
        }
    }

    /// Where the trunk stands while no applier of ours is at work; it knows itself, if something
    /// was applied since it was seen or the server has only started.
    async fn position_at_rest(&mut self) -> Option<Position> {
        for _ in 0..ASK_ATTEMPTS {
            if self.position.is_some() {
                break;
            }
            match self.begin_applier().await {
                Ok(applier) => applier.close().await,
                // One that failed is still at its last statement; nothing tells us of its end.
                Err(Error::Busy) => sleep(ASK_PAUSE).await,
                Err(_) => break,
            }
        }
        self.position
    }
}
