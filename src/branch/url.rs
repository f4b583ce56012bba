//! The URL under which applications reach a branch.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::secret::Secret;

/// Everything but RFC 3986's unreserved characters is encoded in user, password and database.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where the front door is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontDoorAddress {
    /// Host that URLs show: a name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Domain whose labels are endpoints, if one is configured.
    pub domain: Option<String>,
}

/// What a URL leads to.
#[derive(Clone, Copy, Debug)]
pub struct UrlParts<'a> {
    /// Role that logs in.
    pub role: &'a str,
    /// Its password.
    pub password: &'a Secret,
    /// Endpoint of the branch.
    pub endpoint: &'a str,
    /// Database in the branch.
    pub database: &'a str,
}

impl FrontDoorAddress {
    /// `postgresql://role:password@<endpoint>.<domain>:<port>/<db>?sslmode=require` with a
    /// domain, `postgresql://role.<endpoint>:password@<host>:<port>/<db>` without.
    pub fn branch_url(&self, parts: UrlParts<'_>) -> String {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let (role, password) = (encode(parts.role), encode(parts.password.reveal()));
        let (endpoint, database, port) = (parts.endpoint, encode(parts.database), self.port);
        match &self.domain {
            Some(domain) => format!(
                "postgresql://{role}:{password}@{endpoint}.{domain}:{port}/{database}\
                 ?sslmode=require"
            ),
            None => {
                let host = bracketed(&self.host);
                format!("postgresql://{role}.{endpoint}:{password}@{host}:{port}/{database}")
            }
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str, domain: Option<&str>, role: &str, database: &str) -> String {
        let domain = domain.map(str::to_owned);
        let address = FrontDoorAddress { host: host.to_owned(), port: 6432, domain };
        let password = Secret::new("p@ss");
        address.branch_url(UrlParts { role, password: &password, endpoint: "b1", database })
    }

    #[test]
    fn names_the_endpoint_in_user_or_host() {
        assert_eq!(
            url("127.0.0.1", None, "branch_owner", "shop"),
            "postgresql://branch_owner.b1:p%40ss@127.0.0.1:6432/shop"
        );
        assert_eq!(
            url("x", Some("db.example.com"), "app", "shop"),
            "postgresql://app:p%40ss@b1.db.example.com:6432/shop?sslmode=require"
        );
        assert_eq!(url("::1", None, "a b", "ä"), "postgresql://a%20b.b1:p%40ss@[::1]:6432/%C3%A4");
    }
}
