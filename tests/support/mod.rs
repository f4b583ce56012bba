//! Everything a test stands on: throw-away sources and servers, the drivers, and one way to wait.
//!
//! Each piece owns what it starts and ends it when dropped. What is left behind afterwards (a
//! process, a mount, a directory) fails the test that left it.

pub(crate) mod cli;
pub(crate) mod drivers;
pub(crate) mod network;
pub(crate) mod newer;
pub(crate) mod pgbench;
pub(crate) mod processes;
pub(crate) mod scratch;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod source;
pub(crate) mod wait;
pub(crate) mod workload;
