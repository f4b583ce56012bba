//! The exchange as a pure state machine: texts in, texts out; no sockets, no randomness.
//!
//! ```text
//! client-first   n,,n=<ignored>,r=<client nonce>          ClientFirst::parse
//! server-first   r=<both nonces>,s=<salt>,i=<iterations>  Exchange::server_first
//! client-final   c=<gs2 header>,r=<both nonces>,p=<proof> Exchange::finish
//! server-final   v=<server signature>
//! ```
//! The user name inside SCRAM is ignored, as Postgres does: drivers send "", "*" or the name.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::verifier::{KEY_BYTES, ScramVerifier};

/// Whether this connection can bind the exchange to its TLS channel.
#[derive(Clone, Debug)]
pub(crate) enum ChannelBinding {
    /// Plaintext: only SCRAM-SHA-256 was offered.
    Unavailable,
    /// TLS: SCRAM-SHA-256-PLUS was offered too, with this `tls-server-end-point` hash.
    ServerEndPoint(Vec<u8>),
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScramFailure {
    /// The client's message does not follow the grammar.
    Malformed(&'static str),
    /// The client thinks we cannot bind to the channel, but we offered to: a downgrade.
    Downgraded,
    /// The client bound to another channel than this one: somebody is in between.
    WrongChannel,
    /// The proof is wrong.
    WrongPassword,
}

/// client-first-message, taken apart.
#[derive(Debug)]
pub(crate) struct ClientFirst {
    gs2_header: String,
    flag: BindingFlag,
    bare: String,
    nonce: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BindingFlag {
    Unsupported,
    SupportedButNotOffered,
    ServerEndPoint,
}

impl ClientFirst {
    /// Parses the message.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, ScramFailure> {
        let text = printable(message)?;
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramFailure::Malformed("gs2 header is not complete"));
        };
        let flag = match flag {
            "n" => BindingFlag::Unsupported,
            "y" => BindingFlag::SupportedButNotOffered,
            "p=tls-server-end-point" => BindingFlag::ServerEndPoint,
            _ => return Err(ScramFailure::Malformed("unsupported channel binding")),
        };
        if !authzid.is_empty() {
            return Err(ScramFailure::Malformed("authorization identity is not supported"));
        }
        let mut fields = bare.split(',');
        let user = fields.next().unwrap_or_default();
        if !user.starts_with("n=") {
            return Err(ScramFailure::Malformed("user name is missing"));
        }
        let nonce = fields.next().and_then(|field| field.strip_prefix("r="));
        let Some(nonce) = nonce.filter(|nonce| !nonce.is_empty()) else {
            return Err(ScramFailure::Malformed("nonce is missing"));
        };
        let header_bytes = text.len() - bare.len();
        Ok(Self {
            gs2_header: text.get(..header_bytes).unwrap_or_default().to_owned(),
            flag,
            bare: bare.to_owned(),
            nonce: nonce.to_owned(),
        })
    }
}

/// An exchange after client-first.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    verifier: &'a ScramVerifier,
    client_first: ClientFirst,
    binding: Vec<u8>,
    nonce: String,
}

impl<'a> Exchange<'a> {
    /// Starts an exchange. `plus` says which of the two mechanisms the client chose.
    pub(crate) fn new(
        verifier: &'a ScramVerifier,
        client_first: ClientFirst,
        channel: &ChannelBinding,
        plus: bool,
        server_nonce: &[u8],
    ) -> Result<Self, ScramFailure> {
        if plus != (client_first.flag == BindingFlag::ServerEndPoint) {
            return Err(ScramFailure::Malformed("channel binding does not match the mechanism"));
        }
        let mut binding = client_first.gs2_header.clone().into_bytes();
        match (client_first.flag, channel) {
            (BindingFlag::SupportedButNotOffered, ChannelBinding::ServerEndPoint(_)) => {
                return Err(ScramFailure::Downgraded);
            }
            (BindingFlag::ServerEndPoint, ChannelBinding::ServerEndPoint(hash)) => {
                binding.extend_from_slice(hash);
            }
            (BindingFlag::ServerEndPoint, ChannelBinding::Unavailable) => {
                return Err(ScramFailure::Malformed("channel binding was not offered"));
            }
            _ => {}
        }
        let nonce = format!("{}{}", client_first.nonce, BASE64.encode(server_nonce));
        Ok(Self { verifier, client_first, binding, nonce })
    }

    /// server-first-message.
    pub(crate) fn server_first(&self) -> String {
        let salt = BASE64.encode(&self.verifier.salt);
        format!("r={},s={salt},i={}", self.nonce, self.verifier.iterations)
    }

    /// Checks client-final-message; returns server-final-message if the proof is right.
    pub(crate) fn finish(&self, message: &[u8]) -> Result<String, ScramFailure> {
        let text = printable(message)?;
        let (without_proof, proof) =
            text.rsplit_once(",p=").ok_or(ScramFailure::Malformed("proof is missing"))?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|field| field.strip_prefix("c="));
        let binding = binding.and_then(|text| BASE64.decode(text).ok());
        let binding = binding.ok_or(ScramFailure::Malformed("channel binding is missing"))?;
        if fields.next().and_then(|field| field.strip_prefix("r=")) != Some(&self.nonce) {
            return Err(ScramFailure::Malformed("nonce does not match"));
        }
        let proof: [u8; KEY_BYTES] = BASE64
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ScramFailure::Malformed("proof is not 32 bytes"))?;
        if binding != self.binding {
            return Err(ScramFailure::WrongChannel);
        }
        let server_first = self.server_first();
        let auth_message = format!("{},{server_first},{without_proof}", self.client_first.bare);
        let signature = hmac(&self.verifier.stored_key, auth_message.as_bytes());
        let mut client_key = [0; KEY_BYTES];
        for (byte, (proof, signature)) in client_key.iter_mut().zip(proof.iter().zip(&signature)) {
            *byte = proof ^ signature;
        }
        let stored_key: [u8; KEY_BYTES] = Sha256::digest(client_key).into();
        if !bool::from(stored_key.ct_eq(&self.verifier.stored_key)) {
            return Err(ScramFailure::WrongPassword);
        }
        let signature = hmac(&self.verifier.server_key, auth_message.as_bytes());
        Ok(format!("v={}", BASE64.encode(signature)))
    }
}

impl ScramVerifier {
    /// The verifier that an unknown name is checked against. Its salt is the same at every
    /// attempt, as a real one's is, and no password fits it.
    pub(crate) fn mock(secret: &[u8; 32], endpoint: &str, user: &[u8]) -> Self {
        let derive = |label: &[u8]| {
            let mut text = label.to_vec();
            text.extend_from_slice(endpoint.as_bytes());
            text.push(0);
            text.extend_from_slice(user);
            hmac(secret, &text)
        };
        let [salt, stored_key, server_key] = [b"salt\0", b"stor\0", b"serv\0"].map(|l| derive(l));
        // 16 bytes and 4096 rounds are what Postgres writes for a new password.
        let salt = salt.get(..16).unwrap_or_default().to_vec();
        Self { iterations: 4096, salt, stored_key, server_key }
    }
}

fn printable(message: &[u8]) -> Result<&str, ScramFailure> {
    let text = std::str::from_utf8(message)
        .map_err(|_| ScramFailure::Malformed("message is not valid UTF-8"))?;
    if text.contains('\0') {
        return Err(ScramFailure::Malformed("message holds a zero byte"));
    }
    Ok(text)
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl;

    fn run(password: &str, client_password: &[u8]) -> Result<(), ScramFailure> {
        let verifier = ScramVerifier::from_password(password).unwrap();
        let binding = sasl::ChannelBinding::unsupported();
        let mut client = sasl::ScramSha256::new(client_password, binding);
        let first = ClientFirst::parse(client.message())?;
        let channel = ChannelBinding::Unavailable;
        let exchange = Exchange::new(&verifier, first, &channel, false, b"server nonce")?;
        client.update(exchange.server_first().as_bytes()).unwrap();
        let last = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn accepts_the_password_and_no_other() {
        assert_eq!(run("correct", b"correct"), Ok(()));
        assert_eq!(run("correct", b"wrong"), Err(ScramFailure::WrongPassword));
    }

    #[test]
    fn takes_any_user_field() {
        for user in ["", "u", "*"] {
            assert!(ClientFirst::parse(format!("n,,n={user},r=abc").as_bytes()).is_ok());
        }
    }

    #[test]
    fn truncated_messages_are_refused() {
        let first = b"n,,n=u,r=abc";
        for end in 0..=first.len() {
            let parsed = ClientFirst::parse(&first[..end]);
            assert_eq!(parsed.is_ok(), end > b"n,,n=u,r=".len(), "{end}");
        }
        let verifier = ScramVerifier::from_password("x").unwrap();
        let channel = ChannelBinding::Unavailable;
        let first = ClientFirst::parse(first).unwrap();
        let exchange = Exchange::new(&verifier, first, &channel, false, b"n").unwrap();
        let last = format!("c=biws,r={},p={}", exchange.nonce, BASE64.encode([0; 32]));
        for end in 0..last.len() {
            let result = exchange.finish(&last.as_bytes()[..end]);
            assert!(matches!(result, Err(ScramFailure::Malformed(_))), "{end}");
        }
        assert_eq!(exchange.finish(last.as_bytes()), Err(ScramFailure::WrongPassword));
    }

    #[test]
    fn no_mutation_of_the_right_messages_is_taken_for_them() {
        use rand::rngs::StdRng;
        use rand::{RngCore, SeedableRng};
        let verifier = ScramVerifier::from_password("right").unwrap();
        let binding = sasl::ChannelBinding::unsupported();
        let mut client = sasl::ScramSha256::new(b"right", binding);
        let first = client.message().to_vec();
        let parsed = ClientFirst::parse(&first).unwrap();
        let channel = ChannelBinding::Unavailable;
        let exchange = Exchange::new(&verifier, parsed, &channel, false, b"nonce").unwrap();
        client.update(exchange.server_first().as_bytes()).unwrap();
        let last = client.message().to_vec();
        assert!(exchange.finish(&last).is_ok());
        let mut random = StdRng::seed_from_u64(11);
        for _ in 0..20_000 {
            let [mut first, mut mutated] = [first.clone(), last.clone()];
            for message in [&mut first, &mut mutated] {
                for _ in 0..=random.next_u32() % 3 {
                    let at = random.next_u32() as usize % message.len();
                    match random.next_u32() % 3 {
                        0 => message[at] = random.next_u32().to_le_bytes()[0],
                        1 => drop(message.remove(at)),
                        _ => message.insert(at, b",=pr\0\xff"[at % 6]),
                    }
                }
            }
            let _ = ClientFirst::parse(&first);
            assert_eq!(exchange.finish(&mutated).is_ok(), mutated == last, "{mutated:?}");
        }
    }

    #[test]
    fn downgrade_is_refused() {
        let verifier = ScramVerifier::from_password("x").unwrap();
        let first = ClientFirst::parse(b"y,,n=,r=abc").unwrap();
        let channel = ChannelBinding::ServerEndPoint(vec![1, 2, 3]);
        let result = Exchange::new(&verifier, first, &channel, false, b"n");
        assert_eq!(result.err(), Some(ScramFailure::Downgraded));
    }

    #[test]
    fn mock_salt_is_stable_and_differs_by_name() {
        let salt = |endpoint, user| ScramVerifier::mock(&[7; 32], endpoint, user).salt;
        assert_eq!(salt("b1", b"app"), salt("b1", b"app"));
        assert_ne!(salt("b1", b"app"), salt("b2", b"app"));
        assert_ne!(salt("b1", b"app"), salt("b1", b"ap"));
    }
}
