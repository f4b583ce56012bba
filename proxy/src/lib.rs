//! The Postgres wire, both ends.

pub mod client;
