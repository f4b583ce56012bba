//! From a source to a trunk: first copy, then the stream of changes, each applied exactly once.
//!
//! ```text
//!   source                                                     trunk
//!   pg_dump --snapshot ------------------- pg_restore -------> schema     (setup)
//!   COPY at the exported snapshot -------- COPY -------------> rows       (setup)
//!   slot -> walsender -> reader -> queue -> applier ---------> rows and ardent.progress, together
//!                          ^------- durable position -------------'
//! ```
//!
//! Invariants:
//! * the progress row is the truth: it moves in the same trunk transaction as the changes it
//!   covers, and nothing newer than it is ever reported to the source as flushed;
//! * a trunk transaction holds whole source transactions, in the source's commit order;
//! * a doubt about what the slot has already forgotten stops the stream; it never skips;
//! * code of the source (defaults, checks, triggers, functions) runs as `ardent_apply` or as the
//!   mirrored owner, never as a superuser.

mod applier;
mod blocks;
mod by_address;
mod cache;
mod call;
mod catalog;
mod change;
mod commit;
mod copy_text;
mod ddl;
mod decoder;
mod emitter;
mod error;
mod flight;
mod format;
mod halt;
mod heartbeat;
mod ledger;
mod link;
mod message;
mod pgoutput;
mod plan;
mod progress;
mod publication;
mod quarantine;
mod reader;
mod resync;
mod round;
mod sequences;
mod settings;
mod setup;
mod shared;
mod start;
mod statement;
mod status;
mod stream;
mod text_array;
mod thread;
mod timeline;
mod triggers;
mod truncate;
mod verify;
mod wal2json;

pub use error::{Action, Error};
pub use ledger::is_uneven;
pub use link::{Link, SlotWal, TrunkAccess, drop_source_objects, drop_sql};
pub use setup::{
    Means, Opening, RelationFiles, SetupOutcome, SetupProgress, Stage, TableProgress, open, setup,
};
pub use status::{OpenTransaction, Phase, Position, Quarantined, Status};
pub use stream::Replication;
pub use triggers::enable_triggers;
pub use verify::{Comparison, Finding, Reference, Scope, Verdict, compare};

#[cfg(test)]
mod tests;
