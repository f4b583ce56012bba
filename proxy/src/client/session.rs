//! SQL sessions through tokio-postgres over our own stream.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

use super::dial::{Attempt, Purpose, Stream, attempts, dial_as, within};
use super::error::Error;
use super::message::ServerMessage;
use super::target::Target;

/// A server that does not take a farewell in time has lost its session: the socket is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A SQL session: a tokio-postgres client and the task that drives its socket. Dropping it closes
/// the socket at once; [`Session::close`] says farewell and waits until the session has ended.
pub struct Session {
    client: Client,
    driver: Driver,
}

/// Aborted when dropped. Left to itself it would wait for whatever answers are still due, and a
/// session in the middle of something would keep its locks for as long.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Connects and authenticates; notices are dropped.
    pub async fn open(target: &Target) -> Result<Self, Error> {
        Self::open_with_notices(target, drop).await
    }

    /// Connects and authenticates; notices go to the callback as they arrive.
    pub async fn open_with_notices(
        target: &Target,
        on_notice: impl FnMut(ServerMessage) + Send + 'static,
    ) -> Result<Self, Error> {
        let mut refused = None;
        let mut found = None;
        for attempt in attempts(target) {
            match connect(target, *attempt).await {
                Ok(connected) => {
                    found = Some(connected);
                    break;
                }
                Err(error) if error.is_host_based_refusal() => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let Some((client, connection)) = found else {
            return Err(refused.unwrap_or(Error::TlsRefused));
        };
        let driver = Driver(tokio::spawn(drive(connection, on_notice)));
        Ok(Self { client, driver })
    }

    /// Ends the session and waits for its socket to be closed.
    pub async fn close(self) {
        let Self { client, mut driver } = self;
        drop(client);
        // The driver ends when the client is gone; how the socket ended no longer matters.
        drop(timeout(CLOSE_LIMIT, &mut driver.0).await);
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

type Connection = tokio_postgres::Connection<Stream, tokio_postgres::tls::NoTlsStream>;

async fn connect(target: &Target, attempt: Attempt) -> Result<(Client, Connection), Error> {
    let stream = dial_as(target, attempt, Purpose::Queries).await?;
    let mut config = Config::new();
    config
        .user(&target.user)
        .dbname(&target.database)
        .application_name(&target.application_name)
        // TLS, if any, is below this stream already.
        .ssl_mode(SslMode::Disable)
        .channel_binding(ChannelBinding::Disable);
    if !target.options.is_empty() {
        config.options(&target.options);
    }
    if let Some(password) = &target.password {
        config.password(password);
    }
    within(target, async {
        config.connect_raw(stream, NoTls).await.map_err(|error| {
            // tokio-postgres has no name for this error, only a text.
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            match cause.as_deref() {
                Some("password missing") => Error::PasswordMissing,
                _ => Error::from(error),
            }
        })
    })
    .await
}

async fn drive(mut connection: Connection, mut on_notice: impl FnMut(ServerMessage)) {
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notice(notice) = message {
            on_notice(ServerMessage::from(&notice));
        }
    }
}
