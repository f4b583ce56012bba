//! Changes of one table, kept by transaction while the table is being copied.

use crate::lsn::Lsn;
use crate::source::TableName;

use super::super::change::{Change, Commit};

/// A spool that is larger than this waits for the copy before it takes more.
const SPOOL_BYTES_MAX: usize = 256 << 20;

#[derive(Default)]
pub(super) struct Spool {
    /// By end of their transaction, in order.
    transactions: Vec<(Lsn, Vec<Change>)>,
    open: Vec<Change>,
    bytes: usize,
}

impl Spool {
    /// Takes what concerns the table; gives back what concerns others.
    pub(super) fn take(&mut self, table: &TableName, change: Change) -> Option<Change> {
        let bytes = match &change {
            Change::Insert { new } if new.shape.table == *table => new.bytes(),
            Change::Update { new, old } if new.shape.table == *table => new.bytes() + old.bytes(),
            Change::Delete { old } if old.shape.table == *table => old.bytes(),
            Change::Truncate { tables } if tables.contains(table) => {
                self.open.push(Change::Truncate { tables: vec![table.clone()] });
                return Some(change);
            }
            Change::Lost { table: Some(lost), said } if lost == table => said.len(),
            _ => return Some(change),
        };
        self.bytes += bytes;
        self.open.push(change);
        None
    }

    pub(super) fn commit(&mut self, commit: Commit) {
        if !self.open.is_empty() {
            self.transactions.push((commit.end, std::mem::take(&mut self.open)));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes > SPOOL_BYTES_MAX
    }

    /// What a copy at this position does not hold yet, in order.
    pub(super) fn after(&mut self, position: Lsn) -> Vec<Change> {
        let transactions = std::mem::take(&mut self.transactions);
        transactions
            .into_iter()
            .filter(|(end, _)| *end > position)
            .flat_map(|(_, changes)| changes)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_the_copy_holds() {
        let name = |name: &str| TableName { schema: "s".into(), name: name.into() };
        let truncate = |tables: &[&str]| Change::Truncate {
            tables: tables.iter().map(|table| name(table)).collect(),
        };
        let mut spool = Spool::default();
        for end in [10, 20, 30] {
            assert!(spool.take(&name("t"), truncate(&["t", "u"])).is_some(), "others go on");
            assert!(spool.take(&name("t"), truncate(&["u"])).is_some());
            spool.commit(Commit { end: Lsn(end), time_us: None });
        }
        assert_eq!(spool.after(Lsn(20)).len(), 1);
        assert_eq!(spool.after(Lsn(0)).len(), 0);
    }

    #[test]
    fn keeps_what_the_plugin_could_not_send() {
        let name = |name: &str| TableName { schema: "s".into(), name: name.into() };
        let lost = |table| Change::Lost { table: Some(name(table)), said: String::new() };
        let mut spool = Spool::default();
        assert!(spool.take(&name("t"), lost("u")).is_some());
        assert!(spool.take(&name("t"), lost("t")).is_none());
        spool.commit(Commit { end: Lsn(10), time_us: None });
        assert_eq!(spool.after(Lsn(9)).len(), 1);
    }
}
