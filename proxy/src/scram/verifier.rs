//! What a server stores instead of a password:
//! `SCRAM-SHA-256$<iterations>:<salt>$<stored>:<server>`, the form of `pg_authid.rolpassword`.
//!
//! A verifier proves a password without holding it, but whoever has it can pose as the server and
//! guess offline: it is never printed by `Debug`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq;

pub(crate) const KEY_BYTES: usize = 32;
/// More iterations than this only make logging in slow (Postgres allows up to i32::MAX).
const ITERATIONS_MAX: u32 = 10_000_000;
const SALT_BYTES_MAX: usize = 1024;

/// The stored half of a SCRAM-SHA-256 credential.
#[derive(Clone)]
pub struct ScramVerifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: [u8; KEY_BYTES],
    pub(crate) server_key: [u8; KEY_BYTES],
}

/// The text is not a SCRAM-SHA-256 verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier")]
pub struct InvalidVerifier;

impl ScramVerifier {
    /// Derives the verifier of a password: random salt, 4096 iterations, SASLprep, as Postgres
    /// does. Takes some milliseconds of CPU.
    pub fn from_password(password: &str) -> Result<Self, InvalidVerifier> {
        postgres_protocol::password::scram_sha_256(password.as_bytes()).parse()
    }
}

impl FromStr for ScramVerifier {
    type Err = InvalidVerifier;

    fn from_str(text: &str) -> Result<Self, InvalidVerifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(InvalidVerifier)?;
        let (parameters, keys) = rest.split_once('$').ok_or(InvalidVerifier)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(InvalidVerifier)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(InvalidVerifier)?;
        let iterations: u32 = iterations.parse().map_err(|_| InvalidVerifier)?;
        let salt = BASE64.decode(salt).map_err(|_| InvalidVerifier)?;
        let sane = (1..=ITERATIONS_MAX).contains(&iterations)
            && (1..=SALT_BYTES_MAX).contains(&salt.len());
        if !sane {
            return Err(InvalidVerifier);
        }
        Ok(Self { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }
}

fn key(text: &str) -> Result<[u8; KEY_BYTES], InvalidVerifier> {
    let bytes = BASE64.decode(text).map_err(|_| InvalidVerifier)?;
    bytes.try_into().map_err(|_| InvalidVerifier)
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key));
        let server = BASE64.encode(self.server_key);
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(***)")
    }
}

/// Compares in constant time: the same credential, not only the same password.
impl PartialEq for ScramVerifier {
    fn eq(&self, other: &Self) -> bool {
        let keys =
            self.stored_key.ct_eq(&other.stored_key) & self.server_key.ct_eq(&other.server_key);
        bool::from(keys) && self.iterations == other.iterations && self.salt == other.salt
    }
}

impl Eq for ScramVerifier {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let verifier = ScramVerifier::from_password("secret").unwrap();
        let text = verifier.to_string();
        assert!(text.starts_with("SCRAM-SHA-256$4096:"));
        assert_eq!(text.parse::<ScramVerifier>().unwrap(), verifier);
        assert_eq!(format!("{verifier:?}"), "ScramVerifier(***)");
    }

    #[test]
    fn refuses_every_truncation() {
        let text = ScramVerifier::from_password("secret").unwrap().to_string();
        for end in 0..text.len() {
            assert_eq!(text[..end].parse::<ScramVerifier>(), Err(InvalidVerifier), "{end}");
        }
        assert!("md53175bce1d3201d16594cebf9d7eb3f9d".parse::<ScramVerifier>().is_err());
    }
}
