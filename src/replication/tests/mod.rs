//! Replication between real servers.

mod support;

mod chain;
mod copy;
mod faults;
mod kinds;
mod preflight;
mod schema;
mod verify;
