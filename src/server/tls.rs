//! The front door's certificate, as the operator configured it.

use std::path::Path;

use proxy::{Listener, Tls};
use tokio::net::TcpListener;

use super::ServerError;
use crate::config::ProxyConfig;

/// The TCP listener: with TLS where a certificate is configured.
pub(super) fn listener(socket: TcpListener, proxy: &ProxyConfig) -> Result<Listener, ServerError> {
    let listener = Listener::tcp(socket);
    let certificate = &proxy.tls_certificate;
    if certificate.as_os_str().is_empty() {
        if proxy.require_tls {
            let reason = "proxy.require_tls needs proxy.tls_certificate and proxy.tls_key";
            return Err(unusable(certificate, reason));
        }
        return Ok(listener);
    }
    let tls = Tls::from_pem(&read(certificate)?, &read(&proxy.tls_key)?)
        .map_err(|error| unusable(certificate, error))?;
    let tls = if proxy.domain.is_empty() { tls } else { tls.with_domain(proxy.domain.clone()) };
    let listener = listener.with_tls(tls);
    Ok(if proxy.require_tls { listener.requiring_tls() } else { listener })
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, reason: impl ToString) -> ServerError {
    ServerError::Tls { path: path.display().to_string(), reason: reason.to_string() }
}
