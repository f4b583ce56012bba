//! SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): what is stored, and the exchange.

mod exchange;
mod verifier;

pub(crate) use exchange::{ChannelBinding, ClientFirst, Exchange, ScramFailure};
pub use verifier::{InvalidVerifier, ScramVerifier};
