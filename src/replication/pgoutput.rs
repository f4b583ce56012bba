//! pgoutput, protocol version 1 (Postgres manual, "Logical Replication Message Formats").
//!
//! | tag | message | body |
//! |---|---|---|
//! | `B` | begin | commit record u64, time i64, xid u32 |
//! | `C` | commit | flags u8, commit record u64, its end u64, time i64 |
//! | `R` | relation | id u32, schema, name, identity u8, columns u16 x column |
//! | `I` | insert | relation u32, `N` row |
//! | `U` | update | relation u32, [`K` or `O` row], `N` row |
//! | `D` | delete | relation u32, `K` or `O` row |
//! | `T` | truncate | count u32, flags u8, relation u32 x count |
//! | `M` | message | flags u8, position u64, prefix, content (u32 and bytes) |
//! | `O` `Y` | origin, type | not looked at |
//!
//! A column is its flags u8, name, type u32 and modifier i32. A row is its columns' count u16 and
//! for each `n` null, `u` unchanged and not sent, or `t` u32 and text. Numbers are big-endian,
//! names end in a zero byte. Values are text: the trunk casts them. Must never panic, whatever
//! arrives.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::change::{Change, Commit, Event, Old, Shape, Tuple, TupleBuilder};
use super::error::Error;
use super::link::Link;
use super::wal2json::MESSAGE_PREFIXES;

/// Microseconds from 1970 to 2000, where Postgres' clock begins.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;
/// Shapes of one relation that lack columns; a table has few, or its rows are learnt anew.
const PARTIAL_SHAPES_MAX: usize = 64;
/// Flag of a column that is part of the identity, and of a message that is part of a transaction.
const IS_KEY: u8 = 1;

/// Options for START_REPLICATION.
pub(super) fn options(link: &Link) -> Vec<(String, String)> {
    let names: Vec<String> = link.publications().iter().map(|name| format!("\"{name}\"")).collect();
    [("proto_version", "1"), ("publication_names", &names.join(",")), ("messages", "true")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// Turns messages into events. Keeps what must be remembered between messages.
pub(super) struct Decoder {
    /// Transactions that end at or before this are in the trunk already.
    applied: Lsn,
    skipping: bool,
    in_transaction: bool,
    /// As last described; the source describes a relation again before its first change after a
    /// change of its definition.
    relations: HashMap<u32, Relation>,
    excluded: HashSet<TableName>,
}

struct Relation {
    whole: Arc<Shape>,
    /// The columns that identify a row, and their places in a whole row.
    identity: Arc<Shape>,
    identity_at: Vec<usize>,
    /// By the places of the columns that are there.
    partial: HashMap<Vec<usize>, Arc<Shape>>,
    is_followed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Null,
    Unchanged,
    Text(&'a str),
}

type Row<'a> = Vec<Value<'a>>;

impl Decoder {
    pub(super) fn new(applied: Lsn, excluded: &[TableName]) -> Self {
        Self {
            applied,
            skipping: false,
            in_transaction: false,
            relations: HashMap::new(),
            excluded: excluded.iter().cloned().collect(),
        }
    }

    /// True between the begin and the commit of a transaction.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Decodes one message and appends what it means.
    pub(super) fn decode(&mut self, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        let mut body = Body(payload);
        let tag = body.byte()?;
        if self.skipping && matches!(tag, b'I' | b'U' | b'D' | b'T' | b'M') {
            return Ok(());
        }
        match tag {
            b'B' => {
                let commit = Lsn(body.long()?);
                self.in_transaction = true;
                // A commit record ends at or before `applied` exactly if it begins before it.
                self.skipping = commit < self.applied;
                if !self.skipping {
                    events.push(Event::Begin(commit));
                }
            }
            b'C' => {
                body.skip(1 + 8)?;
                let (end, time) = (Lsn(body.long()?), body.time()?);
                self.in_transaction = false;
                if !std::mem::take(&mut self.skipping) {
                    events.push(Event::Commit(Commit { end, time_us: Some(time) }));
                }
            }
            b'R' => self.describe(&mut body)?,
            b'M' => events.extend(message(&mut body)?),
            b'T' => events.extend(self.truncate(&mut body)?),
            b'I' | b'U' | b'D' => events.extend(self.row_change(tag, &mut body)?),
            b'O' | b'Y' => {}
            _ => return Err(Error::Decode("unknown message")),
        }
        Ok(())
    }

    fn describe(&mut self, body: &mut Body<'_>) -> Result<(), Error> {
        let id = body.int()?;
        let table = TableName { schema: body.name()?.to_owned(), name: body.name()?.to_owned() };
        body.skip(1)?;
        let count = body.short()?;
        let (mut columns, mut identity_at) = (Vec::new(), Vec::new());
        for at in 0..usize::from(count) {
            if body.byte()? & IS_KEY != 0 {
                identity_at.push(at);
            }
            columns.push(body.name()?.to_owned());
            body.skip(4 + 4)?;
        }
        let named = identity_at.iter().filter_map(|at| columns.get(*at).cloned()).collect();
        let is_followed = !self.excluded.contains(&table);
        let shape = |columns| Arc::new(Shape { table: table.clone(), columns, bare_bytea: false });
        let identity = shape(named);
        let whole = shape(columns);
        let partial = HashMap::new();
        self.relations.insert(id, Relation { whole, identity, identity_at, partial, is_followed });
        Ok(())
    }

    fn row_change(&mut self, tag: u8, body: &mut Body<'_>) -> Result<Option<Event>, Error> {
        let relation =
            self.relations.get_mut(&body.int()?).ok_or(Error::Decode("undescribed relation"))?;
        if !relation.is_followed {
            return Ok(None);
        }
        let (mut kind, mut row) = (body.byte()?, body.row()?);
        let mut old = None;
        if tag != b'I' && matches!(kind, b'K' | b'O') {
            if tag == b'D' {
                let old = relation.old(&row)?;
                return Ok(Some(Event::Change(Change::Delete { old })));
            }
            old = Some(row);
            (kind, row) = (body.byte()?, body.row()?);
        }
        if kind != b'N' || tag == b'D' {
            return Err(Error::Decode("change without its row"));
        }
        if tag == b'I' {
            let new = relation.new_tuple(&row)?;
            return Ok(Some(Event::Change(Change::Insert { new })));
        }
        relation.complete_identity(&mut row, old.as_ref());
        let old = match &old {
            Some(old) => Old::Row(relation.old(old)?),
            None => Old::Kept(relation.kept(&row)?),
        };
        Ok(Some(Event::Change(Change::Update { new: relation.new_tuple(&row)?, old })))
    }

    fn truncate(&self, body: &mut Body<'_>) -> Result<Option<Event>, Error> {
        let count = body.int()?;
        body.skip(1)?;
        let mut tables = Vec::new();
        for _ in 0..count {
            let relation =
                self.relations.get(&body.int()?).ok_or(Error::Decode("undescribed relation"))?;
            if relation.is_followed {
                tables.push(relation.whole.table.clone());
            }
        }
        Ok((!tables.is_empty()).then_some(Event::Change(Change::Truncate { tables })))
    }
}

/// One of ours; others' are not for us, in a transaction or not.
fn message(body: &mut Body<'_>) -> Result<Option<Event>, Error> {
    let is_transactional = body.byte()? & IS_KEY != 0;
    let lsn = Lsn(body.long()?);
    let prefix = body.name()?;
    let content = body.text()?;
    let is_ours = is_transactional && MESSAGE_PREFIXES.contains(&prefix);
    let content = content.to_owned();
    Ok(is_ours.then_some(Event::Change(Change::Message { content, lsn })))
}

impl Relation {
    /// A key that is stored out of line and did not change comes with the old row only.
    fn complete_identity<'a>(&self, row: &mut Row<'a>, old: Option<&Row<'a>>) {
        let Some(old) = old else { return };
        for &at in &self.identity_at {
            if let (Some(value @ Value::Unchanged), Some(kept)) = (row.get_mut(at), old.get(at)) {
                *value = *kept;
            }
        }
    }

    /// What identified the row before, as it was sent.
    fn old(&self, row: &[Value<'_>]) -> Result<Tuple, Error> {
        let values: Row<'_> = self.identity_in(row)?.collect();
        Ok(tuple(&self.identity, &values))
    }

    /// What identifies the row as before: it was not sent.
    fn kept(&self, new: &[Value<'_>]) -> Result<Arc<Shape>, Error> {
        self.identity_in(new).map(|_| Arc::clone(&self.identity))
    }

    fn identity_in<'a>(&self, row: &[Value<'a>]) -> Result<impl Iterator<Item = Value<'a>>, Error> {
        let is_there = |at: &usize| row.get(*at).is_some_and(|value| *value != Value::Unchanged);
        if self.identity_at.is_empty() || !self.identity_at.iter().all(is_there) {
            return Err(Error::Decode("row without its identity"));
        }
        Ok(self.identity_at.iter().filter_map(|at| row.get(*at).copied()))
    }

    fn new_tuple(&mut self, row: &[Value<'_>]) -> Result<Tuple, Error> {
        if row.len() != self.whole.columns.len() {
            return Err(Error::Decode("row of another shape"));
        }
        if !row.contains(&Value::Unchanged) {
            return Ok(tuple(&self.whole, row));
        }
        let there: Vec<usize> =
            (0..row.len()).filter(|at| row.get(*at) != Some(&Value::Unchanged)).collect();
        let values: Row<'_> = there.iter().filter_map(|at| row.get(*at).copied()).collect();
        if self.partial.len() >= PARTIAL_SHAPES_MAX && !self.partial.contains_key(&there) {
            self.partial.clear();
        }
        let whole = &self.whole;
        let shape = self.partial.entry(there).or_insert_with_key(|there| {
            let columns = there.iter().filter_map(|at| whole.columns.get(*at).cloned()).collect();
            Arc::new(Shape { table: whole.table.clone(), columns, bare_bytea: false })
        });
        Ok(tuple(shape, &values))
    }
}

fn tuple(shape: &Arc<Shape>, values: &[Value<'_>]) -> Tuple {
    let bytes = values.iter().map(|value| match value {
        Value::Text(text) => text.len(),
        _ => 0,
    });
    let mut tuple = TupleBuilder::new(Arc::clone(shape), bytes.sum());
    for value in values {
        match value {
            Value::Text(text) => tuple.push_text(text),
            Value::Null | Value::Unchanged => tuple.push_null(),
        }
    }
    tuple.finish()
}

/// What is left of a message.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Error::Decode("short message"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) =
            self.0.split_first_chunk::<N>().ok_or(Error::Decode("short message"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Error> {
        self.take(count).map(|_| ())
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    fn short(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn int(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// Microseconds of the Unix epoch.
    fn time(&mut self) -> Result<i64, Error> {
        let since_2000 = self.array().map(i64::from_be_bytes)?;
        since_2000.checked_add(POSTGRES_EPOCH_US).ok_or(Error::Decode("time out of range"))
    }

    fn name(&mut self) -> Result<&'a str, Error> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Error::Decode("endless name"))?;
        let name = utf8(self.take(end)?)?;
        self.skip(1)?;
        Ok(name)
    }

    fn text(&mut self) -> Result<&'a str, Error> {
        let length = usize::try_from(self.int()?).map_err(|_| Error::Decode("length too large"))?;
        utf8(self.take(length)?)
    }

    fn row(&mut self) -> Result<Row<'a>, Error> {
        let count = self.short()?;
        let mut row = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            row.push(match self.byte()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => Value::Text(self.text()?),
                _ => return Err(Error::Decode("unknown kind of value")),
            });
        }
        Ok(row)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Decode("text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    fn name(text: &str) -> Vec<u8> {
        [text.as_bytes(), &[0]].concat()
    }

    fn row(values: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            match value {
                None => bytes.push(b'n'),
                Some("<unchanged>") => bytes.push(b'u'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    /// Table `s.t` with the key `id` and a column `v`, and everything that can be said of it.
    fn messages() -> Vec<Vec<u8>> {
        let at = |lsn: u64| lsn.to_be_bytes().to_vec();
        let id = 7_u32.to_be_bytes().to_vec();
        let column = |is_key: u8, text: &str| {
            [vec![is_key], name(text), vec![0, 0, 0, 25, 255, 255, 255, 255]].concat()
        };
        let begin = [vec![b'B'], at(100), at(0), vec![0, 0, 0, 9]].concat();
        let describe = [
            vec![b'R'],
            id.clone(),
            name("s"),
            name("t"),
            vec![b'd', 0, 2],
            column(1, "id"),
            column(0, "v"),
        ]
        .concat();
        let change = |tag: u8, rows: &[&[u8]]| [&[tag][..], &id, &rows.concat()].concat();
        let new = |values: &[Option<&str>]| [vec![b'N'], row(values)].concat();
        let key = |id: &str| [vec![b'K'], row(&[Some(id), None])].concat();
        let content = "tag {}";
        vec![
            begin,
            describe,
            change(b'I', &[&new(&[Some("1"), None])]),
            change(b'U', &[&new(&[Some("1"), Some("<unchanged>")])]),
            change(b'U', &[&key("1"), &new(&[Some("2"), Some("x")])]),
            change(b'U', &[&key("2"), &new(&[Some("<unchanged>"), Some("y")])]),
            change(b'D', &[&key("2")]),
            [vec![b'T'], vec![0, 0, 0, 1, 0], id.clone()].concat(),
            [
                vec![b'M', 1],
                at(50),
                name("ardent.barrier"),
                u32::try_from(content.len()).unwrap().to_be_bytes().to_vec(),
                content.as_bytes().to_vec(),
            ]
            .concat(),
            [vec![b'C', 0], at(100), at(150), at(1)].concat(),
        ]
    }

    fn text(tuple: &Tuple) -> String {
        let columns = tuple.shape.columns.iter().enumerate();
        let cells = columns.map(|(at, name)| {
            let value = tuple.value(at).map_or("~".into(), String::from_utf8_lossy);
            format!("{name}={value}")
        });
        cells.collect::<Vec<_>>().join(" ")
    }

    fn shown(event: &Event) -> String {
        match event {
            Event::Begin(lsn) => format!("begin {}", lsn.0),
            Event::Change(Change::Insert { new }) => format!("insert {}", text(new)),
            Event::Change(Change::Update { new, old: Old::Row(old) }) => {
                format!("update {} to {}", text(old), text(new))
            }
            Event::Change(Change::Update { new, old: Old::Kept(shape) }) => {
                format!("update {} as before to {}", shape.columns.join(" "), text(new))
            }
            Event::Change(Change::Delete { old }) => format!("delete {}", text(old)),
            Event::Change(Change::Truncate { tables }) => format!("truncate {}", tables[0]),
            Event::Change(Change::Message { content, .. }) => format!("message {content}"),
            Event::Commit(commit) => format!("commit {} {:?}", commit.end.0, commit.time_us),
            other => format!("{other:?}"),
        }
    }

    fn decode(applied: u64, excluded: &[TableName]) -> Vec<String> {
        let mut decoder = Decoder::new(Lsn(applied), excluded);
        let mut events = Vec::new();
        for message in messages() {
            decoder.decode(&message, &mut events).unwrap();
        }
        events.iter().map(shown).collect()
    }

    #[test]
    fn reads_every_kind_of_message() {
        assert_eq!(
            decode(100, &[]),
            [
                "begin 100",
                "insert id=1 v=~",
                "update id as before to id=1",
                "update id=1 to id=2 v=x",
                "update id=2 to id=2 v=y",
                "delete id=2",
                "truncate s.t",
                "message tag {}",
                "commit 150 Some(946684800000001)",
            ]
        );
    }

    #[test]
    fn leaves_out_what_is_applied_or_excluded() {
        assert!(decode(150, &[]).is_empty());
        let excluded = TableName { schema: "s".into(), name: "t".into() };
        assert_eq!(decode(0, &[excluded]).len(), 3, "begin, message, commit");
    }

    #[test]
    fn survives_any_truncation() {
        for (index, message) in messages().iter().enumerate() {
            for length in 0..message.len() {
                let mut decoder = Decoder::new(Lsn(0), &[]);
                for before in &messages()[..index] {
                    decoder.decode(before, &mut Vec::new()).unwrap();
                }
                let outcome = decoder.decode(&message[..length], &mut Vec::new());
                // What nobody reads of a message nobody misses.
                let is_unread = matches!(message[0], b'B' if length >= 9);
                assert!(outcome.is_err() || is_unread, "{index}: {length}");
            }
        }
    }

    #[test]
    fn survives_any_mutation() {
        let whole = messages();
        let mut random = StdRng::seed_from_u64(0x5eed);
        let mut below = |limit: usize| random.random_range(0..limit);
        for _ in 0..20_000 {
            let mut decoder = Decoder::new(Lsn(0), &[]);
            let mut events = Vec::new();
            for message in &whole {
                let mut bytes = message.clone();
                for _ in 0..below(4) {
                    let at = below(bytes.len());
                    bytes[at] = u8::try_from(below(256)).unwrap();
                }
                // Wrong is well, as long as it says so.
                let _outcome = decoder.decode(&bytes, &mut events);
            }
        }
    }
}
