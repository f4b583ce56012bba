//! A source that was failed over: is its log still the one that the trunk was made from?
//!
//! A promoted standby goes on on a timeline of its own, from the last position that it had got. A
//! trunk that stands past that holds commits which its source has lost, and the same positions now
//! mean others. The timeline that is followed is kept in the progress row, so that an old primary
//! that comes back is told from the new one.

use proxy::client::ReplicationConnection;

use crate::lsn::Lsn;

use super::applier::Applier;
use super::error::{Error, at_source, at_trunk};
use super::progress::Progress;

/// Stops what would skip or mix commits.
pub(super) async fn check(
    connection: &mut ReplicationConnection,
    timeline: u32,
    progress: &Progress,
) -> Result<(), Error> {
    let before = progress.identity.timeline;
    if timeline == before {
        return Ok(());
    }
    let lost = |reason: &str| Err(Error::Unsafe(format!("source was failed over and {reason}")));
    // An ancestor has no history that would name its successors.
    if timeline < before {
        return lost("is on an older timeline than the trunk");
    }
    let rows =
        connection.command(&format!("TIMELINE_HISTORY {timeline}")).await.map_err(at_source)?;
    let history = rows
        .first()
        .and_then(|row| row.iter().find(|(column, _)| column == "content"))
        .and_then(|(_, content)| content.as_deref())
        .unwrap_or_default();
    match left_at(history, before) {
        Some(end) if progress.start() <= end => Ok(()),
        Some(_) => lost("has lost commits the trunk has"),
        None => lost("is on a timeline that does not descend from the trunk's"),
    }
}

/// Where a timeline was left for the next, as a history file has it: a line for each ancestor, with
/// its number, the position, and a reason.
fn left_at(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number: u32 = fields.next()?.parse().ok()?;
        if number != timeline {
            return None;
        }
        fields.next()?.parse().ok()
    })
}

impl Applier {
    /// To be called before anything of the timeline is applied.
    pub(super) async fn keep_timeline(&mut self, timeline: u32) -> Result<(), Error> {
        if self.progress.identity.timeline == timeline {
            return Ok(());
        }
        let sql = "UPDATE ardent.progress SET timeline = $1";
        self.session.execute(sql, &[&i64::from(timeline)]).await.map_err(at_trunk)?;
        self.progress.identity.timeline = timeline;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_histories() {
        let history = "1\t0/5000098\tno recovery target specified\n\n2\t0/90000A0\twhy not\n";
        assert_eq!(left_at(history, 1), Some(Lsn(0x0500_0098)));
        assert_eq!(left_at(history, 2), Some(Lsn(0x0900_00A0)));
        for damaged in ["", "3", "1", "1 x", "# 1 0/1", "\u{fffd}"] {
            assert_eq!(left_at(damaged, 1), None, "{damaged}");
        }
    }
}
