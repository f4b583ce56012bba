//! The forms that row changes are written in, each learnt from the first message in it.
//!
//! wal2json writes the same text around the values of all rows that look alike:
//!
//! ```text
//! {"action":"I","timestamp":"...","lsn":"...",
//! "schema":"s","table":"t","columns":[{"name":"id","value":
//! 7
//! },{"name":"a","value":
//! "x"
//! }]}
//! ```
//! A message that is this text with scalars between is read by comparing it: no name is looked at,
//! and no shape looked for. Any other is left to [`super::scan`], which would read this one alike.
//!
//! Invariant: a form accepts nothing that the general reader refuses, and reads nothing otherwise.
//! Must never panic, whatever arrives.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::super::change::{Change, Old, Shape};
use super::super::error::Error;
use super::scan::{Cell, Message, Scan, Value};
use super::tuple;

/// A table has few, or they are learnt anew.
const FORMS_PER_TABLE_MAX: usize = 64;

/// The forms that were met.
#[derive(Default)]
pub(super) struct Forms {
    /// By the text that names the table.
    known: HashMap<String, Vec<Arc<Form>>>,
    /// That of the last message, which the next one mostly has as well.
    last: Option<Arc<Form>>,
    /// Of the message at work; kept for its room.
    values: Vec<Value>,
}

struct Form {
    action: Action,
    /// What is before each value, and after the last one.
    texts: Vec<String>,
    new: Option<Arc<Shape>>,
    old: Option<Arc<Shape>>,
    /// For each value of the old row, the number of that column's in the new one. None if one of
    /// the columns is not there.
    kept: Option<Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Insert,
    Update,
    Delete,
}

/// A row as the general reader found it.
pub(super) struct Row<'a> {
    pub(super) shape: Arc<Shape>,
    pub(super) cells: &'a [Cell],
}

impl Forms {
    /// The change that a message tells, if its form is known.
    pub(super) fn read(&mut self, text: &str) -> Result<Option<Change>, Error> {
        let mut scan = Scan::new(text);
        let Some(action) = begin(&mut scan) else { return Ok(None) };
        let at = scan.place();
        let mut fits = |form: &&Arc<Form>| {
            scan.go_to(at);
            self.values.clear();
            form.action == action && form.fits(&mut scan, &mut self.values)
        };
        if let Some(form) = self.last.as_ref().filter(&mut fits) {
            return form.change(&self.values, text).map(Some);
        }
        let Some(forms) = table_text(text, at).and_then(|table| self.known.get(table)) else {
            return Ok(None);
        };
        let Some(form) = forms.iter().find(fits) else { return Ok(None) };
        let change = form.change(&self.values, text)?;
        self.last = Some(Arc::clone(form));
        Ok(Some(change))
    }

    /// Remembers the form of a message, if others may be in it.
    pub(super) fn learn(
        &mut self,
        text: &str,
        message: &Message<'_>,
        new: Option<Row<'_>>,
        old: Option<Row<'_>>,
    ) {
        let mut scan = Scan::new(text);
        let Some(action) = begin(&mut scan) else { return };
        let (Some(table), Some(texts)) =
            (table_text(text, scan.place()), texts(text, message, new.as_ref(), old.as_ref()))
        else {
            return;
        };
        let kept = new.as_ref().zip(old.as_ref()).and_then(|(new, old)| kept(text, new, old));
        let shape = |row: Option<Row<'_>>| row.map(|row| row.shape);
        let form = Form { action, texts, new: shape(new), old: shape(old), kept };
        self.values.clear();
        if !form.fits(&mut scan, &mut self.values) {
            // Written in another way, as the next one will be.
            return;
        }
        let forms = self.known.entry(table.to_owned()).or_default();
        if forms.len() >= FORMS_PER_TABLE_MAX {
            forms.clear();
        }
        forms.push(Arc::new(form));
    }
}

impl Form {
    /// The rest of the message is of this form. Finds its values.
    fn fits(&self, scan: &mut Scan<'_>, values: &mut Vec<Value>) -> bool {
        let Some((last, before)) = self.texts.split_last() else { return false };
        for text in before {
            if !scan.passes(text) {
                return false;
            }
            let Ok(value) = scan.scalar() else { return false };
            values.push(value);
        }
        scan.passes(last) && scan.is_at_end()
    }

    fn change(&self, values: &[Value], text: &str) -> Result<Change, Error> {
        const INCOMPLETE: Error = Error::Decode("change without columns");
        let count = self.new.as_ref().map_or(0, |shape| shape.columns.len());
        let (new_values, old_values) = values.split_at_checked(count).ok_or(INCOMPLETE)?;
        let row = |shape: &Option<Arc<Shape>>, values| {
            tuple(Arc::clone(shape.as_ref().ok_or(INCOMPLETE)?), values, text)
        };
        Ok(match self.action {
            Action::Insert => Change::Insert { new: row(&self.new, new_values.iter())? },
            Action::Delete => Change::Delete { old: row(&self.old, old_values.iter())? },
            Action::Update => {
                let new = row(&self.new, new_values.iter())?;
                let old = match &self.old {
                    Some(shape) if self.is_kept(new_values, old_values, text) => {
                        Old::Kept(Arc::clone(shape))
                    }
                    shape => Old::Row(row(shape, old_values.iter())?),
                };
                Change::Update { new, old }
            }
        })
    }

    /// All values of the old row are in the new one as well.
    fn is_kept(&self, new: &[Value], old: &[Value], text: &str) -> bool {
        self.kept.as_ref().is_some_and(|numbers| {
            let new = |number: &usize| new.get(*number);
            let is_same =
                |new: Option<&Value>, old| new.is_some_and(|new| new.is_written_as(old, text));
            numbers.iter().zip(old).all(|(number, old)| is_same(new(number), old))
        })
    }
}

/// Passes what differs from row to row before the table.
fn begin(scan: &mut Scan<'_>) -> Option<Action> {
    let actions = [("I", Action::Insert), ("U", Action::Update), ("D", Action::Delete)];
    if !scan.passes("{\"action\":\"") {
        return None;
    }
    let (_, action) = actions.into_iter().find(|(letter, _)| scan.passes(letter))?;
    for member in ["\",\"timestamp\":", ",\"lsn\":"] {
        if !scan.passes(member) || scan.string().ok()?.has_escapes() {
            return None;
        }
    }
    scan.passes(",").then_some(action)
}

/// `"schema":"s","table":"t"`, which begins here.
fn table_text(text: &str, at: usize) -> Option<&str> {
    let mut scan = Scan::new(text);
    scan.go_to(at);
    for member in ["\"schema\":", ",\"table\":"] {
        if !scan.passes(member) {
            return None;
        }
        scan.string().ok()?;
    }
    text.get(at..scan.place())
}

/// The texts around the values, as wal2json writes them.
fn texts(
    text: &str,
    message: &Message<'_>,
    new: Option<&Row<'_>>,
    old: Option<&Row<'_>>,
) -> Option<Vec<String>> {
    // As it was written: a name with escapes has another text.
    let (Some(Cow::Borrowed(schema)), Some(Cow::Borrowed(table))) =
        (&message.schema, &message.table)
    else {
        return None;
    };
    let mut texts = Vec::new();
    let mut before = format!("\"schema\":\"{schema}\",\"table\":\"{table}\"");
    for (member, row) in [("columns", new), ("identity", old)] {
        let Some(row) = row else { continue };
        before.push_str(&format!(",\"{member}\":["));
        for (number, cell) in row.cells.iter().enumerate() {
            let separator = if number > 0 { "," } else { "" };
            before.push_str(&format!(
                "{separator}{{\"name\":\"{}\",\"value\":",
                cell.name.raw(text)?
            ));
            texts.push(std::mem::replace(&mut before, "}".to_owned()));
        }
        before.push(']');
    }
    before.push('}');
    texts.push(before);
    Some(texts)
}

/// Where the columns of the old row are in the new one. Both are in the order of the table; in any
/// other, the answer may be none.
fn kept(text: &str, new: &Row<'_>, old: &Row<'_>) -> Option<Vec<usize>> {
    let mut columns = new.cells.iter().enumerate();
    let place =
        |old: &Cell| columns.find(|(_, new)| new.has_name_of(old, text)).map(|(number, _)| number);
    old.cells.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use crate::lsn::Lsn;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    const BEGIN: &str = r#"{"action":"B","lsn":"0/2","nextlsn":"0/3"}"#;
    const MESSAGES: [&str; 7] = [
        r#"{"action":"I","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":7},{"name":"a \"b\"","value":"x\"\u00e4"},{"name":"n","value":null},{"name":"f","value":true}]}"#,
        r#"{"action":"U","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":7},{"name":"n","value":"7"}],"identity":[{"name":"id","value":7}]}"#,
        r#"{"action":"U","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"public","table":"t","columns":[{"name":"id","value":7},{"name":"n","value":"7"}],"identity":[{"name":"n","value":8}]}"#,
        r#"{"action":"U","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"public","table":"t","columns":[{"name":"n","value":7}],"identity":[{"name":"gone","value":7}]}"#,
        r#"{"action":"D","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"public","table":"t","identity":[{"name":"id","value":7}]}"#,
        r#"{"action":"I","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"a\",\"table\":\"b","table":"t","columns":[{"name":"id","value":-1.5}]}"#,
        r#"{"action":"I","timestamp":"2026-11-21 19:23:03+00","lsn":"0/1","schema":"s","table":"none","columns":[]}"#,
    ];

    /// A decoder that has met all of them, and one to compare with that knows no form.
    fn decoded(decoder: &mut Decoder, message: &[u8]) -> Option<String> {
        let mut events = Vec::new();
        decoder.decode(message, &mut events).ok()?;
        Some(format!("{events:?}"))
    }

    fn versed() -> Decoder {
        let mut decoder = Decoder::new(Lsn(0));
        for message in MESSAGES {
            assert!(decoded(&mut decoder, message.as_bytes()).is_some());
        }
        decoder
    }

    #[test]
    fn a_form_is_learnt_from_one_message() {
        let mut decoder = versed();
        for message in MESSAGES.iter().filter(|message| !message.contains("\\\"table")) {
            assert!(decoder.forms.read(message).unwrap().is_some(), "{message}");
        }
        // A name that looks like the text around names is in no form.
        assert!(decoder.forms.read(MESSAGES[5]).unwrap().is_none());
    }

    #[test]
    fn what_is_applied_is_skipped_in_any_form() {
        let mut decoder = versed();
        decoder.applied = Lsn(3);
        for message in [&[BEGIN], &MESSAGES[..]].concat() {
            assert_eq!(decoded(&mut decoder, message.as_bytes()).as_deref(), Some("[]"));
        }
    }

    #[test]
    fn nothing_cut_short_is_in_any_form() {
        let mut decoder = versed();
        for message in MESSAGES {
            for length in 0..message.len() {
                let cut = &message[..length];
                assert!(decoder.forms.read(cut).unwrap().is_none(), "{cut}");
            }
        }
    }

    #[test]
    fn a_half_of_a_surrogate_pair_is_refused_wherever_it_stands() {
        for place in ["2026-11-21 19:23:03+00", "0/1", "x"] {
            let message = MESSAGES[0].replacen(place, "\\ud800", 1);
            assert!(decoded(&mut versed(), message.as_bytes()).is_none(), "{message}");
            assert!(decoded(&mut Decoder::new(Lsn(0)), message.as_bytes()).is_none(), "{message}");
        }
    }

    /// Values, names and everything around them, changed by a generator that is the same in each
    /// run, are read as the general reader does, or refused as it does. What was read is learnt.
    #[test]
    fn reads_what_the_general_reader_reads() {
        let mut random = StdRng::seed_from_u64(0x5eed);
        let mut below = |limit: usize| random.random_range(0..limit);
        let alphabet = b"\"\\{}[],:0123456789.-eEnulltruefasb \n\x1f\xc3\xa4\xff";
        let mut decoder = versed();
        let mut read = 0;
        for _ in 0..50_000 {
            let mut bytes = MESSAGES[below(MESSAGES.len())].as_bytes().to_vec();
            for _ in 0..below(4) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = alphabet[below(alphabet.len())],
                    1 => bytes.insert(at, alphabet[below(alphabet.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            read += usize::from(matches!(decoder.forms.read(&text), Ok(Some(_))));
            let found = decoded(&mut decoder, &bytes);
            assert_eq!(found, decoded(&mut Decoder::new(Lsn(0)), &bytes), "{text}");
        }
        assert!(read > 10_000, "only {read} were in a form");
    }
}
