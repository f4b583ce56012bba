//! A console session, from the first ParameterStatus to its end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use pgwire::api::{ClientInfo, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::PgWireError;
use pgwire::messages::PgWireFrontendMessage;
use pgwire::messages::response::TransactionStatus as Block;
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::AsyncWriteExt;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use super::desk::{Desk, terminated, user_error};
use super::protocol::Prepared;
use super::{Console, ConsoleSession};
use crate::cancel::{CancelTarget, Cancels, RunningStatement};
use crate::preauth::Ending;
use crate::sessions::{Peer, Session, SessionState};
use crate::stream::{Hangup, Stream, close_gently};
use crate::wire::{self, TransactionStatus};

/// The major version decides which catalog queries tools send; psql warns if it is newer than
/// psql itself.
const SERVER_VERSION: &str = concat!("15.0 (Ardent ", env!("CARGO_PKG_VERSION"), ")");

type Client = Framed<Stream, PgWireMessageServerCodec<Prepared>>;

/// What a console session starts from.
pub(crate) struct Start<'a> {
    pub(crate) who: ConsoleSession,
    /// Length of the cancel key in the protocol that was negotiated.
    pub(crate) key_bytes: usize,
    pub(crate) cancels: &'a Arc<Cancels>,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) stop_grace: Duration,
}

/// Serves an authenticated client that has had AuthenticationOk.
pub(crate) async fn serve<C: Console>(
    mut stream: Stream,
    console: Arc<C>,
    start: Start<'_>,
    session: &Session,
) -> Result<&'static str, Ending> {
    let hangup = Hangup::watch(&stream).map_err(|_| Ending::Gone("no descriptor left"))?;
    let running = Arc::new(RunningStatement::default());
    // All console sessions run in this process; their secrets tell them apart.
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let target = CancelTarget::Console(Arc::clone(&running));
    let cancel = start.cancels.issue(pid, start.key_bytes, &target);
    let mut greeting = Vec::new();
    put_parameters(&mut greeting, &start.who);
    wire::backend_key_data(&mut greeting, pid, cancel.key());
    wire::ready_for_query(&mut greeting, TransactionStatus::Idle);
    stream.write_all(&greeting).await.map_err(|_| Ending::Gone("left"))?;
    stream.flush().await.map_err(|_| Ending::Gone("left"))?;

    session.set_state(SessionState::Idle);
    let address = match start.who.peer {
        Peer::Tcp(address) => address,
        Peer::Unix { .. } => std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
    };
    let mut codec = PgWireMessageServerCodec::new(DefaultClient::new(address, false));
    codec.client_info.set_state(PgWireConnectionState::ReadyForQuery);
    let mut client = Framed::new(stream, codec);
    let Start { who, stop, stop_grace, .. } = start;
    let desk = Desk { console, who, running, hangup, stop: stop.clone(), stop_grace };
    let reason = answer_messages(&mut client, &Arc::new(desk), session).await;
    close_gently(&mut client.into_inner()).await;
    Ok(reason)
}

async fn answer_messages<C: Console>(
    client: &mut Client,
    desk: &Arc<Desk<C>>,
    session: &Session,
) -> &'static str {
    let noop = Arc::new(NoopHandler);
    loop {
        let message = tokio::select! {
            message = client.next() => message,
            () = desk.stop.cancelled() => {
                fail(client, user_error(terminated()), false).await;
                return "server stopped";
            }
        };
        let message = match message {
            None | Some(Err(PgWireError::IoError(_))) => return "client died",
            Some(Ok(PgWireFrontendMessage::Terminate(_))) => return "client left",
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                fail(client, error, false).await;
                return "protocol violation";
            }
        };
        let is_extended = message.is_extended_query();
        session.set_state(SessionState::Active);
        let (auth, simple, extended) = (Arc::clone(&noop), Arc::clone(desk), Arc::clone(desk));
        let (copy, cancel) = (Arc::clone(&noop), Arc::clone(&noop));
        let done = process_message(message, client, auth, simple, extended, copy, cancel).await;
        if let Err(error) = done
            && let Some(reason) = fail(client, error, is_extended).await
        {
            return reason;
        }
        session.set_state(match client.transaction_status() {
            Block::Idle => SessionState::Idle,
            Block::Transaction | Block::Error => SessionState::InTransaction,
        });
    }
}

/// Tells the client; returns why if the session is over.
async fn fail(client: &mut Client, error: PgWireError, is_extended: bool) -> Option<&'static str> {
    if matches!(error, PgWireError::IoError(_)) {
        return Some("client died");
    }
    let is_fatal = error.is_fatal();
    if process_error(client, error, is_extended).await.is_err() {
        return Some("client died");
    }
    is_fatal.then_some("fatal error")
}

fn put_parameters(out: &mut Vec<u8>, who: &ConsoleSession) {
    let parameters = [
        ("application_name", who.application_name.as_str()),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("default_transaction_read_only", "off"),
        ("in_hot_standby", "off"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", SERVER_VERSION),
        ("session_authorization", who.role.as_str()),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ];
    for (name, value) in parameters {
        wire::parameter_status(out, name, value);
    }
}
