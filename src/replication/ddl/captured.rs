//! What a message of the event triggers says; `capture.sql` writes it.

use serde::Deserialize;

use crate::source::TableName;

use super::object::Object;

/// One event of one statement.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Captured {
    /// The statement's command tag.
    pub(super) tag: String,
    /// Objects as they are after the statement.
    #[serde(default)]
    pub(super) objects: Vec<Object>,
    #[serde(default)]
    pub(super) extensions: Vec<NewExtension>,
    /// Touched objects of kinds that are not carried.
    #[serde(default)]
    pub(super) others: Vec<String>,
    #[serde(default)]
    pub(super) dropped: Vec<Dropped>,
    #[serde(default)]
    pub(super) rewritten: Option<Rewritten>,
    /// The trigger could not describe what happened.
    #[serde(default)]
    pub(super) failed: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NewExtension {
    pub(super) name: String,
    pub(super) schema: String,
}

/// An object that is gone.
#[derive(Debug, Deserialize)]
pub(super) struct Dropped {
    /// As `pg_event_trigger_dropped_objects` has it.
    pub(super) kind: String,
    pub(super) oid: i64,
    #[serde(default)]
    pub(super) schema: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) identity: String,
    /// Named by the statement, rather than gone with another.
    pub(super) original: bool,
}

/// A table whose rows were written anew, which the stream does not show.
#[derive(Debug, Deserialize)]
pub(super) struct Rewritten {
    pub(super) schema: String,
    pub(super) name: String,
    /// Bits of `AT_REWRITE_*` (`commands/event_trigger.h`).
    pub(super) reason: i32,
}

impl Rewritten {
    pub(super) fn table(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }
}
