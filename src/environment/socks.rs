//! A SOCKS5 proxy. It resolves the source's name, so that a private name means what it means there.

use proxy::client::Stream;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

use super::WayError;
use super::url::Address;

pub(super) struct Socks(Address);

impl Socks {
    pub(super) fn new(address: &Address) -> Self {
        Self(address.clone())
    }

    pub(super) async fn open(&self, host: &str, port: u16) -> Result<Stream, WayError> {
        let proxy = &self.0;
        let unreachable = |source| WayError::Unreachable { address: proxy.to_string(), source };
        let socket =
            TcpStream::connect((proxy.host.as_str(), proxy.port)).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let opened = match (&proxy.user, &proxy.password) {
            (Some(user), Some(password)) => {
                let password = password.reveal();
                Socks5Stream::connect_with_password_and_socket(socket, (host, port), user, password)
                    .await
            }
            _ => Socks5Stream::connect_with_socket(socket, (host, port)).await,
        };
        let failed = |source| WayError::Socks { address: proxy.to_string(), source };
        Ok(Box::new(opened.map_err(failed)?.into_inner()))
    }
}
