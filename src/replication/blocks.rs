//! A table as ranges of its blocks, each read by itself.

/// Postgres' block size; a server built with another only gets ranges of another size.
const BLOCK_BYTES: u64 = 8192;

/// First block and the block after the last; none is the end of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    first: u64,
    end: Option<u64>,
}

impl Blocks {
    /// A table's blocks in ranges of one size, at least one. The last one is open: the table may
    /// have grown since it was measured.
    pub(super) fn split(table_bytes: u64, range_bytes: u64) -> impl Iterator<Item = Self> {
        let count = table_bytes.div_ceil(range_bytes).max(1);
        let size = range_bytes / BLOCK_BYTES;
        (0..count).map(move |number| Self {
            first: number * size,
            end: (number + 1 < count).then_some((number + 1) * size),
        })
    }

    /// SQL that is true for the rows in it.
    pub(super) fn condition(&self) -> String {
        let Self { first, end } = self;
        let below = end.map(|end| format!(" AND ctid < '({end},0)'::pg_catalog.tid"));
        format!("ctid >= '({first},0)'::pg_catalog.tid{}", below.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_table_once() {
        let range = 1 << 20;
        let conditions: Vec<_> =
            Blocks::split(2 * range + 1, range).map(|blocks| blocks.condition()).collect();
        assert_eq!(
            conditions,
            [
                "ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(128,0)'::pg_catalog.tid",
                "ctid >= '(128,0)'::pg_catalog.tid AND ctid < '(256,0)'::pg_catalog.tid",
                "ctid >= '(256,0)'::pg_catalog.tid",
            ]
        );
        for bytes in [0, 1, range] {
            assert_eq!(Blocks::split(bytes, range).count(), 1);
        }
    }
}
