//! wal2json, format version 2: one JSON object per message (replication notes, section 2).
//!
//! Numbers are kept as the text they were sent as and never pass through a float. Must never
//! panic, whatever arrives.

mod form;
mod scan;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::change::{Change, Commit, Event, Old, Shape, Tuple, TupleBuilder};
use super::error::Error;
use form::{Forms, Row};
use scan::{Cell, Message, Value};

/// Prefix of the messages that are ours.
pub(super) const MESSAGE_PREFIXES: [&str; 3] = ["ardent.barrier", "ardent.heartbeat", "ardent.ddl"];
/// What wal2json begins the notice with that says a change was dropped.
const LOST_NOTICE: &str = "no tuple identifier for ";

/// Options for START_REPLICATION, richest first to be dropped: a version that lacks one says so
/// before it streams. The last of the pair says whether streaming without it is acceptable.
pub(super) fn options(schemas: &[String], excluded: &[TableName]) -> Vec<(String, String)> {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    let mut options = vec![
        pair("format-version", "2".into()),
        pair("include-lsn", "1".into()),
        pair("include-timestamp", "1".into()),
        pair("include-transaction", "1".into()),
        pair("include-xids", "0".into()),
        pair("include-types", "0".into()),
        pair("include-pk", "0".into()),
        pair("actions", "insert,update,delete,truncate".into()),
        pair("add-msg-prefixes", MESSAGE_PREFIXES.join(",")),
        pair("numeric-data-types-as-string", "1".into()),
    ];
    if !schemas.is_empty() {
        let tables: Vec<String> =
            schemas.iter().map(|schema| format!("{}.*", escape(schema))).collect();
        options.push(pair("add-tables", tables.join(",")));
    }
    // A filtered table is still decoded, so the list begins with what we never want.
    let mut filtered = vec!["ardent.*".to_owned()];
    filtered.extend(
        excluded.iter().map(|table| format!("{}.{}", escape(&table.schema), escape(&table.name))),
    );
    options.push(pair("filter-tables", filtered.join(",")));
    options
}

/// The option that a server's error says is unknown to its wal2json.
pub(super) fn unknown_option(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("option \"")?;
    message.ends_with("is unknown").then(|| rest.split('"').next()).flatten()
}

/// In a list of tables these separate or mean something.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for character in name.chars() {
        if matches!(character, '\\' | ',' | '.' | ' ' | '*') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// A notice of the walsender, if it says that a change was dropped: `no tuple identifier for UPDATE
/// in table "public"."t"`.
pub(super) fn lost_change(notice: &str) -> Option<Change> {
    let rest = notice.strip_prefix(LOST_NOTICE)?;
    let table = rest.split_once("in table \"").and_then(|(_, names)| {
        let (schema, name) = names.trim_end_matches('"').split_once("\".\"")?;
        Some(TableName { schema: schema.to_owned(), name: name.to_owned() })
    });
    Some(Change::Lost { table, said: notice.to_owned() })
}

/// Turns messages into events. Keeps what must be remembered between messages.
pub(super) struct Decoder {
    /// Transactions that end at or before this are in the trunk already.
    applied: Lsn,
    skipping: bool,
    in_transaction: bool,
    /// The tables of one TRUNCATE arrive as messages with one position.
    truncated: Option<(String, Vec<TableName>)>,
    shapes: HashMap<String, HashMap<String, Vec<Arc<Shape>>>>,
    forms: Forms,
    /// Of the message at work; kept for its room.
    cells: Vec<Cell>,
}

impl Decoder {
    pub(super) fn new(applied: Lsn) -> Self {
        Self {
            applied,
            skipping: false,
            in_transaction: false,
            truncated: None,
            shapes: HashMap::new(),
            forms: Forms::default(),
            cells: Vec::new(),
        }
    }

    /// True between the begin and the commit of a transaction.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// Decodes one message and appends what it means.
    pub(super) fn decode(&mut self, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        let text = std::str::from_utf8(payload).map_err(|_| Error::Decode("not UTF-8"))?;
        if !self.skipping
            && let Some(change) = self.forms.read(text)?
        {
            self.end_truncate(events);
            events.push(Event::Change(change));
            return Ok(());
        }
        let mut cells = std::mem::take(&mut self.cells);
        let message = scan::message(text, &mut cells)?;
        let outcome = self.take(message, &Cells { text, cells: &cells }, events);
        self.cells = cells;
        outcome
    }

    fn take(
        &mut self,
        message: Message<'_>,
        cells: &Cells<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let action = message.action.as_deref().ok_or(Error::Decode("message without action"))?;
        if action != "T" || self.truncated_elsewhere(&message) {
            self.end_truncate(events);
        }
        if self.skipping && !matches!(action, "B" | "C") {
            return Ok(());
        }
        match action {
            "B" => {
                self.in_transaction = true;
                self.skipping = position(message.nextlsn.as_deref())? <= self.applied;
                if !self.skipping {
                    events.push(Event::Begin(position(message.lsn.as_deref())?));
                }
            }
            "C" => {
                self.in_transaction = false;
                let end = position(message.nextlsn.as_deref())?;
                let time_us = message.timestamp.as_deref().and_then(microseconds);
                if !std::mem::take(&mut self.skipping) {
                    events.push(Event::Commit(Commit { end, time_us }));
                }
            }
            "I" => {
                let new = self.row(&message, &message.columns, cells)?;
                let change = Change::Insert { new: new.tuple(cells.text)? };
                self.forms.learn(cells.text, &message, Some(new), None);
                events.push(Event::Change(change));
            }
            "U" => events.push(Event::Change(self.update(&message, cells)?)),
            "D" => events.push(Event::Change(self.delete(&message, cells)?)),
            "T" => self.truncate(message)?,
            "M" => {
                let lsn = position(message.lsn.as_deref())?;
                let content = message.content.map(Cow::into_owned).unwrap_or_default();
                events.push(Event::Change(Change::Message { content, lsn }));
            }
            _ => return Err(Error::Decode("unknown action")),
        }
        Ok(())
    }

    fn update(&mut self, message: &Message<'_>, cells: &Cells<'_>) -> Result<Change, Error> {
        if message.identity.is_none() {
            return lost_key(message, "an update");
        }
        let new = self.row(message, &message.columns, cells)?;
        let old = self.row(message, &message.identity, cells)?;
        let change = Change::Update {
            new: new.tuple(cells.text)?,
            old: match cells.are_kept(new.cells, old.cells) {
                true => Old::Kept(Arc::clone(&old.shape)),
                false => Old::Row(old.tuple(cells.text)?),
            },
        };
        self.forms.learn(cells.text, message, Some(new), Some(old));
        Ok(change)
    }

    fn delete(&mut self, message: &Message<'_>, cells: &Cells<'_>) -> Result<Change, Error> {
        if message.identity.is_none() {
            return lost_key(message, "a delete");
        }
        let old = self.row(message, &message.identity, cells)?;
        let change = Change::Delete { old: old.tuple(cells.text)? };
        self.forms.learn(cells.text, message, None, Some(old));
        Ok(change)
    }

    fn truncated_elsewhere(&self, message: &Message<'_>) -> bool {
        let lsn = message.lsn.as_deref();
        self.truncated.as_ref().is_some_and(|(at, _)| Some(at.as_str()) != lsn)
    }

    fn truncate(&mut self, message: Message<'_>) -> Result<(), Error> {
        let (Some(schema), Some(table), Some(lsn)) = (message.schema, message.table, message.lsn)
        else {
            return Err(Error::Decode("truncate without table or position"));
        };
        let table = TableName { schema: schema.into_owned(), name: table.into_owned() };
        let (_, tables) = self.truncated.get_or_insert_with(|| (lsn.into_owned(), Vec::new()));
        tables.push(table);
        Ok(())
    }

    fn end_truncate(&mut self, events: &mut Vec<Event>) {
        if let Some((_, tables)) = self.truncated.take() {
            events.push(Event::Change(Change::Truncate { tables }));
        }
    }

    fn row<'a>(
        &mut self,
        message: &Message<'_>,
        row: &Option<Range<usize>>,
        cells: &Cells<'a>,
    ) -> Result<Row<'a>, Error> {
        let (Some(schema), Some(table)) = (&message.schema, &message.table) else {
            return Err(Error::Decode("change without table"));
        };
        let row = row.clone().and_then(|place| cells.cells.get(place));
        let row = row.ok_or(Error::Decode("change without columns"))?;
        Ok(Row { shape: self.shape(schema, table, row, cells.text)?, cells: row })
    }

    fn shape(
        &mut self,
        schema: &str,
        table: &str,
        row: &[Cell],
        text: &str,
    ) -> Result<Arc<Shape>, Error> {
        let fits = |shape: &&Arc<Shape>| {
            shape.columns.len() == row.len()
                && shape.columns.iter().zip(row).all(|(name, cell)| cell.name.is(text, name))
        };
        let known = self.shapes.get(schema).and_then(|tables| tables.get(table));
        match known.and_then(|shapes| shapes.iter().find(fits)) {
            Some(shape) => Ok(Arc::clone(shape)),
            None => self.learn(schema, table, row, text),
        }
    }

    fn learn(
        &mut self,
        schema: &str,
        table: &str,
        row: &[Cell],
        text: &str,
    ) -> Result<Arc<Shape>, Error> {
        let names = row.iter().map(|cell| Ok(cell.name.read(text)?.into_owned()));
        let shape = Arc::new(Shape {
            table: TableName { schema: schema.to_owned(), name: table.to_owned() },
            columns: names.collect::<Result<_, Error>>()?,
            bare_bytea: true,
        });
        let tables = self.shapes.entry(schema.to_owned()).or_default();
        let shapes = tables.entry(table.to_owned()).or_default();
        // A table has few shapes unless its columns keep changing; then old ones go.
        if shapes.len() >= SHAPES_PER_TABLE_MAX {
            shapes.clear();
        }
        shapes.push(Arc::clone(&shape));
        Ok(shape)
    }
}

const SHAPES_PER_TABLE_MAX: usize = 64;

/// What a change says that does not say of which row it is.
fn lost_key(message: &Message<'_>, change: &str) -> Result<Change, Error> {
    let (Some(schema), Some(table)) = (&message.schema, &message.table) else {
        return Err(Error::Decode("change without table"));
    };
    let table = TableName { schema: schema.to_string(), name: table.to_string() };
    Ok(Change::Lost { table: Some(table), said: format!("{change} came without its old key") })
}

/// The cells of a message with the text that they are places of.
struct Cells<'a> {
    text: &'a str,
    cells: &'a [Cell],
}

impl Cells<'_> {
    /// All cells of one row are in the other as well. Both are in the order of the table; in any
    /// other, the answer may be no.
    fn are_kept(&self, new: &[Cell], old: &[Cell]) -> bool {
        let mut new = new.iter();
        old.iter().all(|old| {
            new.find(|new| new.has_name_of(old, self.text))
                .is_some_and(|new| new.value.is_written_as(&old.value, self.text))
        })
    }
}

impl Row<'_> {
    fn tuple(&self, text: &str) -> Result<Tuple, Error> {
        tuple(Arc::clone(&self.shape), self.cells.iter().map(|cell| &cell.value), text)
    }
}

/// A row of these values, which are places in the text.
fn tuple<'a>(
    shape: Arc<Shape>,
    values: impl Iterator<Item = &'a Value> + Clone,
    text: &str,
) -> Result<Tuple, Error> {
    let mut tuple = TupleBuilder::new(shape, values.clone().map(Value::bytes).sum());
    for value in values {
        match value {
            Value::Null => tuple.push_null(),
            // As Postgres prints a boolean.
            Value::Bool(is_true) => tuple.push_text(if *is_true { "t" } else { "f" }),
            Value::Number(place) => tuple.push_text(text.get(place.clone()).unwrap_or_default()),
            Value::Text(quoted) => tuple.push_text(&quoted.read(text)?),
        }
    }
    Ok(tuple.finish())
}

fn position(text: Option<&str>) -> Result<Lsn, Error> {
    text.and_then(|text| text.parse().ok()).ok_or(Error::Decode("transaction without its position"))
}

/// Reads `2026-11-21 19:23:03.797903+00`; the walsender's time zone is pinned to UTC. A time that
/// does not fit is no reason to stop.
fn microseconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix("+00")?.split_once(' ')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let micros = format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()?;
    let seconds = days_from_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (H. Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `days_from_civil`).
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(messages: &[&str]) -> Vec<Event> {
        let mut decoder = Decoder::new(Lsn(0));
        let mut events = Vec::new();
        for message in messages {
            decoder.decode(message.as_bytes(), &mut events).unwrap();
        }
        events
    }

    const COMMIT: &str = r#"{"action":"C","timestamp":"2026-11-21 19:23:03.797903+00",
        "lsn":"0/155BE10","nextlsn":"0/155BE40"}"#;
    const UPDATE: &str = r#"{"action":"U","lsn":"0/1","schema":"public","table":"t",
        "columns":[{"name":"id","value":12345678901234567890.10},
        {"name":"a b","value":"x\"\u0001\\y"},{"name":"n","value":null},{"name":"f","value":true}],
        "identity":[{"name":"id","value":1}]}"#;

    #[test]
    fn keeps_values_as_they_were_sent() {
        let events = decode(&[UPDATE]);
        let [Event::Change(Change::Update { new, old: Old::Row(old) })] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(new.shape.columns, ["id", "a b", "n", "f"]);
        let values: Vec<_> = (0..4).map(|position| new.value(position)).collect();
        assert_eq!(
            values,
            [Some(&b"12345678901234567890.10"[..]), Some(b"x\"\x01\\y"), None, Some(b"t")]
        );
        assert_eq!(old.value(0), Some(&b"1"[..]));
    }

    #[test]
    fn a_key_that_is_kept_is_told_by_its_columns() {
        let columns =
            r#"[{"name":"a","value":1},{"name":"b","value":null},{"name":"c","value":"x"}]"#;
        let kept = |identity: &str| {
            let events = decode(&[&format!(
                r#"{{"action":"U","lsn":"0/1","schema":"s","table":"t","columns":{columns},
                    "identity":{identity}}}"#
            )]);
            match events.into_iter().next() {
                Some(Event::Change(Change::Update { new, old: old @ Old::Kept(_) })) => {
                    let row = old.into_row(&new);
                    let values = (0..row.shape.columns.len()).map(|at| row.value(at));
                    Some(values.map(|value| value.map(<[u8]>::to_vec)).collect::<Vec<_>>())
                }
                Some(Event::Change(Change::Update { old: Old::Row(_), .. })) => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(kept(columns).map(|row| row.len()), Some(3));
        let kept_two = kept(r#"[{"name":"b","value":null},{"name":"c","value":"x"}]"#);
        assert_eq!(kept_two, Some(vec![None, Some(b"x".to_vec())]));
        for changed in [
            r#"[{"name":"a","value":"1"}]"#,
            r#"[{"name":"a","value":2}]"#,
            r#"[{"name":"b","value":1}]"#,
            r#"[{"name":"c","value":"y"}]"#,
            r#"[{"name":"d","value":1}]"#,
            r#"[{"name":"c","value":"x"},{"name":"a","value":1}]"#,
        ] {
            assert_eq!(kept(changed), None, "{changed}");
        }
    }

    #[test]
    fn a_change_that_does_not_say_of_which_row_it_is_is_a_loss() {
        let update = UPDATE.replace("\"identity\"", "\"other\"");
        for change in [update.clone(), update.replace("\"U\"", "\"D\"")] {
            let events = decode(&[&change]);
            let [Event::Change(Change::Lost { table: Some(table), .. })] = &events[..] else {
                panic!("{events:?}");
            };
            assert_eq!(table.name, "t");
        }
    }

    #[test]
    fn reads_the_end_and_time_of_a_commit() {
        let events = decode(&[COMMIT]);
        let [Event::Commit(commit)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(commit.end, "0/155BE40".parse().unwrap());
        assert_eq!(commit.time_us, Some(1_795_288_983_797_903));
    }

    #[test]
    fn groups_the_tables_of_one_truncate() {
        let truncate = |table: &str, lsn: &str| {
            format!(r#"{{"action":"T","lsn":"{lsn}","schema":"s","table":"{table}"}}"#)
        };
        let (a, b, c) = (truncate("a", "0/1"), truncate("b", "0/1"), truncate("c", "0/2"));
        let events = decode(&[&a, &b, &c, COMMIT]);
        let lengths: Vec<usize> = events
            .iter()
            .map(|event| match event {
                Event::Change(Change::Truncate { tables }) => tables.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(lengths, [2, 1, 0]);
    }

    #[test]
    fn skips_what_is_applied() {
        let mut decoder = Decoder::new("0/155BE40".parse().unwrap());
        let mut events = Vec::new();
        let begin = r#"{"action":"B","lsn":"0/155BE10","nextlsn":"0/155BE40"}"#;
        for message in [begin, UPDATE, COMMIT] {
            decoder.decode(message.as_bytes(), &mut events).unwrap();
        }
        assert!(events.is_empty(), "{events:?}");
    }

    #[test]
    fn survives_any_truncation() {
        for message in [UPDATE, COMMIT] {
            for length in 0..message.len() {
                let mut decoder = Decoder::new(Lsn(0));
                let outcome = decoder.decode(&message.as_bytes()[..length], &mut Vec::new());
                assert!(outcome.is_err(), "{length}");
            }
        }
    }

    #[test]
    fn names_the_table_of_a_lost_change() {
        let notice = "no tuple identifier for UPDATE in table \"public\".\"My t\"";
        let Some(Change::Lost { table: Some(table), .. }) = lost_change(notice) else {
            panic!("not seen");
        };
        assert_eq!(table.to_string(), "public.My t");
        assert!(lost_change("something else").is_none());
        assert_eq!(unknown_option("option \"a-b\" = \"1\" is unknown"), Some("a-b"));
    }

    #[test]
    fn escapes_names_in_lists() {
        assert_eq!(escape("My, t.x"), "My\\,\\ t\\.x");
    }
}
