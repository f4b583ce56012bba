//! Addresses of ways: `ssh://user[:password]@host[:port]`, `socks5://[user:password@]host[:port]`.

use std::fmt;

use percent_encoding::percent_decode_str;

use super::InvalidWay;
use crate::secret::Secret;

/// Where a way begins.
#[derive(Clone)]
pub(super) struct Address {
    /// `ssh` or `socks5`.
    pub(super) scheme: &'static str,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, InvalidWay> {
        let (scheme, default_port, rest) = if let Some(rest) = url.strip_prefix("ssh://") {
            ("ssh", 22, rest)
        } else if let Some(rest) = url.strip_prefix("socks5://") {
            ("socks5", 1080, rest)
        } else {
            return Err(InvalidWay::Url("it must begin with ssh:// or socks5://"));
        };
        let (credentials, location) = match rest.rsplit_once('@') {
            Some((credentials, location)) => (Some(credentials), location),
            None => (None, rest),
        };
        let location = location.trim_end_matches('/');
        let (host, port) = match endpoint(location) {
            Some((host, port)) => (host, port),
            None => (host_alone(location)?, default_port),
        };
        let (user, password) = match credentials.map(|text| text.split_once(':').ok_or(text)) {
            None => (None, None),
            Some(Err(user)) => (Some(decode(user)?), None),
            Some(Ok((user, password))) => {
                (Some(decode(user)?), Some(Secret::new(decode(password)?)))
            }
        };
        Ok(Self { scheme, user, password, host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// `host:port` or `[address]:port` as its parts.
pub fn endpoint(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_plain = !host.is_empty() && (is_bracketed || !host.contains(':'));
    let is_text = !host.contains(['/', ' ', '@']);
    (is_plain && is_text).then_some(())?;
    Some((host.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
}

fn host_alone(text: &str) -> Result<String, InvalidWay> {
    let host = text.trim_start_matches('[').trim_end_matches(']');
    let is_address = text.starts_with('[') || !host.contains(':');
    if host.is_empty() || host.contains(['/', ' ', '?']) || !is_address {
        return Err(InvalidWay::Url("it names no host, or no valid port"));
    }
    Ok(host.to_owned())
}

fn decode(text: &str) -> Result<String, InvalidWay> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| InvalidWay::Url("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_everything_but_the_password() {
        let shown = |url: &str| Address::parse(url).map(|address| address.to_string());
        assert_eq!(shown("ssh://ops:p%40ss@b.example.com").unwrap(), "ssh://ops@b.example.com:22");
        assert_eq!(shown("socks5://10.0.0.1:9999/").unwrap(), "socks5://10.0.0.1:9999");
        assert_eq!(shown("socks5://[::1]").unwrap(), "socks5://[::1]:1080");
        for bad in ["http://h", "ssh://", "ssh://u@", "ssh://h:x", "socks5://h:0", "ssh://a b"] {
            let error = shown(bad).unwrap_err().to_string();
            assert!(error.starts_with("invalid environment URL"), "{bad}: {error}");
        }
    }

    #[test]
    fn endpoints_have_a_host_and_a_port() {
        assert_eq!(endpoint("db.internal:5432"), Some(("db.internal".to_owned(), 5432)));
        assert_eq!(endpoint("[fd00::1]:5432"), Some(("fd00::1".to_owned(), 5432)));
        for bad in ["db", ":1", "db:", "db:99999", "fd00::1:5432", "u@h:1", "a/b:1"] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }
}
