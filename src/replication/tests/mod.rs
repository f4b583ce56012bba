//! Replication between real servers.

mod support;

mod chain;
mod faults;
mod kinds;
mod preflight;
mod schema;
mod verify;
