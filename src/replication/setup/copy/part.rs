//! Tables as parts of about one size, so that one large table keeps all jobs busy.
//!
//! Parts are ranges of blocks: `ctid` comparisons read just those from Postgres 14 on. Before,
//! every part would read the whole table, so there it is one part. A table that one session brings
//! whole is written without log and frozen, which is worth more than a second session; so only
//! those are split that would keep one job at work long after the others.

use std::collections::VecDeque;

use crate::source::Table;

/// The first version that reads a range of blocks by itself.
const VERSION_TID_RANGE: u32 = 140_000;
/// Smaller tables are one part.
const SPLIT_BYTES: u64 = if cfg!(test) { 2 << 20 } else { 4 << 30 };
/// Large enough that a part's start costs nothing, small enough to give one up.
/// Tests have no such tables.
const PART_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 128 << 20 };
/// Postgres' block size; a server built with another only gets parts of another size.
const BLOCK_BYTES: u64 = 8192;

/// Some rows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The table's place in the list.
    pub(super) table: usize,
    /// First block and the block after the last; none means all rows.
    pub(super) blocks: Option<(u64, Option<u64>)>,
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
        let (first, end) = self.blocks?;
        let below = end.map(|end| format!(" AND ctid < '({end},0)'::pg_catalog.tid"));
        Some(format!("ctid >= '({first},0)'::pg_catalog.tid{}", below.unwrap_or_default()))
    }
}

/// All parts, in the order of the tables.
pub(super) fn split(tables: &[Table], version: u32) -> VecDeque<Part> {
    let mut parts = VecDeque::new();
    for (index, table) in tables.iter().enumerate() {
        let count = match table.is_heap && version >= VERSION_TID_RANGE {
            true if table.bytes > SPLIT_BYTES => table.bytes.div_ceil(PART_BYTES),
            _ => 1,
        };
        if count == 1 {
            parts.push_back(Part { table: index, blocks: None, attempts: 0 });
            continue;
        }
        let size = PART_BYTES / BLOCK_BYTES;
        for number in 0..count {
            // The last one is open: the table may have grown since it was measured.
            let end = (number + 1 < count).then_some((number + 1) * size);
            let blocks = Some((number * size, end));
            parts.push_back(Part { table: index, blocks, attempts: 0 });
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::TableName;

    fn table(bytes: u64, is_heap: bool) -> Table {
        Table {
            name: TableName::default(),
            bytes,
            total_bytes: bytes,
            columns: Vec::new(),
            has_identity: true,
            is_heap,
            is_portable: true,
        }
    }

    #[test]
    fn parts_cover_a_table_once() {
        let conditions: Vec<_> = split(&[table(3 * PART_BYTES - 1, true)], 150_000)
            .iter()
            .filter_map(Part::condition)
            .collect();
        assert_eq!(
            conditions,
            [
                "ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(128,0)'::pg_catalog.tid",
                "ctid >= '(128,0)'::pg_catalog.tid AND ctid < '(256,0)'::pg_catalog.tid",
                "ctid >= '(256,0)'::pg_catalog.tid",
            ]
        );
        for (table, version) in
            [(table(9 * PART_BYTES, false), 150_000), (table(9 * PART_BYTES, true), 130_000)]
        {
            assert_eq!(split(&[table], version).len(), 1);
        }
        assert_eq!(split(&[table(0, true)], 150_000)[0].condition(), None);
    }
}
