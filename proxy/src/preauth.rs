//! From the first byte to an authenticated client: the only code that reads what strangers send.
//!
//! Reads are byte-exact: nothing behind the message being read is ever taken from the socket, so
//! that it can be handed on (to TLS, to the relay) with nothing lost and nothing smuggled in.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::refusal::Refusal;
use crate::scram::{ChannelBinding, ClientFirst, Exchange, ScramFailure, ScramVerifier};
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wire::{self, FirstPacket, STARTUP_BYTES_MAX, StartupPacket};

/// The first byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Silence after which a connection is closed once nothing more is accepted.
const FIRST_BYTE_ON_CLOSING: Duration = Duration::from_millis(500);
/// A SCRAM message is a few hundred bytes.
const PASSWORD_BYTES_MAX: usize = 2048;
const SERVER_NONCE_BYTES: usize = 18;
/// SQLSTATE of a proof that is wrong.
pub(crate) const WRONG_PASSWORD: &str = "28P01";
const MECHANISM: &str = "SCRAM-SHA-256";
const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Why a connection ends before it becomes a session.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The client never said anything: a health check. Not worth a log line.
    Silent,
    /// The client is gone, or said something after which an answer makes no sense.
    Gone(&'static str),
    /// The client is told why.
    Refused(Refusal),
}

/// What a client wants, after encryption has been talked about.
#[derive(Debug)]
pub(crate) enum Opening {
    Cancel { pid: i32, key: Vec<u8> },
    Startup(StartupPacket),
}

/// How a listener treats strangers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners<'a> {
    /// Silence after which a connection is closed.
    pub(crate) first_byte: Duration,
    /// Nothing more is accepted: who has not said anything by now hardly will.
    pub(crate) closing: &'a CancellationToken,
    /// `None` declines encryption.
    pub(crate) tls: Option<&'a Tls>,
    /// Startup in plaintext is refused. Cancel requests are not: some drivers know no others.
    pub(crate) require_tls: bool,
}

/// Reads until the client says what it wants, encrypting on the way if it asks for that.
pub(crate) async fn open(stream: &mut Stream, manners: Manners<'_>) -> Result<Opening, Ending> {
    let socket = stream.socket().ok_or(Ending::Silent)?;
    let too_late = async {
        let said_nothing = tokio::time::timeout(manners.first_byte, manners.closing.cancelled());
        if said_nothing.await.is_ok() {
            // It may have come just now, with its first bytes on their way.
            tokio::time::sleep(FIRST_BYTE_ON_CLOSING).await;
        }
    };
    let peeked = tokio::select! {
        peeked = socket.peek() => peeked,
        () = too_late => return Err(Ending::Silent),
    };
    let Ok(Some(first)) = peeked else { return Err(Ending::Silent) };
    if first == TLS_HANDSHAKE {
        encrypt_at_once(stream, manners).await?;
    }
    let (mut ssl_asked, mut gss_asked) = (stream.is_encrypted(), stream.is_encrypted());
    loop {
        match read_packet(stream).await? {
            FirstPacket::Cancel { pid, key } => return Ok(Opening::Cancel { pid, key }),
            FirstPacket::Startup(_) if manners.require_tls && !stream.is_encrypted() => {
                let refusal = Refusal::fatal("28000", "connection requires TLS");
                return Err(Ending::Refused(refusal.with_hint("Connect with sslmode=require.")));
            }
            FirstPacket::Startup(packet) => return Ok(Opening::Startup(packet)),
            FirstPacket::Unsupported { major, minor } => {
                let text = format!(
                    "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"
                );
                return Err(Ending::Refused(Refusal::fatal("0A000", text)));
            }
            FirstPacket::Ssl if !ssl_asked => {
                ssl_asked = true;
                encrypt_on_request(stream, manners).await?;
            }
            FirstPacket::GssEnc if !gss_asked => {
                gss_asked = true;
                send(stream, b"N").await?;
            }
            FirstPacket::Ssl | FirstPacket::GssEnc => {
                return Err(protocol_violation("encryption was requested twice"));
            }
        }
    }
}

/// The client begins with a TLS handshake. It must say by ALPN that it speaks Postgres, as
/// Postgres demands: no other protocol is to be led here.
async fn encrypt_at_once(stream: &mut Stream, manners: Manners<'_>) -> Result<(), Ending> {
    let tls = manners.tls.ok_or(Ending::Gone("TLS where none is offered"))?;
    stream.encrypt(tls).await.map_err(|_| Ending::Gone("TLS handshake failed"))?;
    if stream.speaks_postgres() { Ok(()) } else { Err(Ending::Gone("TLS without ALPN")) }
}

async fn encrypt_on_request(stream: &mut Stream, manners: Manners<'_>) -> Result<(), Ending> {
    let Some(tls) = manners.tls else { return send(stream, b"N").await };
    // Sent before the answer, it was sent in plaintext, perhaps by somebody in between
    // (CVE-2021-23214). What comes later meets the handshake, which it breaks.
    if stream.socket().is_some_and(|socket| matches!(socket.try_peek(), Ok(Some(_)))) {
        let refusal = Refusal::fatal("08P01", "received unencrypted data after SSL request");
        let detail = "This could be either a client-software bug or evidence of an attempted \
                      man-in-the-middle attack.";
        return Err(Ending::Refused(refusal.with_detail(detail)));
    }
    send(stream, b"S").await?;
    stream.encrypt(tls).await.map_err(|_| Ending::Gone("TLS handshake failed"))
}

async fn read_packet<S>(stream: &mut S) -> Result<FirstPacket, Ending>
where
    S: AsyncRead + Unpin,
{
    let mut length = [0; 4];
    let gone = |_| Ending::Gone("left before startup");
    stream.read_exact(&mut length).await.map_err(gone)?;
    let length = usize::try_from(u32::from_be_bytes(length));
    let length = length.ok().filter(|length| (8..=STARTUP_BYTES_MAX).contains(length));
    let Some(length) = length else {
        return Err(protocol_violation("invalid length of startup packet"));
    };
    let mut packet = vec![0; length - 4];
    stream.read_exact(&mut packet).await.map_err(gone)?;
    FirstPacket::decode(&packet).map_err(|malformed| protocol_violation(malformed.0))
}

/// How one client is to be authenticated.
pub(crate) struct Challenge<'a> {
    /// As the client wrote it: shown in the refusal.
    pub(crate) user: &'a [u8],
    pub(crate) verifier: &'a ScramVerifier,
    /// The verifier is a mock: fails whatever the proof.
    pub(crate) doomed: bool,
    pub(crate) channel: ChannelBinding,
    /// What goes out before the challenge, in the same write.
    pub(crate) greeting: Vec<u8>,
}

/// Runs SCRAM. Returns the server's last message, which the caller sends once it admits the
/// client.
pub(crate) async fn authenticate<S>(
    stream: &mut S,
    challenge: Challenge<'_>,
) -> Result<String, Ending>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |failure| refuse_scram(failure, challenge.user);
    let mut out = challenge.greeting;
    match challenge.channel {
        ChannelBinding::Unavailable => wire::auth_sasl(&mut out, &[MECHANISM]),
        ChannelBinding::ServerEndPoint(_) => {
            wire::auth_sasl(&mut out, &[MECHANISM_PLUS, MECHANISM]);
        }
    }
    send(stream, &out).await?;
    let (plus, first) = read_client_first(stream).await?;
    let first = ClientFirst::parse(&first).map_err(failed)?;
    let nonce: [u8; SERVER_NONCE_BYTES] = rand::random();
    let exchange = Exchange::new(challenge.verifier, first, &challenge.channel, plus, &nonce);
    let exchange = exchange.map_err(failed)?;
    let mut out = Vec::new();
    wire::auth_sasl_continue(&mut out, exchange.server_first().as_bytes());
    send(stream, &out).await?;
    let last = exchange.finish(&read_password(stream).await?).map_err(failed)?;
    if challenge.doomed { Err(failed(ScramFailure::WrongPassword)) } else { Ok(last) }
}

/// Reads SASLInitialResponse: the mechanism's name, then the first message with its length.
/// Returns whether the client chose channel binding.
async fn read_client_first<S>(stream: &mut S) -> Result<(bool, Vec<u8>), Ending>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = read_password(stream).await?;
    let mut parts = message.splitn(2, |&byte| byte == 0);
    let plus = match parts.next() {
        Some(name) if name == MECHANISM.as_bytes() => false,
        Some(name) if name == MECHANISM_PLUS.as_bytes() => true,
        _ => {
            let text = "client selected an invalid SASL authentication mechanism";
            return Err(protocol_violation(text));
        }
    };
    let malformed = || protocol_violation("malformed SASL response");
    let (length, first) = parts.next().and_then(<[u8]>::split_first_chunk).ok_or_else(malformed)?;
    match i32::from_be_bytes(*length) {
        // No message yet: an empty challenge asks for it (RFC 4422, section 3.3).
        -1 if first.is_empty() => {
            let mut out = Vec::new();
            wire::auth_sasl_continue(&mut out, &[]);
            send(stream, &out).await?;
            Ok((plus, read_password(stream).await?))
        }
        length if usize::try_from(length) == Ok(first.len()) => Ok((plus, first.to_vec())),
        _ => Err(malformed()),
    }
}

async fn read_password<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, Ending> {
    let gone = |_| Ending::Gone("left during authentication");
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.map_err(gone)?;
    let [tag, length @ ..] = header;
    if tag != b'p' {
        let text = format!("expected SASL response, got message type {tag}");
        return Err(Ending::Refused(Refusal::fatal("08P01", text)));
    }
    let length = usize::try_from(u32::from_be_bytes(length)).ok();
    let length = length.and_then(|length| length.checked_sub(4));
    let Some(length) = length.filter(|length| *length <= PASSWORD_BYTES_MAX) else {
        return Err(protocol_violation("invalid length of password message"));
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(gone)?;
    Ok(body)
}

fn refuse_scram(failure: ScramFailure, user: &[u8]) -> Ending {
    let refusal = match failure {
        ScramFailure::WrongPassword => return Ending::Refused(wrong_password(user)),
        ScramFailure::Malformed(detail) => {
            Refusal::fatal("08P01", "malformed SCRAM message").with_detail(format!("{detail}."))
        }
        ScramFailure::Downgraded => {
            Refusal::fatal("28000", "SCRAM channel binding negotiation error")
                .with_detail("The client supports channel binding but thinks the server does not.")
        }
        ScramFailure::WrongChannel => Refusal::fatal("28000", "SCRAM channel binding check failed"),
    };
    Ending::Refused(refusal)
}

/// The same for a wrong password, an unknown role and an unknown branch: names cannot be probed.
/// The message is Postgres' own; drivers match on it.
pub(crate) fn wrong_password(user: &[u8]) -> Refusal {
    let user = String::from_utf8_lossy(user);
    let text = format!("password authentication failed for user \"{user}\"");
    Refusal::fatal(WRONG_PASSWORD, text)
        .with_hint("Check the password, and that the role and the branch you named exist.")
}

fn protocol_violation(text: &'static str) -> Ending {
    Ending::Refused(Refusal::fatal("08P01", text))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Result<(), Ending> {
    let sent = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    sent.await.map_err(|_| Ending::Gone("left during authentication"))
}
