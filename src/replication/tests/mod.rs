//! Replication between real servers.

mod support;

mod bulk;
mod catalogue;
mod chain;
mod copy;
mod ddl;
mod faults;
mod format;
mod fuzz;
mod interrupted;
mod kinds;
mod preflight;
mod resync;
mod schema;
mod verify;
