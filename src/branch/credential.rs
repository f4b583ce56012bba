//! The password of a branch's URL: fresh for every branch, known to nobody but whoever sees the
//! URL.

use proxy::ScramVerifier;

use crate::secret::{Secret, SecretKey};

/// A new password in the two forms that are kept.
pub(super) struct Credential {
    /// Sealed, to show the URL again.
    pub(super) password: Vec<u8>,
    /// What the front door checks logins against.
    pub(super) verifier: String,
}

impl Credential {
    pub(super) fn new(key: &SecretKey) -> Self {
        let password = Secret::random();
        let verifier = ScramVerifier::from_password(password.reveal())
            .expect("a random password of hexadecimal digits has a verifier");
        Self { password: key.seal(&password), verifier: verifier.to_string() }
    }
}
