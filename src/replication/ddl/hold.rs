//! Rows that come before the table they are for: CREATE TABLE AS and SELECT INTO send theirs
//! first, and only the end of the statement is captured (replication notes, section 0 fact 9).
//!
//! Held in memory up to [`HELD_BYTES_MAX`]; a table with more is copied again instead.

use std::collections::HashMap;

use crate::source::TableName;

use super::super::applier::Applier;
use super::super::change::Tuple;
use super::super::error::Error;

const HELD_BYTES_MAX: usize = 32 << 20;

/// Rows by table, in order. None where they were too many to hold.
#[derive(Default)]
pub(in super::super) struct Held {
    tables: HashMap<TableName, Option<Vec<Tuple>>>,
    bytes: usize,
}

impl Held {
    /// Begins to hold rows of a table that may be about to be made.
    pub(in super::super) fn expect(&mut self, table: &TableName) {
        self.tables.entry(table.clone()).or_insert_with(|| Some(Vec::new()));
    }

    /// Takes a row of a table that is expected, and drops any other.
    pub(in super::super) fn hold(&mut self, row: Tuple) {
        let Some(rows) = self.tables.get_mut(&row.shape.table) else { return };
        self.bytes += row.bytes();
        if self.bytes > HELD_BYTES_MAX {
            *rows = None;
        }
        if let Some(rows) = rows {
            rows.push(row);
        }
    }
}

impl Applier {
    /// Applies what was held for a table that now exists.
    pub(super) async fn release_held(&mut self, table: &TableName) -> Result<(), Error> {
        match self.held.tables.remove(table) {
            None => {}
            Some(None) => self.divert(table, "its rows came before its definition", true),
            Some(Some(rows)) => {
                for row in rows {
                    self.held.bytes = self.held.bytes.saturating_sub(row.bytes());
                    self.insert(row).await?;
                }
            }
        }
        Ok(())
    }

    /// The transaction ended without making them.
    pub(in super::super) fn give_up_held(&mut self) {
        for (table, _) in std::mem::take(&mut self.held).tables {
            self.divert(&table, "the trunk lacks the table", true);
        }
    }
}
