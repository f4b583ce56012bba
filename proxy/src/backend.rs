//! Opens a session at a compute: sends the startup packet, reads to ReadyForQuery.
//!
//! All that the compute says is passed on as it is, except AuthenticationOk (the client has had
//! ours) and BackendKeyData (the client gets a key of ours).

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::cancel::BackendKey;
use crate::wire::{self, Parameters};

/// No message of the startup phase is longer.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// All of them together are a few hundred bytes.
const GREETING_BYTES_MAX: usize = 1024 * 1024;
/// Longest wait among newcomers of a compute, and the pause between two attempts.
const CROWD_WAIT_MAX: Duration = Duration::from_secs(10);
const CROWD_PAUSE: Duration = Duration::from_millis(5);

/// A session at a compute that is ready for queries.
pub(crate) struct Connected {
    pub(crate) stream: UnixStream,
    pub(crate) key: BackendKey,
    /// For the client, before BackendKeyData.
    pub(crate) before_key: Vec<u8>,
    /// For the client, after it: ends with ReadyForQuery, or with what followed it.
    pub(crate) after_key: Vec<u8>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// The compute stopped between being awake and this connection: wake it again.
    #[error("compute is not there")]
    NotThere,
    /// The compute refused; this is what it said, for the client.
    #[error("compute refused the session")]
    Refused { sqlstate: String, bytes: Vec<u8> },
    /// It asks for a password: its pg_hba is not ours.
    #[error("compute asks for authentication on its private socket")]
    AsksForPassword,
    /// It does not keep to the protocol.
    #[error("compute does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// The connection broke.
    #[error("talk to the compute")]
    Io(#[from] io::Error),
}

/// Connects. A compute that has more newcomers than its listener holds, 200 by default, answers
/// none of the others, and a unix socket has no event for its room: they ask again.
async fn reach(socket: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + CROWD_WAIT_MAX;
    loop {
        match UnixStream::connect(socket).await {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                sleep(CROWD_PAUSE).await;
            }
            reached => return reached,
        }
    }
}

/// Connects and starts a session.
pub(crate) async fn connect(
    socket: &Path,
    parameters: &Parameters,
) -> Result<Connected, BackendError> {
    let mut stream = match reach(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
            return Err(match error.kind() {
                kind if gone.contains(&kind) => BackendError::NotThere,
                _ => error.into(),
            });
        }
    };
    let mut packet = Vec::new();
    wire::startup(&mut packet, parameters);
    let mut greeting = Greeting::default();
    let exchange = async {
        stream.write_all(&packet).await?;
        let mut unread = Vec::new();
        while !greeting.take(&mut unread)? {
            if stream.read_buf(&mut unread).await? == 0 {
                return Err(BackendError::NotThere);
            }
        }
        // What follows ReadyForQuery unasked (a notification) belongs to the client too.
        greeting.after_key.append(&mut unread);
        Ok(())
    };
    match exchange.await {
        // It was shut down while we connected.
        Err(BackendError::Io(error))
            if [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset]
                .contains(&error.kind()) =>
        {
            return Err(BackendError::NotThere);
        }
        result => result?,
    }
    let (pid, key) = greeting.key.ok_or(BackendError::Protocol("no BackendKeyData"))?;
    let key = BackendKey { socket: socket.to_owned(), pid, key };
    let Greeting { before_key, after_key, .. } = greeting;
    Ok(Connected { stream, key, before_key, after_key })
}

/// What a compute has said so far.
#[derive(Default)]
struct Greeting {
    before_key: Vec<u8>,
    after_key: Vec<u8>,
    key: Option<(i32, Vec<u8>)>,
}

impl Greeting {
    /// Takes whole messages from the front of `unread`; true once ReadyForQuery is among them.
    fn take(&mut self, unread: &mut Vec<u8>) -> Result<bool, BackendError> {
        let mut taken = 0;
        let ready = loop {
            let rest = unread.get(taken..).unwrap_or_default();
            let Some(message) = whole_message(rest)? else { break false };
            taken += message.len();
            if self.message(message)? {
                break true;
            }
        };
        unread.drain(..taken);
        let said = self.before_key.len() + self.after_key.len();
        if said > GREETING_BYTES_MAX {
            return Err(BackendError::Protocol("endless greeting"));
        }
        Ok(ready)
    }

    fn message(&mut self, message: &[u8]) -> Result<bool, BackendError> {
        let Some((&[tag, _, _, _, _], body)) = message.split_first_chunk() else {
            return Err(BackendError::Protocol("short message"));
        };
        match tag {
            b'R' if body == [0, 0, 0, 0] => {}
            b'R' => return Err(BackendError::AsksForPassword),
            b'K' => {
                let Some((pid, key)) = body.split_first_chunk::<4>() else {
                    return Err(BackendError::Protocol("short BackendKeyData"));
                };
                self.key = Some((i32::from_be_bytes(*pid), key.to_vec()));
            }
            b'E' => {
                let mut bytes = std::mem::take(&mut self.before_key);
                bytes.append(&mut self.after_key);
                bytes.extend_from_slice(message);
                return Err(BackendError::Refused { sqlstate: sqlstate(body), bytes });
            }
            _ if self.key.is_none() => self.before_key.extend_from_slice(message),
            _ => self.after_key.extend_from_slice(message),
        }
        Ok(tag == b'Z')
    }
}

/// The message that `bytes` begin with, once all of it is there.
pub(crate) fn whole_message(bytes: &[u8]) -> Result<Option<&[u8]>, BackendError> {
    let Some((&[_, a, b, c, d], _)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
        return Err(BackendError::Protocol("message length"));
    }
    Ok(bytes.get(..length + 1))
}

/// The C field of an ErrorResponse.
fn sqlstate(body: &[u8]) -> String {
    let fields = body.split(|&byte| byte == 0);
    let code = fields.filter_map(|field| field.strip_prefix(b"C")).next().unwrap_or_default();
    String::from_utf8_lossy(code).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] =
        b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x07keyyZ\0\0\0\x05I";

    #[test]
    fn greeting_in_pieces() {
        for cut in 0..GREETING.len() {
            let mut greeting = Greeting::default();
            let mut unread = GREETING[..cut].to_vec();
            assert!(!greeting.take(&mut unread).unwrap(), "{cut}");
            unread.extend_from_slice(&GREETING[cut..]);
            unread.extend_from_slice(b"more");
            assert!(greeting.take(&mut unread).unwrap(), "{cut}");
            assert_eq!(greeting.key, Some((7, b"keyy".to_vec())));
            assert_eq!(greeting.before_key, b"S\0\0\0\x08a\0b\0");
            assert_eq!(greeting.after_key, b"Z\0\0\0\x05I");
            assert_eq!(unread, b"more");
        }
    }

    #[test]
    fn refusal_is_kept_as_it_is() {
        let error = b"E\0\0\0\x13SFATAL\0C3D000\0\0".to_vec();
        let mut greeting = Greeting::default();
        let result = greeting.take(&mut [&GREETING[..18], &error].concat());
        let Err(BackendError::Refused { sqlstate, bytes }) = result else { panic!("{result:?}") };
        assert_eq!((sqlstate.as_str(), bytes.ends_with(&error)), ("3D000", true));
    }

    #[test]
    fn other_authentication_is_refused() {
        let asked = Greeting::default().take(&mut b"R\0\0\0\x08\0\0\0\x03".to_vec());
        assert!(matches!(asked, Err(BackendError::AsksForPassword)));
        let lost = Greeting::default().take(&mut b"R\0\0\0\0".to_vec());
        assert!(matches!(lost, Err(BackendError::Protocol(_))));
    }
}
