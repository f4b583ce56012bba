//! The front door from outside: real sockets, a real Postgres behind it, byte scripts and a driver
//! before it.

#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

/// Whether sessions are handed off; the tests of `handed_off` are these with the other answer.
const HANDOFF: bool = false;

mod support;
mod raw;

mod authentication;
mod cancel;
mod console;
mod crowds;
mod faults;
mod limits;
mod relay;
mod startup;
mod stop;
mod tls;
