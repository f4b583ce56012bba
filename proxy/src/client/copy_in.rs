//! Rows into a server, in messages of any size.
//!
//! While rows are written, what the server says is read: one that waits for us to hear its notices
//! takes no rows, and a refusal is known before all the others have been sent.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::connection::{Connection, Due, Incoming, shrink};
use super::error::Error;

/// What the server tells its log, should a COPY be given up.
const GIVEN_UP: &str = "given up";

/// A `COPY ... FROM STDIN` under way. One that is dropped is ended as failed by the next query.
pub struct CopyIn<'a> {
    connection: &'a mut Connection,
}

impl Connection {
    /// Runs SQL that ends with, or holds, one `COPY ... FROM STDIN`.
    pub async fn copy_in(&mut self, sql: &str) -> Result<CopyIn<'_>, Error> {
        self.ask(sql).await?;
        loop {
            match self.next().await? {
                Incoming::Message(Message::CopyInResponse(_)) => break,
                Incoming::Message(Message::CommandComplete(_) | Message::ParameterStatus(_))
                | Incoming::Notice(_) => {}
                Incoming::Error(message) => return Err(Error::Server(message)),
                _ => return Err(Error::Protocol("unexpected message before a copy")),
            }
        }
        Ok(CopyIn { connection: self })
    }

    /// Ends a COPY that waits for rows.
    pub(super) async fn refuse_rows(&mut self) -> Result<(), Error> {
        frontend::copy_fail(GIVEN_UP, &mut self.outgoing)?;
        match (CopyIn { connection: self }).flush().await {
            Err(Error::Server(_)) => {}
            outcome => outcome?,
        }
        self.due = Due::Answer;
        // What is left where they were refused is merely dropped there.
        self.send(&[]).await
    }
}

impl CopyIn<'_> {
    /// Sends some rows, or a part of one.
    pub async fn send(&mut self, rows: &[u8]) -> Result<(), Error> {
        let length = i32::try_from(rows.len().saturating_add(4))
            .map_err(|_| Error::Protocol("too many rows for a message"))?;
        self.connection.outgoing.reserve(rows.len() + 5);
        self.connection.outgoing.put_u8(b'd');
        self.connection.outgoing.put_i32(length);
        self.connection.outgoing.put_slice(rows);
        self.flush().await?;
        shrink(&mut self.connection.outgoing);
        Ok(())
    }

    /// Returns once the server has taken all of them, and done what else the SQL says.
    pub async fn finish(mut self) -> Result<(), Error> {
        frontend::copy_done(&mut self.connection.outgoing);
        self.flush().await?;
        self.connection.due = Due::Answer;
        let mut failure = None;
        loop {
            match self.connection.next().await? {
                Incoming::Error(message) => failure = Some(message),
                Incoming::Message(Message::ReadyForQuery(_)) => {
                    return failure.map_or(Ok(()), |message| Err(Error::Server(message)));
                }
                Incoming::Message(Message::CommandComplete(_) | Message::ParameterStatus(_))
                | Incoming::Notice(_) => {}
                _ => return Err(Error::Protocol("unexpected message after a copy")),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.connection.outgoing.is_empty() {
            self.hear(context)?;
            let Connection { stream, outgoing, .. } = &mut *self.connection;
            match ready!(Pin::new(stream).poll_write(context, outgoing))? {
                0 => return Poll::Ready(Err(Error::Io(ErrorKind::WriteZero.into()))),
                written => outgoing.advance(written),
            }
        }
        Pin::new(&mut self.connection.stream).poll_flush(context).map_err(Error::Io)
    }

    /// What is said before the last row has been taken is a notice, or a refusal.
    fn hear(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        loop {
            while let Some(incoming) = self.connection.buffered()? {
                match incoming {
                    Incoming::Notice(_) | Incoming::Message(Message::ParameterStatus(_)) => {}
                    Incoming::Error(message) => return Err(Error::Server(message)),
                    _ => return Err(Error::Protocol("unexpected message in a copy")),
                }
            }
            let Connection { stream, incoming, .. } = &mut *self.connection;
            incoming.reserve(NOTICE_BYTES);
            match poll_read_buf(Pin::new(stream), context, incoming) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(Error::Io(ErrorKind::UnexpectedEof.into())),
                Poll::Ready(read) => drop(read?),
            }
        }
    }
}

/// Room for what is said meanwhile; more is made for a longer message.
const NOTICE_BYTES: usize = 8 * 1024;
