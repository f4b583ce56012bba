//! Rows out of a server, as many at a time as have come.
//!
//! A server sends each row in a message of its own. Here nothing is made of a row: its bytes are
//! moved once, to where the rows before it are.

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;

use super::connection::{Connection, HEADER_BYTES, Incoming, READ_CHUNK_BYTES, row, shrink};
use super::error::Error;

/// A `COPY ... TO STDOUT` under way. One that is dropped is read to its end by the next query.
pub struct CopyOut<'a> {
    connection: &'a mut Connection,
}

impl Connection {
    /// Runs SQL that ends with, or holds, one `COPY ... TO STDOUT`. Rows that come before are given
    /// to `on_row` as their first value.
    pub async fn copy_out(
        &mut self,
        sql: &str,
        mut on_row: impl FnMut(Option<String>) + Send,
    ) -> Result<CopyOut<'_>, Error> {
        self.ask(sql).await?;
        loop {
            match self.next().await? {
                Incoming::Message(Message::CopyOutResponse(_)) => break,
                Incoming::Message(Message::DataRow(body)) => {
                    let first = row(&body)?.into_iter().next();
                    on_row(first.flatten());
                }
                Incoming::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::ParameterStatus(_),
                )
                | Incoming::Notice(_) => {}
                Incoming::Error(message) => return Err(Error::Server(message)),
                _ => return Err(Error::Protocol("unexpected message before a copy")),
            }
        }
        Ok(CopyOut { connection: self })
    }
}

impl CopyOut<'_> {
    /// Adds rows that have come, and waits only where there are none. Returns how many; none once
    /// all are there and the server is done with the SQL.
    pub async fn read(&mut self, rows: &mut BytesMut) -> Result<Option<u64>, Error> {
        loop {
            let count = self.take_rows(rows)?;
            if count > 0 {
                return Ok(Some(count));
            }
            match self.connection.buffered()? {
                None => self.connection.fill().await?,
                Some(Incoming::Message(Message::ReadyForQuery(_))) => return Ok(None),
                Some(Incoming::Error(message)) => return Err(Error::Server(message)),
                Some(
                    Incoming::Notice(_)
                    | Incoming::Message(
                        Message::ParameterStatus(_)
                        | Message::CopyDone
                        | Message::CommandComplete(_),
                    ),
                ) => {}
                Some(_) => return Err(Error::Protocol("unexpected message in a copy")),
            }
        }
    }

    /// Rows that have been read whole, up to about [`READ_CHUNK_BYTES`] of them.
    fn take_rows(&mut self, rows: &mut BytesMut) -> Result<u64, Error> {
        let (mut at, mut count) = (0, 0);
        while at < READ_CHUNK_BYTES {
            let Some((header, total)) = self.connection.header(at)? else { break };
            if header.tag() != b'd' {
                break;
            }
            let row = self.connection.incoming.get(at + HEADER_BYTES..at + total);
            let Some(row) = row else { break };
            rows.extend_from_slice(row);
            at += total;
            count += 1;
        }
        self.connection.incoming.advance(at);
        shrink(&mut self.connection.incoming);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::super::connection::Due;
    use super::*;

    fn connected() -> (Connection, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        let connection = Connection {
            stream: Box::new(ours),
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            limit: 1 << 20,
            due: Due::Answer,
        };
        (connection, theirs)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![tag];
        message.put_i32(i32::try_from(body.len()).unwrap() + 4);
        message.extend_from_slice(body);
        message
    }

    async fn speak(server: &mut DuplexStream, said: &[u8], size: usize) {
        for piece in said.chunks(size) {
            server.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    async fn read_all(connection: &mut Connection) -> Result<(BytesMut, u64), Error> {
        let (mut copy, mut rows, mut count) = (CopyOut { connection }, BytesMut::new(), 0);
        while let Some(more) = copy.read(&mut rows).await? {
            count += more;
        }
        Ok((rows, count))
    }

    #[tokio::test]
    async fn rows_are_joined_wherever_the_network_cuts_them() {
        let mut said = Vec::new();
        for row in [&b"one"[..], b"", b"three", &[b'x'; 200_000]] {
            said.extend(message(b'd', row));
            said.extend(message(b'N', b"\0"));
        }
        said.extend(message(b'c', b""));
        said.extend(message(b'C', b"COPY 4\0"));
        said.extend(message(b'Z', b"I"));
        for size in [1, 3, 7, 100_000, 1 << 20] {
            let (mut connection, mut server) = connected();
            let speaking = speak(&mut server, &said, size);
            let (read, ()) = tokio::join!(read_all(&mut connection), speaking);
            let (rows, count) = read.unwrap();
            assert_eq!((rows.len(), count, connection.due), (200_008, 4, Due::Nothing));
            assert!(rows.starts_with(b"onethreexxx"));
        }
    }

    #[tokio::test]
    async fn what_is_no_copy_is_an_error() {
        let mut negative = message(b'd', b"row");
        negative[1] = 0xff;
        let mut huge = message(b'd', b"row");
        huge[1..5].copy_from_slice(&[0x7f; 4]);
        for said in [negative, huge, vec![b'd', 0, 0, 0, 3], message(b'W', b"\0\0\0")] {
            let (mut connection, mut server) = connected();
            server.write_all(&said).await.unwrap();
            drop(server);
            assert!(read_all(&mut connection).await.is_err(), "{said:?}");
        }
    }
}
