//! Ardent follows a production Postgres into a trunk and serves copy-on-write branches of it.
//!
//! The modules below are declared lowest first; a module uses only modules declared before it.
//! `tests/tidy.rs` holds that order. What stands on its own (the Postgres wire and the page
//! store) lives in the crates `proxy` and `storage`, which do not know this one.

pub mod cause;
pub mod lsn;
pub mod name;
pub mod secret;
pub mod logging;
pub mod config;
pub mod data_dir;
pub mod job;
pub mod metrics;
pub mod cli;
pub mod catalog;
pub mod environment;
pub mod store;
pub mod postgres;
pub mod compute;
pub mod source;
pub mod replication;
pub mod connector;
pub mod branch;
pub mod router;
pub mod admin;
pub mod control;
pub mod server;
