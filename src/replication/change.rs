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
        let mut row = Tuple::new(Arc::clone(&shape), 0);
        for name in &shape.columns {
            let position = new.shape.columns.iter().position(|other| other == name);
            match position.and_then(|position| new.value(position)) {
                Some(text) => row.push_text(text),
                None => row.push_null(),
            }
        }
        row
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

/// Values of one row in text form, in the order of its shape.
#[derive(Debug)]
pub(super) struct Tuple {
    pub(super) shape: Arc<Shape>,
    text: String,
    cells: Vec<Cell>,
}

/// Where a value ends in the text of its row, doubled; one more if there is no value. It begins
/// where the one before it ends.
#[derive(Clone, Copy, Debug)]
struct Cell(usize);

impl Cell {
    fn end(self) -> usize {
        self.0 / 2
    }

    fn is_null(self) -> bool {
        self.0 % 2 == 1
    }
}

impl Tuple {
    pub(super) fn new(shape: Arc<Shape>, text_bytes: usize) -> Self {
        let cells = Vec::with_capacity(shape.columns.len());
        Self { shape, text: String::with_capacity(text_bytes), cells }
    }

    pub(super) fn push_null(&mut self) {
        self.cells.push(Cell(self.text.len() * 2 + 1));
    }

    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
        self.cells.push(Cell(self.text.len() * 2));
    }

    /// The value at a position of the shape.
    pub(super) fn value(&self, position: usize) -> Option<&str> {
        let cell = *self.cells.get(position)?;
        let before = position.checked_sub(1).and_then(|before| self.cells.get(before));
        let start = before.map_or(0, |before| before.end());
        if cell.is_null() { None } else { self.text.get(start..cell.end()) }
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.text.len() + self.cells.len() * size_of::<Cell>() + size_of::<Self>()
    }
}
