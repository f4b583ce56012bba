//! Parameters of statements: arrays of text, as Postgres' `array_recv` takes them.
//!
//! | bytes | |
//! |---|---|
//! | i32 | dimensions: 1 |
//! | i32 | 1: there may be NULLs among the elements |
//! | u32 | type of the elements: text |
//! | i32 | how many elements, of which there is one at least |
//! | i32 | subscript of the first: 1 |
//! | i32, bytes | an element: its length and text, or -1 for NULL |
//!
//! Numbers are big-endian.

use std::fmt;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::error::Error;

/// What an element takes in most rows, with its length.
const ELEMENT_BYTES: usize = 16;
const HEADER_BYTES: usize = 20;
const TOO_LARGE: Error = Error::Decode("value too large for a parameter");

/// Written out once, so that nothing but copying is left to do when its statement's turn comes.
pub(super) struct TextArray(Vec<u8>);

impl TextArray {
    /// Of so many values, which are UTF-8.
    pub(super) fn of<'a>(
        count: usize,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Result<Self, Error> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + count * ELEMENT_BYTES);
        bytes.put_i32(1);
        bytes.put_i32(1);
        bytes.put_u32(Type::TEXT.oid());
        bytes.put_i32(i32::try_from(count).map_err(|_| TOO_LARGE)?);
        bytes.put_i32(1);
        for value in values {
            let Some(text) = value else {
                bytes.put_i32(-1);
                continue;
            };
            bytes.put_i32(i32::try_from(text.len()).map_err(|_| TOO_LARGE)?);
            bytes.put_slice(text);
        }
        Ok(Self(bytes))
    }
}

impl ToSql for TextArray {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}

/// Without the values, which are not ours to show.
impl fmt::Debug for TextArray {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "array of text in {} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_the_driver_would_write() {
        for values in [vec![Some("a")], vec![None], vec![Some(""), None, Some("\u{e4}\"{},")]] {
            let mut theirs = BytesMut::new();
            values.to_sql(&Type::TEXT_ARRAY, &mut theirs).unwrap();
            let texts = values.iter().map(|value| value.map(str::as_bytes));
            let ours = TextArray::of(values.len(), texts).unwrap();
            // Which looks for NULLs first, and says 0 if there are none.
            theirs[4..8].copy_from_slice(&[0, 0, 0, 1]);
            assert_eq!(ours.0, theirs);
        }
    }
}
