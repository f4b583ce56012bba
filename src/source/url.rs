//! The address of a source, checked once where it enters.

use std::fmt;
use std::str::FromStr;

use proxy::client::{InvalidUrl, Target};

use crate::secret::Secret;

/// A parsed `postgresql://` URL. Its `Display` and `Debug` forms print `***` for the password.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl(Target);

impl SourceUrl {
    /// Parses a URL that may hold a password.
    pub fn parse(url: &Secret) -> Result<Self, InvalidUrl> {
        url.reveal().parse()
    }

    /// Where and how to connect.
    pub fn target(&self) -> &Target {
        &self.0
    }

    /// The same source, with every connection made as `target` says.
    pub fn reached_as(target: Target) -> Self {
        Self(target)
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.0.address()
    }

    /// The database that is followed; the trunk's database has the same name.
    pub fn database(&self) -> &str {
        &self.0.database
    }

    /// The same address with startup options that pin how values are printed, so that a value
    /// reads the same from the log, from COPY and in the trunk (replication notes, section 2.2).
    pub fn pinned(&self) -> Target {
        self.0.with_options(PINNED_OPTIONS)
    }
}

/// Settings that change the text form of values, the same for every session on either side.
pub const PINNED_OPTIONS: &str = "-c bytea_output=hex -c datestyle=ISO,MDY \
    -c intervalstyle=postgres -c extra_float_digits=3 -c timezone=UTC -c search_path= \
    -c lc_monetary=C -c xmloption=content -c client_min_messages=warning";

impl FromStr for SourceUrl {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        url.parse().map(Self)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
