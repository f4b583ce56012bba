//! Copy-on-write page store: the body of the `ardent store` process and its control client.
//!
//! The store keeps the data directories of every branch, serves them through one FUSE mount, and
//! forks a branch in constant time. It knows nothing of Postgres beyond the identity filter, and
//! nothing of the server that drives it. `README.md` has the on-disk format and the crash analysis.
//!
//! Modules depend downwards only, in the order declared here, lowest first.

mod error;
mod id;
mod numbers;
pub mod wire;
mod locks;
mod ranges;
mod pages;
mod disk;
mod journal;
mod inode;
mod tree;
mod filter;
mod files;
mod room;
mod layer;
mod branch;
mod manifest;
mod graph;
mod ledger;
mod load;
mod import;
mod holdings;
mod merge;
mod compaction;
mod running;
mod keeper;
mod check;
mod store;
mod claim;
mod mount;
mod control;
pub mod client;
pub mod daemon;
pub mod offline;

#[cfg(test)]
mod tests;

pub use client::StoreClient;
pub use daemon::StoreConfig;
pub use error::{Advice, Error, RefusalCode};
pub use id::BranchId;
pub use import::incoming_dir;
pub use wire::{BranchSummary, Finding, Owner, Usage};
