//! A trunk whose first copy went on after it was cut short: its tables stand at several positions
//! until the stream is past them all.
//!
//! * A change of a table that is ahead of it is in the table already, and is left out.
//! * Once the stream is past the last of them and no table is to be copied again, the trunk is one
//!   moment of the source. What needs rows of one moment is made then: foreign keys are validated,
//!   materialized views made from their tables. The record goes in the same trunk transaction.
//!
//! Nobody may cut a branch before.

use std::collections::HashMap;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::super::applier::Applier;
use super::super::change::Change;
use super::super::error::{Error, at_trunk};
use super::super::ledger::{self, ForeignKey, Unmet};

#[derive(Default)]
pub(super) struct Uneven {
    /// Tables with the position they were copied at.
    ahead: HashMap<TableName, Lsn>,
    unmet: Unmet,
    /// Where the commit record of the transaction at hand begins.
    commit: Lsn,
}

impl Uneven {
    pub(super) fn new(entries: Vec<ledger::Entry>, unmet: Unmet) -> Self {
        let ahead = entries.into_iter().filter_map(|entry| Some((entry.table, entry.copied?)));
        Self { ahead: ahead.collect(), unmet, commit: Lsn::default() }
    }

    pub(super) fn begin(&mut self, commit: Lsn) {
        self.commit = commit;
    }

    /// Keeps what the trunk does not hold yet. A row stays in its table, so its new version tells
    /// whose it is.
    pub(super) fn keep(&self, change: Change) -> Option<Change> {
        let change = match change {
            Change::Insert { new } if self.holds(&new.shape.table) => return None,
            Change::Update { new, .. } if self.holds(&new.shape.table) => return None,
            Change::Delete { old } if self.holds(&old.shape.table) => return None,
            Change::Lost { table: Some(table), .. } if self.holds(&table) => return None,
            Change::Truncate { mut tables } => {
                tables.retain(|table| !self.holds(table));
                Change::Truncate { tables }
            }
            other => other,
        };
        let is_left = !matches!(&change, Change::Truncate { tables } if tables.is_empty());
        is_left.then_some(change)
    }

    /// The copy saw every commit before its position, and this is one.
    fn holds(&self, table: &TableName) -> bool {
        self.ahead.get(table).is_some_and(|copied| self.commit < *copied)
    }

    /// The stream is past the position of every table.
    pub(super) fn is_passed(&self, passed: Lsn) -> bool {
        self.ahead.values().all(|copied| *copied <= passed)
    }
}

impl Applier {
    /// To be called when the tables stand at one position.
    pub(super) async fn even_out(&mut self, uneven: Uneven) -> Result<(), Error> {
        self.commit_all().await?;
        self.begin().await?;
        self.session.batch_execute(PLAN_SQL).await.map_err(at_trunk)?;
        for key in &uneven.unmet.unvalidated {
            if self.is_validated(key).await? == Some(false) {
                self.make_key(key, &key.validate(), "is not validated").await?;
            }
        }
        for key in &uneven.unmet.missing {
            if self.is_validated(key).await?.is_none() {
                self.make_key(key, &key.add(), "is not carried over").await?;
            }
        }
        for row in self.session.query(REFRESH_SQL, &[]).await.map_err(at_trunk)? {
            let sql: String = row.try_get(0).map_err(at_trunk)?;
            if let Err(refusal) = self.attempt(&sql).await? {
                self.warn(format!("a materialized view is not as its tables are: {refusal}"));
            }
        }
        self.retry_unequal().await?;
        ledger::clear(&self.session).await.map_err(at_trunk)?;
        self.commit_aside().await?;
        self.shared.update(|status| status.is_uneven = false);
        tracing::info!("all tables of the first copy are at one position");
        Ok(())
    }

    /// None if the trunk has no such key: the stream has brought its end, or its table's.
    async fn is_validated(&self, key: &ForeignKey) -> Result<Option<bool>, Error> {
        let of = key.of().quoted();
        let row = self.session.query_opt(KEY_SQL, &[&of, &key.name]).await.map_err(at_trunk)?;
        row.map(|row| row.try_get(0)).transpose().map_err(at_trunk)
    }

    async fn make_key(&self, key: &ForeignKey, sql: &str, fate: &str) -> Result<(), Error> {
        if let Err(refusal) = self.attempt(sql).await? {
            self.warn(format!("foreign key {} of {} {fate}: {refusal}", key.name, key.of()));
        }
        Ok(())
    }
}

/// What applies rows plans for a few of them; these look at whole tables.
const PLAN_SQL: &str = "\
SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on";

const KEY_SQL: &str = "\
SELECT convalidated FROM pg_catalog.pg_constraint
 WHERE contype = 'f' AND conrelid = pg_catalog.to_regclass($1) AND conname = $2";

// One that reads another was made after it.
const REFRESH_SQL: &str = "\
SELECT pg_catalog.format('REFRESH MATERIALIZED VIEW %I.%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'm' AND c.relispopulated ORDER BY c.oid";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_a_table_was_copied_with() {
        let name = |name: &str| TableName { schema: "s".into(), name: name.into() };
        let entry = |table: &str, copied| ledger::Entry {
            table: name(table),
            shape: String::new(),
            copied,
        };
        let entries = vec![entry("t", Some(Lsn(20))), entry("u", Some(Lsn(10))), entry("v", None)];
        let mut uneven = Uneven::new(entries, Unmet::default());
        let mut kept = |commit| {
            uneven.begin(Lsn(commit));
            let tables = ["t", "u", "v"].map(name).to_vec();
            match uneven.keep(Change::Truncate { tables }) {
                Some(Change::Truncate { tables }) => tables.into_iter().map(|t| t.name).collect(),
                _ => Vec::new(),
            }
        };
        assert_eq!(kept(9), ["v"]);
        assert_eq!(kept(10), ["u", "v"]);
        assert_eq!(kept(20), ["t", "u", "v"]);
        let lost = |table| Change::Lost { table: Some(name(table)), said: String::new() };
        uneven.begin(Lsn(15));
        assert!(uneven.keep(lost("t")).is_none() && uneven.keep(lost("u")).is_some());
        assert!(!uneven.is_passed(Lsn(19)) && uneven.is_passed(Lsn(20)));
    }
}
