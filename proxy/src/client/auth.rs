//! Startup and authentication as a client: cleartext, MD5, SCRAM-SHA-256.

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::connection::{Connection, Incoming};
use super::error::Error;
use super::target::Target;

/// Sends the startup message and answers until the server is ready for a query.
pub(super) async fn start(
    connection: &mut Connection,
    target: &Target,
    extra: &[(&str, &str)],
) -> Result<(), Error> {
    let mut parameters = vec![
        ("user", target.user.as_str()),
        ("database", target.database.as_str()),
        ("application_name", target.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    if !target.options.is_empty() {
        parameters.push(("options", &target.options));
    }
    parameters.extend_from_slice(extra);
    let mut request = BytesMut::new();
    frontend::startup_message(parameters, &mut request)?;
    connection.send(&request).await?;
    authenticate(connection, target).await?;
    loop {
        match next(connection).await? {
            Message::ReadyForQuery(_) => return Ok(()),
            Message::BackendKeyData(_) | Message::ParameterStatus(_) => {}
            Message::NoticeResponse(_) => {}
            _ => return Err(Error::Protocol("unexpected message before the first query")),
        }
    }
}

async fn authenticate(connection: &mut Connection, target: &Target) -> Result<(), Error> {
    let mut reply = BytesMut::new();
    loop {
        match next(connection).await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                frontend::password_message(password(target)?.as_bytes(), &mut reply)?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash =
                    md5_hash(target.user.as_bytes(), password(target)?.as_bytes(), body.salt());
                frontend::password_message(hash.as_bytes(), &mut reply)?;
            }
            Message::AuthenticationSasl(body) => scram(connection, target, &body).await?,
            Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
            Message::AuthenticationGss | Message::AuthenticationSspi => {
                return Err(Error::UnsupportedAuthentication("GSSAPI"));
            }
            _ => return Err(Error::UnsupportedAuthentication("of an unknown kind")),
        }
        if !reply.is_empty() {
            connection.send(&reply.split()).await?;
        }
    }
}

/// RFC 5802 over the protocol's SASL messages. No channel binding: the bound certificate would
/// have to pass through here, and `verify-full` proves the same to those who ask for proof.
async fn scram(
    connection: &mut Connection,
    target: &Target,
    body: &AuthenticationSaslBody,
) -> Result<(), Error> {
    let offered = body.mechanisms().any(|name| Ok(name == sasl::SCRAM_SHA_256))?;
    if !offered {
        return Err(Error::UnsupportedAuthentication("SASL other than SCRAM-SHA-256"));
    }
    let secret = password(target)?.as_bytes();
    let mut exchange = ScramSha256::new(secret, ChannelBinding::unsupported());
    let mut reply = BytesMut::new();
    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, exchange.message(), &mut reply)?;
    connection.send(&reply.split()).await?;
    let Message::AuthenticationSaslContinue(body) = next(connection).await? else {
        return Err(Error::Protocol("SASL exchange broken off"));
    };
    exchange.update(body.data())?;
    frontend::sasl_response(exchange.message(), &mut reply)?;
    connection.send(&reply.split()).await?;
    let Message::AuthenticationSaslFinal(body) = next(connection).await? else {
        return Err(Error::Protocol("SASL exchange broken off"));
    };
    Ok(exchange.finish(body.data())?)
}

async fn next(connection: &mut Connection) -> Result<Message, Error> {
    match connection.next().await? {
        Incoming::Message(message) => Ok(message),
        Incoming::Error(message) => Err(Error::Server(message)),
        _ => Err(Error::Protocol("copy message during startup")),
    }
}

fn password(target: &Target) -> Result<&str, Error> {
    target.password.as_deref().ok_or(Error::PasswordMissing)
}
