//! The front door's identity: the operator's certificate where one is configured, else one of the
//! server's own authority.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use proxy::Tls;

use super::ServerError;
use super::authority::Authority;
use crate::config::ProxyConfig;

/// The identity to show, made from files as they are now.
pub(super) fn identity(
    proxy: &ProxyConfig,
    authority: &Authority,
    listening: &[SocketAddr],
) -> Result<Tls, ServerError> {
    let certificate = &proxy.tls_certificate;
    let tls = if certificate.as_os_str().is_empty() {
        authority
            .identity(names(proxy, listening))
            .map_err(|error| unusable(authority.certificate(), crate::cause::Causes(&error)))?
    } else {
        Tls::from_pem(&read(certificate)?, &read(&proxy.tls_key)?)
            .map_err(|error| unusable(certificate, error))?
    };
    Ok(if proxy.domain.is_empty() { tls } else { tls.with_domain(proxy.domain.clone()) })
}

/// All that a client may call this server: what a URL shows, and what this host is known by.
fn names(proxy: &ProxyConfig, listening: &[SocketAddr]) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    names.extend([hostname.trim().to_owned(), proxy.host.clone()]);
    if !proxy.domain.is_empty() {
        names.extend([proxy.domain.clone(), format!("*.{}", proxy.domain)]);
    }
    let addresses = listening.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    names.extend(addresses.map(|ip| ip.to_string()));
    names.retain(|name| is_host(name));
    names.sort();
    names.dedup();
    names
}

/// A certificate cannot hold other characters in a name.
fn is_host(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*');
    !name.is_empty() && (name.parse::<IpAddr>().is_ok() || name.bytes().all(allowed))
}

fn read(path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, reason: impl ToString) -> ServerError {
    ServerError::Tls { path: path.display().to_string(), reason: reason.to_string() }
}
