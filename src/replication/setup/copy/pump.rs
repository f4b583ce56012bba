//! Rows from one session to the other, on the thread that both are of.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use proxy::client::Session;
use tokio::sync::mpsc;
use tokio_postgres::{CopyInSink, Error as SqlError};

/// Rows are sent on in pieces of this size; one message per row would cost more than the row.
pub(super) const PIECE_BYTES: usize = 64 * 1024;
/// Progress is told once per this many bytes.
const COUNT_BYTES: u64 = 8 << 20;

pub(super) struct Pump {
    pub(super) source: Arc<Session>,
    pub(super) trunk: Arc<Session>,
    /// The COPY out of the one, and that into the other.
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
    Source(SqlError),
    Trunk(SqlError),
}

impl Pump {
    /// Returns once the trunk has taken all rows.
    pub(super) async fn run(self) -> Result<(), PumpError> {
        let rows = self.source.copy_out(&self.out).await.map_err(PumpError::Source)?;
        let mut rows = pin!(rows);
        let sink: CopyInSink<Bytes> =
            self.trunk.copy_in(&self.into).await.map_err(PumpError::Trunk)?;
        let mut sink = pin!(sink);
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let mut count = Count::default();
        while let Some(row) = rows.next().await {
            piece.extend_from_slice(&row.map_err(PumpError::Source)?);
            count.rows += 1;
            if piece.len() < PIECE_BYTES {
                continue;
            }
            count.bytes += u64::try_from(piece.len()).unwrap_or(0);
            sink.send(piece.split().freeze()).await.map_err(PumpError::Trunk)?;
            piece.reserve(PIECE_BYTES);
            if count.bytes >= COUNT_BYTES {
                self.tell(std::mem::take(&mut count)).await;
            }
        }
        count.bytes += u64::try_from(piece.len()).unwrap_or(0);
        sink.send(piece.freeze()).await.map_err(PumpError::Trunk)?;
        sink.finish().await.map_err(PumpError::Trunk)?;
        self.tell(count).await;
        Ok(())
    }

    async fn tell(&self, count: Count) {
        // Whoever does not listen any more has given the part up.
        drop(self.counts.send(count).await);
    }
}
