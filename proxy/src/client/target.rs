//! Where to connect, as whom, and how: a `postgresql://` URL once it has been checked.
//!
//! Must never: show the password. `Display` and `Debug` print `***` in its place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server, a database in it, and how to get there.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The machine or the socket directory.
    pub host: Host,
    /// TCP port, or the number in the name of the socket.
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: Option<String>,
    /// Database to open.
    pub database: String,
    /// What `sslmode` says.
    pub tls: TlsMode,
    /// A file of trusted roots; without it the ones of the host are used.
    pub root_certificate: Option<PathBuf>,
    /// Limit for dialing, TLS and authentication together.
    pub connect_timeout: Duration,
    /// Shown in the server's `pg_stat_activity`.
    pub application_name: String,
    /// What is dialled in place of the host. TLS still verifies the host's name.
    pub via: Option<Via>,
    /// Startup `options`, such as `-c statement_timeout=5s`.
    pub options: String,
}

/// Sockets of this machine that lead to a host we do not dial ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// For us.
    pub socket: PathBuf,
    /// For programs of Postgres, which have no TLS on a unix socket: a port of 127.0.0.1.
    pub loopback_port: u16,
}

/// The machine or the directory that holds the server's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A host name or address, reached over TCP.
    Name(String),
    /// A directory with a socket `.s.PGSQL.<port>`.
    Socket(PathBuf),
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server has it.
    #[default]
    Prefer,
    /// Always, whoever answers.
    Require,
    /// Always, with a certificate of a trusted root.
    VerifyCa,
    /// Always, with a certificate of a trusted root for this host.
    VerifyFull,
}

/// Why a text is not a URL we can connect to. Never quotes the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid connection URL: {0}")]
pub struct InvalidUrl(String);

impl Target {
    /// A server on this machine that trusts its socket.
    pub fn unix(directory: impl AsRef<Path>, port: u16, user: &str, database: &str) -> Self {
        Self {
            host: Host::Socket(directory.as_ref().to_owned()),
            port,
            user: user.to_owned(),
            password: None,
            database: database.to_owned(),
            tls: TlsMode::Disable,
            root_certificate: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            application_name: "ardent".to_owned(),
            via: None,
            options: String::new(),
        }
    }

    /// The same server, reached through sockets that lead to it.
    pub fn through(&self, via: Via) -> Self {
        Self { via: Some(via), ..self.clone() }
    }

    /// The same target with more startup options after its own.
    pub fn with_options(&self, options: &str) -> Self {
        let options = format!("{} {options}", self.options).trim().to_owned();
        Self { options, ..self.clone() }
    }

    /// The same target with another database.
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// Host and port, or the path of the socket.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Name(name) if name.contains(':') => format!("[{name}]:{}", self.port),
            Host::Name(name) => format!("{name}:{}", self.port),
            Host::Socket(_) => self.socket_path().display().to_string(),
        }
    }

    pub(super) fn socket_path(&self) -> PathBuf {
        match &self.host {
            Host::Socket(directory) => directory.join(format!(".s.PGSQL.{}", self.port)),
            Host::Name(_) => PathBuf::new(),
        }
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), InvalidUrl> {
        match key {
            "sslmode" => self.tls = value.parse()?,
            "sslrootcert" if value == "system" => self.tls = TlsMode::VerifyFull,
            "sslrootcert" => self.root_certificate = Some(PathBuf::from(value)),
            "connect_timeout" => {
                let seconds: u64 = value
                    .parse()
                    .map_err(|_| InvalidUrl("connect_timeout is not a number".into()))?;
                // libpq: 0 means wait for ever, which no caller here wants.
                if seconds > 0 {
                    self.connect_timeout = Duration::from_secs(seconds);
                }
            }
            "options" => self.options = value,
            "application_name" => self.application_name = value,
            "host" if value.starts_with('/') => self.host = Host::Socket(PathBuf::from(value)),
            "host" => self.host = Host::Name(value),
            "port" => self.port = parse_port(&value)?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            // Without meaning for us, and harmless: many providers put them into their URLs.
            "channel_binding"
            | "gssencmode"
            | "target_session_attrs"
            | "sslnegotiation"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count"
            | "pgbouncer"
            | "sslcertmode"
            | "client_encoding" => {}
            _ => return Err(InvalidUrl(format!("unknown parameter \"{key}\""))),
        }
        Ok(())
    }
}

impl FromStr for Target {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let rest = url
            .strip_prefix("postgresql://")
            .or_else(|| url.strip_prefix("postgres://"))
            .ok_or_else(|| InvalidUrl("it must begin with postgresql://".into()))?;
        let (credentials, rest) = split_credentials(rest);
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = location.split_once('/').unwrap_or((location, ""));
        let mut target = Self::unix("", DEFAULT_PORT, "", &decode(database)?);
        target.tls = TlsMode::default();
        target.host = Host::Name(String::new());
        if let Some(credentials) = credentials {
            let (user, password) = credentials
                .split_once(':')
                .map_or((credentials, None), |(user, password)| (user, Some(password)));
            target.user = decode(user)?;
            target.password = password.map(decode).transpose()?;
        }
        set_authority(&mut target, authority)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| InvalidUrl(format!("parameter \"{pair}\" has no value")))?;
            target.set(&decode(key)?, decode(value)?)?;
        }
        finish(target)
    }
}

/// User and password before the `@`. The last `@` before the path counts; if a raw `/` or `?` in
/// the password hides it, the last one anywhere.
fn split_credentials(rest: &str) -> (Option<&str>, &str) {
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let at = rest.get(..authority_end).and_then(|text| text.rfind('@')).or_else(|| {
        rest.split(['?']).next().and_then(|text| text.rfind('@')).or_else(|| rest.rfind('@'))
    });
    match at.and_then(|at| rest.split_at_checked(at)) {
        Some((credentials, host)) => (Some(credentials), host.trim_start_matches('@')),
        None => (None, rest),
    }
}

fn set_authority(target: &mut Target, authority: &str) -> Result<(), InvalidUrl> {
    if authority.contains(',') {
        return Err(InvalidUrl("name one host: the writer".into()));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| InvalidUrl("the address lacks its closing bracket".into()))?;
            (host, port.strip_prefix(':'))
        }
        None => {
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
        }
    };
    let host = decode(host)?;
    target.host =
        if host.starts_with('/') { Host::Socket(PathBuf::from(host)) } else { Host::Name(host) };
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        target.port = parse_port(port)?;
    }
    Ok(())
}

fn finish(mut target: Target) -> Result<Target, InvalidUrl> {
    if target.user.is_empty() {
        return Err(InvalidUrl("it names no user".into()));
    }
    if target.host == Host::Name(String::new()) {
        return Err(InvalidUrl("it names no host".into()));
    }
    if target.database.is_empty() {
        target.database.clone_from(&target.user);
    }
    let texts = [&target.user, &target.database, &target.options, &target.application_name];
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(InvalidUrl("it contains a zero byte".into()));
    }
    Ok(target)
}

fn decode(text: &str) -> Result<String, InvalidUrl> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| InvalidUrl("a percent-encoded part is not UTF-8".into()))
}

fn parse_port(text: &str) -> Result<u16, InvalidUrl> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(InvalidUrl("the port is not a number from 1 to 65535".into())),
    }
}

impl FromStr for TlsMode {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        Ok(match text {
            "disable" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return Err(InvalidUrl(format!("unknown sslmode \"{text}\""))),
        })
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let password = if self.password.is_some() { ":***" } else { "" };
        let address = match &self.host {
            Host::Name(_) => self.address(),
            Host::Socket(path) => format!("{}:{}", encode(&path.to_string_lossy()), self.port),
        };
        let (user, database) = (&self.user, &self.database);
        write!(f, "postgresql://{user}{password}@{address}/{database}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Target {
        url.parse().unwrap()
    }

    #[test]
    fn takes_what_libpq_takes() {
        let target = parse(
            "postgresql://us%40er:p%2Fss@db.example.com:6543/my%20db?sslmode=verify-full\
             &connect_timeout=3&application_name=x&options=-c%20a%3Db&sslrootcert=/ca.pem",
        );
        assert_eq!(target.user, "us@er");
        assert_eq!(target.password.as_deref(), Some("p/ss"));
        assert_eq!(target.address(), "db.example.com:6543");
        assert_eq!(target.database, "my db");
        assert_eq!(target.tls, TlsMode::VerifyFull);
        assert_eq!(target.connect_timeout, Duration::from_secs(3));
        assert_eq!(target.options, "-c a=b");
        assert_eq!(target.root_certificate, Some(PathBuf::from("/ca.pem")));
        assert_eq!(parse("postgres://u@[::1]:5/d").address(), "[::1]:5");
        assert_eq!(parse("postgres://u@h").database, "u");
        assert_eq!(parse("postgres:///d?host=/run/pg&user=u").address(), "/run/pg/.s.PGSQL.5432");
    }

    #[test]
    fn takes_passwords_that_should_have_been_encoded() {
        for password in ["a@b", "a#b!$(c)", "a/b", "a?b&c=d", "a:b"] {
            let target = parse(&format!("postgresql://u:{password}@h/d?sslmode=disable"));
            assert_eq!(target.password.as_deref(), Some(password));
            assert_eq!((target.address().as_str(), &*target.database), ("h:5432", "d"));
        }
    }

    #[test]
    fn refuses_and_never_shows_the_password() {
        for url in [
            "mysql://u:sekret@h/d",
            "postgresql://u:sekret@h:99999/d",
            "postgresql://u:sekret@h/d?sslmode=sometimes",
            "postgresql://u:sekret@h/d?nonsense=1",
            "postgresql://u:sekret@h,i/d",
            "postgresql://:sekret@h/d",
            "postgresql://u:sekret@/d",
        ] {
            let error = url.parse::<Target>().unwrap_err().to_string();
            assert!(!error.contains("sekret"), "{error}");
        }
        let shown = format!("{:?}", parse("postgresql://u:sekret@h/d"));
        assert_eq!(shown, "postgresql://u:***@h:5432/d");
    }
}
