//! A connection in logical replication mode (`replication=database`).
//!
//! Protocol: "Streaming Replication Protocol". After START_REPLICATION the server sends CopyData
//! messages, each an XLogData (`w`: start, end, clock, payload) or a keepalive (`k`: end, clock,
//! reply requested); we send standby status updates (`r`). Notices may come at any time: a plugin
//! says by notice that it could not send a change, so they are events here.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};

use super::connection::{Connection, Event, Incoming};
use super::dial::Purpose;
use super::error::Error;
use super::message::ServerMessage;
use super::target::Target;

/// A walsender at the other end.
pub struct ReplicationConnection {
    connection: Connection,
}

/// What a walsender says while it streams.
#[derive(Debug)]
pub enum ReplicationEvent {
    /// One payload of the output plugin.
    Data {
        /// Log position the payload belongs to.
        start: u64,
        /// The payload.
        payload: Bytes,
    },
    /// The server's position, sent when it has nothing else to say or wants a sign of life.
    Keepalive {
        /// Everything before this position has been sent.
        end: u64,
        /// The server wants a status update now.
        reply_requested: bool,
    },
    /// A notice or warning.
    Notice(ServerMessage),
    /// The server ended the stream.
    End,
}

/// What we tell the walsender: positions up to which everything is written, flushed, applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received.
    pub written: u64,
    /// Durable. The slot moves here and the server forgets what lies before.
    pub flushed: u64,
    /// Visible.
    pub applied: u64,
    /// Microseconds since 2000-01-01.
    pub clock_us: i64,
    /// Ask for a keepalive in answer.
    pub reply_requested: bool,
}

/// XLogData before its payload: tag, start, end, clock.
const DATA_HEADER_BYTES: usize = 25;
/// Keepalive: tag, end, clock, flag.
const KEEPALIVE_BYTES: usize = 18;

impl ReplicationConnection {
    /// Connects in replication mode.
    pub async fn open(target: &Target) -> Result<Self, Error> {
        let connection = Connection::open_for(target, Purpose::Replication).await?;
        Ok(Self { connection })
    }

    /// Runs a replication command such as IDENTIFY_SYSTEM; the rows as (column name, value).
    pub async fn command(
        &mut self,
        command: &str,
    ) -> Result<Vec<Vec<(String, Option<String>)>>, Error> {
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        self.connection
            .query(command, |event| match event {
                Event::Columns(names) => columns = names,
                Event::Row(values) => {
                    rows.push(columns.iter().cloned().zip(values).collect());
                }
                Event::Notice(_) | Event::Complete(_) => {}
            })
            .await?;
        Ok(rows)
    }

    /// Starts streaming. After an error nothing was consumed, and another command may follow.
    pub async fn start(
        &mut self,
        slot: &str,
        position: &str,
        options: &[(String, String)],
    ) -> Result<(), Error> {
        let options: Vec<String> = options
            .iter()
            .map(|(name, value)| format!("{} {}", quote_identifier(name), quote_literal(value)))
            .collect();
        let slot = quote_identifier(slot);
        let command =
            format!("START_REPLICATION SLOT {slot} LOGICAL {position} ({})", options.join(", "));
        let mut request = BytesMut::new();
        frontend::query(&command, &mut request)?;
        self.connection.send(&request).await?;
        let mut failure = None;
        loop {
            match self.connection.next().await? {
                Incoming::CopyBoth => return Ok(()),
                Incoming::Error(message) => failure = Some(message),
                Incoming::Message(Message::ReadyForQuery(_)) => {
                    return Err(
                        failure.map_or(Error::Protocol("replication did not start"), Error::Server)
                    );
                }
                _ => {}
            }
        }
    }

    /// The next event. May be dropped at any await and called again.
    pub async fn next(&mut self) -> Result<ReplicationEvent, Error> {
        loop {
            if let Some(event) = self.buffered()? {
                return Ok(event);
            }
            self.connection.fill().await?;
        }
    }

    /// The next event if it has been read already: lets a caller take what there is without
    /// waiting.
    pub fn buffered(&mut self) -> Result<Option<ReplicationEvent>, Error> {
        loop {
            let Some(incoming) = self.connection.buffered()? else { return Ok(None) };
            let event = match incoming {
                Incoming::Data(data) => decode(data)?,
                Incoming::Notice(notice) => ReplicationEvent::Notice(notice),
                Incoming::Error(message) => return Err(Error::Server(message)),
                Incoming::Message(Message::ParameterStatus(_)) => continue,
                Incoming::Message(
                    Message::CopyDone | Message::CommandComplete(_) | Message::ReadyForQuery(_),
                ) => ReplicationEvent::End,
                Incoming::Message(_) | Incoming::CopyBoth => {
                    return Err(Error::Protocol("unexpected message in a replication stream"));
                }
            };
            return Ok(Some(event));
        }
    }

    /// Tells the server where we stand.
    pub async fn send_status(&mut self, status: StandbyStatus) -> Result<(), Error> {
        let mut body = BytesMut::new();
        body.put_u8(b'r');
        body.put_u64(status.written);
        body.put_u64(status.flushed);
        body.put_u64(status.applied);
        body.put_i64(status.clock_us);
        body.put_u8(u8::from(status.reply_requested));
        let mut message = BytesMut::new();
        CopyData::new(body.freeze())?.write(&mut message);
        self.connection.send(&message).await
    }

    /// Ends the session.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

fn decode(mut data: Bytes) -> Result<ReplicationEvent, Error> {
    match data.first() {
        Some(b'w') if data.len() >= DATA_HEADER_BYTES => {
            data.advance(1);
            let start = data.get_u64();
            data.advance(DATA_HEADER_BYTES - 9);
            Ok(ReplicationEvent::Data { start, payload: data })
        }
        Some(b'k') if data.len() >= KEEPALIVE_BYTES => {
            data.advance(1);
            let end = data.get_u64();
            data.advance(8);
            Ok(ReplicationEvent::Keepalive { end, reply_requested: data.get_u8() != 0 })
        }
        _ => Err(Error::Protocol("malformed copy data in a replication stream")),
    }
}

/// A name as SQL takes it whatever it contains.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Replication commands know no escape strings: a quote is doubled and nothing else is special.
fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_a_walsender_sends() {
        let mut data = BytesMut::from(&b"w"[..]);
        data.put_u64(7);
        data.put_u64(8);
        data.put_i64(9);
        data.put_slice(b"{}");
        let whole = data.freeze();
        let ReplicationEvent::Data { start, payload } = decode(whole.clone()).unwrap() else {
            panic!("not data");
        };
        assert_eq!((start, &payload[..]), (7, &b"{}"[..]));
        for length in 0..DATA_HEADER_BYTES {
            assert!(decode(whole.slice(..length)).is_err());
        }
    }

    #[test]
    fn quotes_names() {
        assert_eq!(quote_identifier("a\"b C"), "\"a\"\"b C\"");
        assert_eq!(quote_literal("a'b\\"), "'a''b\\'");
    }
}
