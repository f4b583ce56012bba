//! The messages we send ourselves through the source's log: barriers and heartbeats.
//!
//! Any role of the source may emit logical messages, so ours are signed with a key that never
//! leaves this process; a message that does not verify changes nothing. Content:
//! `<64 hexadecimal digits of the tag> <JSON body>`. Whoever may read the log can say one again:
//! its number has been heard by then. They come in the order they were made in, one transaction
//! each.

use sha2::{Digest, Sha256};

use crate::source::Sequence;

/// What a message carries.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Body {
    /// Grows with every message of this process, so that an old one said again is told.
    pub(super) number: u64,
    /// Names the barrier that waits for this message; empty for heartbeats.
    pub(super) token: String,
    /// Names what was read of the schema at the message's position, if anything.
    #[serde(default)]
    pub(super) poll: String,
    /// Roles or settings changed since the last message.
    #[serde(default)]
    pub(super) has_new_roles: bool,
    /// Sequences that moved since the last message.
    pub(super) sequences: Vec<Sequence>,
}

/// The key of this process.
#[derive(Clone)]
pub(super) struct MessageKey([u8; 32]);

impl MessageKey {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// The key that the source's event triggers sign with.
    pub(super) fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    pub(super) fn seal(&self, body: &Body) -> Result<String, serde_json::Error> {
        let body = serde_json::to_string(body)?;
        Ok(format!("{} {body}", self.tag(&body)))
    }

    /// The body, if this process made the message.
    pub(super) fn open(&self, content: &str) -> Option<Body> {
        let (tag, body) = content.split_once(' ')?;
        self.has_made(tag, body).then(|| serde_json::from_str(body).ok()).flatten()
    }

    /// True if this key made the tag for the text.
    pub(super) fn has_made(&self, tag: &str, text: &str) -> bool {
        equal(tag.as_bytes(), self.tag(text).as_bytes())
    }

    /// The key on both ends of two hashes, so that a tag cannot be extended (as in HMAC, RFC 2104).
    fn tag(&self, body: &str) -> String {
        let inner = Sha256::new().chain_update(self.0).chain_update(body).finalize();
        let outer = Sha256::new().chain_update(self.0).chain_update(inner).finalize();
        outer.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Compares without telling by its time where the first difference is.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_its_own() {
        let key = MessageKey::random();
        let body = Body { token: "t".into(), ..Body::default() };
        let sealed = key.seal(&body).unwrap();
        assert_eq!(key.open(&sealed), Some(body));
        assert_eq!(key.open(&sealed.replace("\"t\"", "\"u\"")), None);
        assert_eq!(MessageKey::random().open(&sealed), None);
        assert_eq!(key.open(""), None);
    }
}
