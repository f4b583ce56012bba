//! Credentials: a text that never prints itself, and the key that seals it at rest.
//!
//! Must never: log or format a secret, or write one to disk unsealed.
//!
//! Sealed form: 24-byte XChaCha20 nonce, then ciphertext with its 16-byte tag. The key is 32
//! random bytes in `secret.key`, mode 0600, made on first start.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// A text that must not reach logs, errors or `ps`: its `Debug` form is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// 128 random bits as 32 hexadecimal digits: a password no one has to type.
    pub fn random() -> Self {
        Self(rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The text itself. Call it only where it goes over a wire or to an operator.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The server's key for what it keeps sealed in the catalog.
pub struct SecretKey(XChaCha20Poly1305);

/// Why a sealed text could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The key file is there but is not 32 bytes.
    #[error("secret key file {0} is damaged: restore it from a backup")]
    DamagedKey(String),
    /// The bytes were sealed with another key, or changed.
    #[error("stored credential does not open with this server's secret.key")]
    WrongKey,
    /// The key file cannot be read or made.
    #[error("use secret key file")]
    Io(#[from] io::Error),
}

impl SecretKey {
    /// Reads the key file, or makes it on first use.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                file.write_all(&rand::random::<[u8; KEY_BYTES]>())?;
                file.sync_all()?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let mut key = Vec::new();
        OpenOptions::new().read(true).open(path)?.read_to_end(&mut key)?;
        let cipher = XChaCha20Poly1305::new_from_slice(&key)
            .map_err(|_| SecretError::DamagedKey(path.display().to_string()))?;
        Ok(Self(cipher))
    }

    /// Seals a secret for the catalog.
    pub fn seal(&self, secret: &Secret) -> Vec<u8> {
        let nonce = rand::random::<[u8; NONCE_BYTES]>();
        let ciphertext = self
            .0
            .encrypt(XNonce::from_slice(&nonce), secret.reveal().as_bytes())
            .expect("encryption into memory does not fail");
        [nonce.as_slice(), &ciphertext].concat()
    }

    /// Opens what [`SecretKey::seal`] made.
    pub fn open(&self, sealed: &[u8]) -> Result<Secret, SecretError> {
        let (nonce, ciphertext) =
            sealed.split_at_checked(NONCE_BYTES).ok_or(SecretError::WrongKey)?;
        let text = self
            .0
            .decrypt(XNonce::from_slice(nonce), ciphertext)
            .map_err(|_| SecretError::WrongKey)?;
        String::from_utf8(text).map(Secret).map_err(|_| SecretError::WrongKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SecretKey {
        SecretKey(XChaCha20Poly1305::new_from_slice(&[byte; KEY_BYTES]).unwrap())
    }

    #[test]
    fn opens_only_what_it_sealed() {
        let sealed = key(1).seal(&Secret::new("hunter2"));
        assert_eq!(key(1).open(&sealed).unwrap().reveal(), "hunter2");
        assert!(key(2).open(&sealed).is_err());
        for length in 0..sealed.len() {
            assert!(key(1).open(&sealed[..length]).is_err());
        }
    }

    #[test]
    fn does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
