//! Rows as COPY takes them in text format: values between tabs, rows between line ends.
//!
//! | byte of a value | sent as |
//! |---|---|
//! | backslash, tab, line feed, carriage return | `\\`, `\t`, `\n`, `\r` |
//! | any other | itself |
//!
//! NULL is `\N`. Control characters mean nothing else to COPY, and text has no zero byte.

use bytes::{BufMut, Bytes, BytesMut};

use super::catalog::Mapping;
use super::change::Tuple;
use super::statement::sent;

/// One message to the trunk holds about this much.
const PIECE_BYTES: usize = 64 * 1024;

/// Rows of one mapping, piece by piece.
pub(super) struct CopyText {
    /// Of each value that is sent, its position and whether it lacks the `\x` of a `bytea`.
    places: Vec<(usize, bool)>,
    buffer: BytesMut,
}

impl CopyText {
    pub(super) fn new(mapping: &Mapping) -> Self {
        let is_bare = mapping.shape.bare_bytea;
        let places = sent(mapping).map(|(position, column)| (position, is_bare && column.is_bytea));
        Self { places: places.collect(), buffer: BytesMut::new() }
    }

    /// Adds a row. Returns what there is to send, once it is enough.
    pub(super) fn push(&mut self, row: &Tuple) -> Option<Bytes> {
        for (number, (position, is_bare)) in self.places.iter().enumerate() {
            if number > 0 {
                self.buffer.put_u8(b'\t');
            }
            match row.value(*position) {
                None => self.buffer.put_slice(b"\\N"),
                Some(digits) if *is_bare => {
                    self.buffer.put_slice(b"\\\\x");
                    self.buffer.put_slice(digits);
                }
                Some(value) => put_escaped(&mut self.buffer, value),
            }
        }
        self.buffer.put_u8(b'\n');
        (self.buffer.len() >= PIECE_BYTES).then(|| self.buffer.split().freeze())
    }

    /// What is left to send.
    pub(super) fn finish(mut self) -> Bytes {
        self.buffer.split().freeze()
    }
}

fn put_escaped(buffer: &mut BytesMut, value: &[u8]) {
    // All of it is looked at at once: no value of most has anything to escape.
    if !value.iter().fold(false, |any, byte| any | escape(*byte).is_some()) {
        return buffer.put_slice(value);
    }
    for byte in value {
        match escape(*byte) {
            None => buffer.put_u8(*byte),
            Some(letter) => buffer.put_slice(&[b'\\', letter]),
        }
    }
}

/// What stands after a backslash for this byte; none where it stands for itself.
fn escape(byte: u8) -> Option<u8> {
    match byte {
        b'\\' => Some(b'\\'),
        b'\t' => Some(b't'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut buffer = BytesMut::new();
        put_escaped(&mut buffer, value.as_bytes());
        String::from_utf8(buffer.to_vec()).unwrap()
    }

    #[test]
    fn escapes_what_means_something() {
        assert_eq!(escaped(""), "");
        assert_eq!(escaped("plain \u{1} \u{e4}"), "plain \u{1} \u{e4}");
        assert_eq!(escaped("\\.\t\n\r\\N"), "\\\\.\\t\\n\\r\\\\N");
        assert_eq!(escaped("end\\"), "end\\\\");
    }
}
