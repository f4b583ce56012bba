//! Rows from one server to the other, on the thread that both sockets are of.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use proxy::client::{self, Connection};
use tokio::sync::{Mutex, mpsc};

/// Rows are sent on by at least as much; one message per row would cost more than the row.
pub(super) const PIECE_BYTES: usize = 32 * 1024;
/// One long row may take more room, and does not keep it.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// After less than a piece the thread rests, so that there is more to read next time. What a socket
/// holds is read long before it is full.
const REST: Duration = Duration::from_micros(100);
/// Progress is told once per this many bytes.
const COUNT_BYTES: u64 = 8 << 20;

pub(super) struct Pump {
    /// Held for as long as rows pass.
    pub(super) source: Arc<Mutex<Connection>>,
    pub(super) trunk: Arc<Mutex<Connection>>,
    /// What ends with the COPY out of the one, and what with that into the other.
    pub(super) out: String,
    pub(super) into: String,
    pub(super) counts: mpsc::Sender<Count>,
}

/// What has passed since the last one.
#[derive(Default)]
pub(super) struct Count {
    pub(super) bytes: u64,
    pub(super) rows: u64,
}

/// Which side failed.
pub(super) enum PumpError {
    Source(client::Error),
    Trunk(client::Error),
    /// What the source said before the rows is not that they can be copied.
    Rewritten,
}

impl Pump {
    /// Returns once the trunk has taken all rows.
    pub(super) async fn run(self) -> Result<(), PumpError> {
        let (mut source, mut trunk) = (self.source.lock().await, self.trunk.lock().await);
        let mut said = None;
        let out = source.copy_out(&self.out, |value| said = value).await;
        let mut out = out.map_err(PumpError::Source)?;
        if said.as_deref() != Some("t") {
            return Err(PumpError::Rewritten);
        }
        let mut into = trunk.copy_in(&self.into).await.map_err(PumpError::Trunk)?;
        let mut piece = BytesMut::new();
        let mut count = Count::default();
        while let Some(rows) = out.read(&mut piece).await.map_err(PumpError::Source)? {
            count.rows += rows;
            if piece.len() < PIECE_BYTES {
                // Not awaited: an arrival would wake the thread that awaits.
                std::thread::sleep(REST);
                continue;
            }
            into.send(&piece).await.map_err(PumpError::Trunk)?;
            count.bytes += u64::try_from(piece.len()).unwrap_or(0);
            piece.clear();
            if piece.capacity() > PIECE_BYTES_MAX {
                piece = BytesMut::new();
            }
            if count.bytes >= COUNT_BYTES {
                self.tell(std::mem::take(&mut count)).await;
            }
        }
        into.send(&piece).await.map_err(PumpError::Trunk)?;
        into.finish().await.map_err(PumpError::Trunk)?;
        count.bytes += u64::try_from(piece.len()).unwrap_or(0);
        self.tell(count).await;
        Ok(())
    }

    async fn tell(&self, count: Count) {
        // Whoever does not listen any more has given the part up.
        drop(self.counts.send(count).await);
    }
}
