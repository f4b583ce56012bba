//! One connection on which every message of the server is ours to see.
//!
//! Invariants:
//! * [`Connection::next`] may be dropped at any await and called again: what was read of a message
//!   stays in the buffer, so the framing is never lost.
//! * No message longer than the limit is buffered.

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::auth;
use super::dial::{Attempt, Stream, attempts, dial_as, within};
use super::error::Error;
use super::message::ServerMessage;
use super::target::Target;

/// Postgres itself cannot make a message longer than 1 GiB (`MaxAllocSize`).
const MESSAGE_BYTES_MAX: usize = 1 << 30;
const READ_CHUNK_BYTES: usize = 64 * 1024;

/// A connection after authentication; simple query protocol only.
pub struct Connection {
    stream: Stream,
    incoming: BytesMut,
    limit: usize,
}

/// What the server says while a SQL text runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A notice, as it was raised.
    Notice(ServerMessage),
    /// The names of the columns of the rows that follow.
    Columns(Vec<String>),
    /// One row, in text form.
    Row(Vec<Option<String>>),
    /// A statement is done; the command tag.
    Complete(String),
}

/// One message of the server, the kinds that matter here told apart.
pub(super) enum Incoming {
    /// CopyBothResponse, which postgres-protocol does not know.
    CopyBoth,
    /// CopyData.
    Data(Bytes),
    /// NoticeResponse.
    Notice(ServerMessage),
    /// ErrorResponse.
    Error(Box<ServerMessage>),
    /// Any other.
    Message(Message),
}

/// Runs one SQL text, hands on what arrives as it arrives, and ends with the server's error if
/// there was one.
pub async fn run(
    target: &Target,
    sql: &str,
    on_event: impl FnMut(Event) + Send,
) -> Result<(), Error> {
    let mut connection = Connection::open(target).await?;
    let outcome = connection.query(sql, on_event).await;
    connection.close().await;
    outcome
}

impl Connection {
    /// Connects and authenticates.
    pub async fn open(target: &Target) -> Result<Self, Error> {
        Self::open_with(target, &[]).await
    }

    pub(super) async fn open_with(
        target: &Target,
        parameters: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let mut refused = None;
        for attempt in attempts(target) {
            match Self::open_once(target, *attempt, parameters).await {
                Err(error) if error.is_host_based_refusal() && refused.is_none() => {
                    refused = Some(error);
                }
                // The second way round says less than the first: `pg_hba.conf` refused both.
                Err(error) if error.is_host_based_refusal() => break,
                outcome => return outcome,
            }
        }
        Err(refused.unwrap_or(Error::TlsRefused))
    }

    async fn open_once(
        target: &Target,
        attempt: Attempt,
        parameters: &[(&str, &str)],
    ) -> Result<Self, Error> {
        let stream = dial_as(target, attempt).await?;
        let mut connection = Self { stream, incoming: BytesMut::new(), limit: MESSAGE_BYTES_MAX };
        within(target, auth::start(&mut connection, target, parameters)).await?;
        Ok(connection)
    }

    /// Runs one SQL text in the simple protocol.
    pub async fn query(
        &mut self,
        sql: &str,
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<(), Error> {
        let mut request = BytesMut::new();
        frontend::query(sql, &mut request)?;
        self.send(&request).await?;
        let mut failure = None;
        loop {
            match self.next().await? {
                Incoming::Notice(notice) => on_event(Event::Notice(notice)),
                Incoming::Error(message) => failure = Some(message),
                Incoming::Message(Message::RowDescription(body)) => {
                    let names = body.fields().map(|field| Ok(field.name().to_owned())).collect()?;
                    on_event(Event::Columns(names));
                }
                Incoming::Message(Message::DataRow(body)) => on_event(Event::Row(row(&body)?)),
                Incoming::Message(Message::CommandComplete(body)) => {
                    on_event(Event::Complete(body.tag()?.to_owned()));
                }
                Incoming::Message(Message::ReadyForQuery(_)) => {
                    return failure.map_or(Ok(()), |message| Err(Error::Server(message)));
                }
                Incoming::Message(Message::ParameterStatus(_) | Message::EmptyQueryResponse) => {}
                _ => return Err(Error::Protocol("unexpected message in answer to a query")),
            }
        }
    }

    /// Says goodbye. A connection that is merely dropped is closed too, less politely.
    pub async fn close(mut self) {
        let mut goodbye = BytesMut::new();
        frontend::terminate(&mut goodbye);
        // A peer that is already gone needs no goodbye.
        drop(self.send(&goodbye).await);
        drop(self.stream.shutdown().await);
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    pub(super) async fn next(&mut self) -> Result<Incoming, Error> {
        loop {
            if let Some(incoming) = self.buffered()? {
                return Ok(incoming);
            }
            self.fill().await?;
        }
    }

    /// The next message, if all of it has been read already.
    pub(super) fn buffered(&mut self) -> Result<Option<Incoming>, Error> {
        let Some(header) = Header::parse(&self.incoming)? else { return Ok(None) };
        // The length counts itself but not the tag.
        let total = usize::try_from(header.len())
            .map_err(|_| Error::Protocol("negative message length"))?
            .saturating_add(1);
        if total > self.limit {
            return Err(Error::MessageTooLarge { bytes: total, limit: self.limit });
        }
        if self.incoming.len() < total {
            self.incoming.reserve((total - self.incoming.len()).max(READ_CHUNK_BYTES));
            return Ok(None);
        }
        if !matches!(header.tag(), b'W' | b'd') {
            return self.parse();
        }
        let mut message = self.incoming.split_to(total);
        message.advance(HEADER_BYTES);
        Ok(Some(match header.tag() {
            b'W' => Incoming::CopyBoth,
            _ => Incoming::Data(message.freeze()),
        }))
    }

    fn parse(&mut self) -> Result<Option<Incoming>, Error> {
        let Some(message) = Message::parse(&mut self.incoming)? else { return Ok(None) };
        Ok(Some(match message {
            Message::ErrorResponse(body) => {
                Incoming::Error(Box::new(ServerMessage::parse(body.fields())?))
            }
            Message::NoticeResponse(body) => Incoming::Notice(ServerMessage::parse(body.fields())?),
            other => Incoming::Message(other),
        }))
    }

    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        self.incoming.reserve(READ_CHUNK_BYTES);
        match self.stream.read_buf(&mut self.incoming).await? {
            0 => Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

/// Tag and length.
const HEADER_BYTES: usize = 5;

fn row(body: &DataRowBody) -> Result<Vec<Option<String>>, Error> {
    let buffer = body.buffer();
    let text = |range: std::ops::Range<usize>| {
        buffer.get(range).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(body.ranges().map(|range| Ok(range.and_then(text))).collect()?)
}
