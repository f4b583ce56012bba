//! The customer's database that a connector follows, read as little as possible.
//!
//! Owns its address, the facts setup needs about it, and preflight: the checks that say whether a
//! connector can work and, if not, what to do. Must never write to the source, leave anything
//! there, or show its password.

mod capture;
mod decoding;
mod error;
mod facts;
mod grants;
mod plugin;
mod preflight;
mod privileges;
mod provider;
mod reach;
mod report;
mod server;
mod url;

pub use error::Error;
pub use facts::{
    Facts, Identity, RoleFacts, Sequence, Table, TableName, identity, read_facts, tables,
};
pub use plugin::Plugin;
pub use preflight::{PluginChoice, PreflightOptions, preflight};
pub use provider::Provider;
pub use report::{Report, Row, RowKind, RowStatus};
pub use url::{PINNED_OPTIONS, SourceUrl};
