//! A change of the source, whichever plugin sent it.

use std::sync::Arc;

use crate::lsn::Lsn;
use crate::source::TableName;

/// What arrives from the source, in commit order. Changes up to a commit belong to it.
#[derive(Debug)]
pub(super) enum Event {
    /// The changes that follow belong to the transaction whose commit record begins here.
    Begin(Lsn),
    Change(Change),
    Commit(Commit),
    /// Nothing is pending before this position; the source wants to hear of it.
    Idle(Lsn),
}

/// The end of a source transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// End of the commit record: streaming from here sends the next transaction and not this one.
    pub(super) end: Lsn,
    /// When it committed, in microseconds of the Unix epoch.
    pub(super) time_us: Option<i64>,
}

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    Insert {
        new: Tuple,
    },
    Update {
        new: Tuple,
        old: Old,
    },
    Delete {
        old: Tuple,
    },
    /// Of one statement: tables that refer to each other have to be truncated together.
    Truncate {
        tables: Vec<TableName>,
    },
    /// A logical message with one of our prefixes.
    Message {
        content: String,
        /// Where its record ends in the source's log.
        lsn: Lsn,
    },
    /// The plugin says that it could not send a change.
    Lost {
        table: Option<TableName>,
        said: String,
    },
}

/// The columns that identify a row that is updated.
#[derive(Debug)]
pub(super) enum Old {
    /// These, and all of them are as in the new row. So are most, and need no row of their own.
    Kept(Arc<Shape>),
    /// As they were.
    Row(Tuple),
}

impl Old {
    pub(super) fn shape(&self) -> &Arc<Shape> {
        match self {
            Self::Kept(shape) => shape,
            Self::Row(row) => &row.shape,
        }
    }

    /// What it takes in memory beside the new row, roughly.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Kept(_) => 0,
            Self::Row(row) => row.bytes(),
        }
    }

    /// As a row of its own.
    pub(super) fn into_row(self, new: &Tuple) -> Tuple {
        let shape = match self {
            Self::Kept(shape) => shape,
            Self::Row(row) => return row,
        };
        let mut row = TupleBuilder::new(Arc::clone(&shape), 0);
        for name in &shape.columns {
            let position = new.shape.columns.iter().position(|other| other == name);
            match position.and_then(|position| new.value(position)) {
                Some(text) => row.push_bytes(text),
                None => row.push_null(),
            }
        }
        row.finish()
    }
}

/// Which columns of which table a row brings. Shared by the rows that look the same; columns that
/// the source did not send (unchanged out-of-line values) are absent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) table: TableName,
    pub(super) columns: Vec<String>,
    /// Values of `bytea` columns are hexadecimal digits without `\x`.
    pub(super) bare_bytea: bool,
}

/// Values of one row in text form, in the order of its shape. One allocation: a row passes from the
/// thread that reads to the one that applies, and is freed there.
///
/// | bytes | |
/// |---|---|
/// | a `usize` for each column | where its text ends, doubled; one more if there is no value |
/// | text of all values | each begins where the one before it ends |
#[derive(Debug)]
pub(super) struct Tuple {
    pub(super) shape: Arc<Shape>,
    bytes: Vec<u8>,
}

/// A row that gets its values one by one, in the order of its shape. Those that it does not get
/// are null.
pub(super) struct TupleBuilder {
    tuple: Tuple,
    /// Values so far.
    count: usize,
}

const CELL_BYTES: usize = size_of::<usize>();

impl TupleBuilder {
    /// With room for text of about this size.
    pub(super) fn new(shape: Arc<Shape>, text_bytes: usize) -> Self {
        let cells = shape.columns.len() * CELL_BYTES;
        let mut bytes = Vec::with_capacity(cells + text_bytes);
        bytes.resize(cells, u8::MAX);
        Self { tuple: Tuple { shape, bytes }, count: 0 }
    }

    pub(super) fn push_null(&mut self) {
        self.push_cell(self.tuple.bytes.len() * 2 + 1);
    }

    pub(super) fn push_text(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    fn push_bytes(&mut self, text: &[u8]) {
        self.tuple.bytes.extend_from_slice(text);
        self.push_cell(self.tuple.bytes.len() * 2);
    }

    fn push_cell(&mut self, cell: usize) {
        debug_assert!(self.count < self.tuple.shape.columns.len(), "a value without a column");
        let place = self.tuple.bytes.get_mut(self.count * CELL_BYTES..);
        if let Some(place) = place.and_then(|rest| rest.first_chunk_mut()) {
            *place = cell.to_le_bytes();
        }
        self.count += 1;
    }

    pub(super) fn finish(self) -> Tuple {
        self.tuple
    }
}

impl Tuple {
    /// The value at a position of the shape; its bytes are UTF-8.
    pub(super) fn value(&self, position: usize) -> Option<&[u8]> {
        let cell = self.cell(position)?;
        let start = match position.checked_sub(1) {
            Some(before) => self.cell(before)? / 2,
            None => self.shape.columns.len() * CELL_BYTES,
        };
        if cell % 2 == 1 { None } else { self.bytes.get(start..cell / 2) }
    }

    fn cell(&self, position: usize) -> Option<usize> {
        if position >= self.shape.columns.len() {
            return None;
        }
        let cell = self.bytes.get(position * CELL_BYTES..)?.first_chunk()?;
        Some(usize::from_le_bytes(*cell))
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }
}
