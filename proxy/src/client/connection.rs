//! One connection on which every message of the server is ours to see.
//!
//! Invariants:
//! * Any call may be dropped at any await and another made: what was read or is to be written of a
//!   message stays in a buffer, so the framing is never lost, and what is still due of a query that
//!   was given up is read and dropped before the next one.
//! * No message longer than the limit is buffered.

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::auth;
use super::dial::{Attempt, Purpose, Stream, attempts, dial_as, within};
use super::error::Error;
use super::message::ServerMessage;
use super::target::Target;

/// Postgres itself cannot make a message longer than 1 GiB (`MaxAllocSize`).
const MESSAGE_BYTES_MAX: usize = 1 << 30;
pub(super) const READ_CHUNK_BYTES: usize = 64 * 1024;

/// A connection after authentication; simple query protocol only.
pub struct Connection {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    pub(super) limit: usize,
    pub(super) due: Due,
}

/// What the server waits for, or has yet to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// The end of its answer to a query.
    Answer,
    /// Rows of us first.
    Rows,
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
        Self::open_for(target, Purpose::Queries).await
    }

    pub(super) async fn open_for(target: &Target, purpose: Purpose) -> Result<Self, Error> {
        let mut refused = None;
        for attempt in attempts(target) {
            match Self::open_once(target, *attempt, purpose).await {
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

    async fn open_once(target: &Target, attempt: Attempt, purpose: Purpose) -> Result<Self, Error> {
        let stream = dial_as(target, attempt, purpose).await?;
        let mut connection = Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            limit: MESSAGE_BYTES_MAX,
            due: Due::Nothing,
        };
        let parameters: &[(&str, &str)] = match purpose {
            Purpose::Queries => &[],
            Purpose::Replication => &[("replication", "database")],
        };
        within(target, auth::start(&mut connection, target, parameters)).await?;
        Ok(connection)
    }

    /// Runs one SQL text in the simple protocol.
    pub async fn query(
        &mut self,
        sql: &str,
        mut on_event: impl FnMut(Event) + Send,
    ) -> Result<(), Error> {
        self.ask(sql).await?;
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

    /// Runs one SQL text for its effect.
    pub async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        self.query(sql, drop).await
    }

    /// Runs one SQL text; the first value of its first row, if there is a row and it is not null.
    pub async fn value(&mut self, sql: &str) -> Result<Option<String>, Error> {
        let mut found = None;
        let on_event = |event| match event {
            Event::Row(values) if found.is_none() => found = Some(values.into_iter().next()),
            _ => {}
        };
        self.query(sql, on_event).await?;
        Ok(found.flatten().flatten())
    }

    /// Sends a query, once nothing of another one is due.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(), Error> {
        self.settle().await?;
        let mut request = BytesMut::new();
        frontend::query(sql, &mut request)?;
        self.due = Due::Answer;
        self.send(&request).await
    }

    /// Reads and drops what is due of a query that was given up.
    async fn settle(&mut self) -> Result<(), Error> {
        loop {
            match self.due {
                Due::Nothing => return Ok(()),
                Due::Answer => drop(self.next().await?),
                Due::Rows => self.refuse_rows().await?,
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
        self.outgoing.extend_from_slice(bytes);
        while !self.outgoing.is_empty() {
            if self.stream.write_buf(&mut self.outgoing).await? == 0 {
                return Err(Error::Io(std::io::ErrorKind::WriteZero.into()));
            }
        }
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
        let Some((header, total)) = self.header(0)? else { return Ok(None) };
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

    /// Of the message that begins there in what was read, and its length with the header.
    pub(super) fn header(&self, at: usize) -> Result<Option<(Header, usize)>, Error> {
        let rest = self.incoming.get(at..).unwrap_or_default();
        let Some(header) = Header::parse(rest)? else { return Ok(None) };
        // The length counts itself but not the tag.
        let total = usize::try_from(header.len())
            .map_err(|_| Error::Protocol("negative message length"))?
            .saturating_add(1);
        if total > self.limit {
            return Err(Error::MessageTooLarge { bytes: total, limit: self.limit });
        }
        Ok(Some((header, total)))
    }

    fn parse(&mut self) -> Result<Option<Incoming>, Error> {
        let Some(message) = Message::parse(&mut self.incoming)? else { return Ok(None) };
        match &message {
            Message::CopyInResponse(_) => self.due = Due::Rows,
            Message::ErrorResponse(_) if self.due == Due::Rows => self.due = Due::Answer,
            Message::ReadyForQuery(_) => self.due = Due::Nothing,
            _ => {}
        }
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
pub(super) const HEADER_BYTES: usize = 5;

pub(super) fn row(body: &DataRowBody) -> Result<Vec<Option<String>>, Error> {
    let buffer = body.buffer();
    let text = |range: std::ops::Range<usize>| {
        buffer.get(range).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(body.ranges().map(|range| Ok(range.and_then(text))).collect()?)
}

/// A buffer that one long message made large does not stay so.
pub(super) fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > BUFFER_BYTES_MAX {
        *buffer = BytesMut::new();
    }
}

const BUFFER_BYTES_MAX: usize = 1 << 20;
