//! Rewrites: rows that the source wrote anew without the stream showing them.
//!
//! A column with a volatile default, a type changed through an expression, a table that begins to
//! be logged: what is in the rows now, only the source knows. The trunk's table is emptied, which
//! also lets the change itself pass, and is copied again.

use crate::source::TableName;

use super::super::applier::Applier;
use super::super::error::{Error, at_trunk};
use super::captured::Rewritten;

/// `AT_REWRITE_ALTER_PERSISTENCE` (`commands/event_trigger.h`).
const REASON_PERSISTENCE: i32 = 1;
/// `AT_REWRITE_ACCESS_METHOD`: the same rows, kept otherwise.
const REASON_ACCESS_METHOD: i32 = 8;

impl Applier {
    pub(super) async fn rewritten(&mut self, rewritten: &Rewritten) -> Result<(), Error> {
        let table = rewritten.table();
        if rewritten.reason == REASON_ACCESS_METHOD || !self.replay.link.follows(&table) {
            return Ok(());
        }
        self.resyncs.restart(&table);
        let has_gained_rows = rewritten.reason & REASON_PERSISTENCE != 0;
        if !has_gained_rows && !self.has_rows(&table).await? {
            return Ok(());
        }
        self.empty(&table).await?;
        self.divert(&table, "its rows were rewritten on the source", true);
        Ok(())
    }

    pub(super) async fn has_rows(&self, table: &TableName) -> Result<bool, Error> {
        if !self.has_table(table).await? {
            return Ok(false);
        }
        let sql = format!("SELECT EXISTS (SELECT FROM ONLY {})", table.quoted());
        let row = self.session.query_one(&sql, &[]).await.map_err(at_trunk)?;
        row.try_get(0).map_err(at_trunk)
    }

    /// Tables that refer to it forbid TRUNCATE; deleting asks no foreign key here.
    pub(super) async fn empty(&mut self, table: &TableName) -> Result<(), Error> {
        let name = table.quoted();
        if self.attempt(&format!("TRUNCATE ONLY {name}")).await?.is_err()
            && let Err(refusal) = self.attempt(&format!("DELETE FROM ONLY {name}")).await?
        {
            self.warn(format!("{table} could not be emptied: {refusal}"));
        }
        Ok(())
    }
}
