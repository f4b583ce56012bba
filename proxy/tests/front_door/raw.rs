//! A client that sends exactly the bytes a test says.

use std::net::SocketAddr;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::within;

pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub(crate) const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

/// A message from the server: its type, its body.
pub(crate) type Message = (char, Vec<u8>);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Connects, sends, and reads all there is until the server closes.
    pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut raw = Self::connect(address).await;
        raw.send(bytes).await;
        raw.rest().await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within(self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end like any other here.
        let _ = within(self.0.read_to_end(&mut bytes)).await;
        bytes
    }

    pub(crate) async fn message(&mut self) -> Message {
        let header = self.bytes(5).await;
        let length = u32::from_be_bytes(header[1..5].try_into().unwrap());
        (char::from(header[0]), self.bytes(length as usize - 4).await)
    }

    /// Messages up to and including the first of a type.
    pub(crate) async fn until(&mut self, last: char) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.message().await);
            if messages.last().unwrap().0 == last {
                return messages;
            }
        }
    }

    /// All that is said up to ReadyForQuery, as text.
    pub(crate) async fn answer(&mut self) -> String {
        let messages = self.until('Z').await;
        let bodies: Vec<u8> = messages.into_iter().flat_map(|(_, body)| body).collect();
        String::from_utf8_lossy(&bodies).into_owned()
    }

    /// Logs in; returns what the server said after authentication, up to ReadyForQuery.
    pub(crate) async fn log_in(&mut self, startup: &[u8], password: &str) -> Vec<Message> {
        self.send(startup).await;
        self.scram(password).await;
        assert_eq!(self.message().await, ('R', vec![0, 0, 0, 0]));
        self.until('Z').await
    }

    /// SCRAM up to server-final.
    pub(crate) async fn scram(&mut self, password: &str) {
        let (_, server_first, mut client) = self.scram_first(password).await;
        client.update(&server_first[4..]).unwrap();
        self.send(&message(b'p', client.message())).await;
        let (tag, last) = self.message().await;
        assert_eq!(tag, 'R', "{}", String::from_utf8_lossy(&last));
        client.finish(&last[4..]).unwrap();
    }

    /// SCRAM up to server-first.
    pub(crate) async fn scram_first(&mut self, password: &str) -> (Message, Vec<u8>, ScramSha256) {
        let offer = self.message().await;
        let binding = ChannelBinding::unsupported();
        let client = ScramSha256::new(password.as_bytes(), binding);
        self.send(&sasl_initial("SCRAM-SHA-256", client.message())).await;
        let (tag, server_first) = self.message().await;
        assert_eq!(tag, 'R');
        (offer, server_first, client)
    }
}

pub(crate) fn startup(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3];
    body.extend_from_slice(&minor.to_be_bytes());
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    packet(&body)
}

pub(crate) fn packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes(), body].concat()
}

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], packet(body).as_slice()].concat()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

pub(crate) fn sasl_initial(mechanism: &str, first: &[u8]) -> Vec<u8> {
    let mut body = format!("{mechanism}\0").into_bytes();
    body.extend_from_slice(&u32::try_from(first.len()).unwrap().to_be_bytes());
    body.extend_from_slice(first);
    message(b'p', &body)
}

/// The fields of an ErrorResponse that a whole answer ends with.
pub(crate) fn error(answer: &[u8]) -> String {
    assert_eq!(answer.first(), Some(&b'E'), "{}", String::from_utf8_lossy(answer));
    String::from_utf8_lossy(&answer[5..]).replace('\0', "|")
}

pub(crate) const APP: [(&str, &str); 2] = [("user", "app.b1"), ("database", "shop")];
