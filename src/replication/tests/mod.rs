//! Replication between real servers.

mod server;
mod support;

mod chain;
mod faults;
mod kinds;
mod preflight;
mod schema;
