//! The front door from outside, as in `front_door`, with each session in plaintext handed off to
//! its backend: the same tests hold, and some that hold only then.

#![expect(clippy::unwrap_used, reason = "a test that meets an error fails")]

const HANDOFF: bool = true;

#[path = "../front_door/support.rs"]
mod support;
#[path = "../front_door/raw.rs"]
mod raw;

#[path = "../front_door/authentication.rs"]
mod authentication;
#[path = "../front_door/cancel.rs"]
mod cancel;
#[path = "../front_door/console.rs"]
mod console;
#[path = "../front_door/faults.rs"]
mod faults;
#[path = "../front_door/limits.rs"]
mod limits;
#[path = "../front_door/relay.rs"]
mod relay;
#[path = "../front_door/startup.rs"]
mod startup;
#[path = "../front_door/stop.rs"]
mod stop;
#[path = "../front_door/tls.rs"]
mod tls;

mod library;
mod own;
