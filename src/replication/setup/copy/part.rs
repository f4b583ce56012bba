//! Tables as parts of about one size, so that one large table keeps all jobs busy.
//!
//! Parts are ranges of blocks: `ctid` comparisons read just those from Postgres 14 on. Before,
//! every part would read the whole table, so there it is one part. A table that one session brings
//! whole is written without log and frozen, which is worth more than a second session; so only
//! those are split that would keep one job at work long after the others.

use std::collections::VecDeque;

use crate::source::Table;

use super::super::super::blocks::Blocks;

/// The first version that reads a range of blocks by itself.
const VERSION_TID_RANGE: u32 = 140_000;
/// Smaller tables are one part.
const SPLIT_BYTES: u64 = if cfg!(test) { 2 << 20 } else { 4 << 30 };
/// Large enough that a part's start costs nothing, small enough to give one up.
/// Tests have no such tables.
const PART_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 128 << 20 };

/// Some rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The table's place in the list.
    pub(super) table: usize,
    /// None means all rows.
    pub(super) blocks: Option<Blocks>,
    /// Tried before.
    pub(super) attempts: u32,
}

impl Part {
    /// The same part, to be tried once more.
    pub(super) fn again(mut self) -> Self {
        self.attempts += 1;
        self
    }

    /// SQL that is true for its rows.
    pub(super) fn condition(&self) -> Option<String> {
        self.blocks.as_ref().map(Blocks::condition)
    }
}

/// All parts, in the order of the tables.
pub(super) fn split(tables: &[Table], version: u32) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    for (index, table) in tables.iter().enumerate() {
        let part = |blocks| Part { table: index, blocks, attempts: 0 };
        if table.is_heap && version >= VERSION_TID_RANGE && table.bytes > SPLIT_BYTES {
            parts.extend(Blocks::split(table.bytes, PART_BYTES).map(Some).map(part));
        } else {
            parts.push_back(part(None));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bytes: u64, is_heap: bool) -> Table {
        Table { bytes, is_heap, ..Table::default() }
    }

    #[test]
    fn what_can_be_read_in_ranges_and_is_large_is_several_parts() {
        let large = SPLIT_BYTES + 1;
        let parts = split(&[table(large, true), table(large, false), table(1, true)], 150_000);
        let ranges = usize::try_from(large.div_ceil(PART_BYTES)).unwrap();
        let of = |at| parts.iter().filter(|part| part.table == at).collect::<Vec<_>>();
        assert_eq!(of(0).len(), ranges);
        assert!(of(0).iter().all(|part| part.condition().is_some()));
        for whole in [of(1), of(2)] {
            assert_eq!(whole.iter().map(|part| part.condition()).collect::<Vec<_>>(), [None]);
        }
        assert_eq!(split(&[table(large, true)], 130_000).len(), 1);
    }
}
