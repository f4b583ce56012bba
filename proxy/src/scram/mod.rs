//! SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): what is stored, and the exchange.

mod verifier;

pub use verifier::{InvalidVerifier, ScramVerifier};
