//! The JSON of one message, read where it lies: places in the text are found, and nothing copied.
//!
//! A message is one object (RFC 8259). What we use of it, each at most once: strings, and rows,
//! which are arrays of objects of a name and a scalar. Every other member is checked and passed
//! over. Anything else fails. Must never panic, whatever arrives.

use std::borrow::Cow;
use std::ops::Range;

use super::super::error::Error;

const MALFORMED: Error = Error::Decode("not the JSON that wal2json writes");
/// Nothing that wal2json writes nests deeper.
const DEPTH_MAX: usize = 16;
/// So many bytes of a string are looked at at once.
const CHUNK_BYTES: usize = 16;

/// The members that mean something.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub(super) action: Option<Cow<'a, str>>,
    pub(super) schema: Option<Cow<'a, str>>,
    pub(super) table: Option<Cow<'a, str>>,
    pub(super) lsn: Option<Cow<'a, str>>,
    pub(super) nextlsn: Option<Cow<'a, str>>,
    pub(super) timestamp: Option<Cow<'a, str>>,
    pub(super) content: Option<Cow<'a, str>>,
    /// Where the cells of the row are.
    pub(super) columns: Option<Range<usize>>,
    pub(super) identity: Option<Range<usize>>,
}

/// A column of a row: its name, and its value.
pub(super) struct Cell {
    pub(super) name: Quoted,
    pub(super) value: Value,
}

impl Cell {
    /// Both names are written alike.
    pub(super) fn has_name_of(&self, other: &Self, text: &str) -> bool {
        self.name.raw(text) == other.name.raw(text)
    }
}

/// A place between quotes.
#[derive(Clone, Copy)]
pub(super) struct Quoted {
    start: usize,
    end: usize,
    has_escapes: bool,
}

pub(super) enum Value {
    Null,
    Bool(bool),
    /// As it was written, which no float would keep.
    Number(Range<usize>),
    Text(Quoted),
}

impl Quoted {
    /// What it says. Copied only if it has escapes.
    pub(super) fn read<'a>(&self, text: &'a str) -> Result<Cow<'a, str>, Error> {
        if !self.has_escapes {
            return self.raw(text).map(Cow::Borrowed).ok_or(MALFORMED);
        }
        let quoted = text.get(self.start - 1..self.end + 1).ok_or(MALFORMED)?;
        Ok(Cow::Owned(serde_json::from_str(quoted)?))
    }

    pub(super) fn has_escapes(&self) -> bool {
        self.has_escapes
    }

    /// As it is written, escapes and all.
    pub(super) fn raw<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.get(self.start..self.end)
    }

    /// It says this.
    pub(super) fn is(&self, text: &str, said: &str) -> bool {
        self.read(text).is_ok_and(|own| own == said)
    }
}

impl Value {
    /// Both are written alike, so they are alike.
    pub(super) fn is_written_as(&self, other: &Self, text: &str) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(own), Self::Bool(other)) => own == other,
            (Self::Number(own), Self::Number(other)) => {
                text.get(own.clone()) == text.get(other.clone())
            }
            (Self::Text(own), Self::Text(other)) => own.raw(text) == other.raw(text),
            _ => false,
        }
    }

    /// What its text takes at most.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(place) => place.len(),
            Self::Text(quoted) => quoted.end - quoted.start,
        }
    }
}

/// Reads one message; the cells of its rows take the place of what `cells` held.
pub(super) fn message<'a>(text: &'a str, cells: &mut Vec<Cell>) -> Result<Message<'a>, Error> {
    cells.clear();
    let mut message = Message::default();
    let mut scan = Scan::new(text);
    scan.object(|scan, name| message.take(scan, name, cells))?;
    match scan.peek() {
        None => Ok(message),
        Some(_) => Err(MALFORMED),
    }
}

impl<'a> Message<'a> {
    fn take(
        &mut self,
        scan: &mut Scan<'a>,
        name: &str,
        cells: &mut Vec<Cell>,
    ) -> Result<(), Error> {
        let member = match name {
            "action" => &mut self.action,
            "schema" => &mut self.schema,
            "table" => &mut self.table,
            "lsn" => &mut self.lsn,
            "nextlsn" => &mut self.nextlsn,
            "timestamp" => &mut self.timestamp,
            "content" => &mut self.content,
            "columns" => return put(&mut self.columns, scan.row(cells)?),
            "identity" => return put(&mut self.identity, scan.row(cells)?),
            _ => return scan.skip(0),
        };
        // A message outside any transaction has no time.
        if name == "timestamp" && scan.peek() == Some(b'n') {
            return scan.literal("null");
        }
        put(member, scan.string()?.read(scan.text)?)
    }
}

fn put<T>(member: &mut Option<T>, value: T) -> Result<(), Error> {
    match member.replace(value) {
        None => Ok(()),
        Some(_) => Err(MALFORMED),
    }
}

/// How far the text has been read.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn place(&self) -> usize {
        self.at
    }

    pub(super) fn go_to(&mut self, place: usize) {
        self.at = place;
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Takes this text, if it comes next.
    pub(super) fn passes(&mut self, text: &str) -> bool {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let is_next = rest.starts_with(text.as_bytes());
        self.at += if is_next { text.len() } else { 0 };
        is_next
    }

    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = self.byte()?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// The next byte.
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes this byte after any spaces, if it is the next.
    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.takes(byte) { Ok(()) } else { Err(MALFORMED) }
    }

    /// `{"name": member, ...}`; the closure reads the member.
    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.expect(b'{')?;
        if self.takes(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string()?;
            // No name that anybody writes has an escape.
            if name.has_escapes {
                return Err(MALFORMED);
            }
            self.expect(b':')?;
            member(self, self.text.get(name.start..name.end).ok_or(MALFORMED)?)?;
            if !self.takes(b',') {
                return self.expect(b'}');
            }
        }
    }

    /// `[element, ...]`; the closure reads the element.
    fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.expect(b'[')?;
        if self.takes(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.takes(b',') {
                return self.expect(b']');
            }
        }
    }

    fn row(&mut self, cells: &mut Vec<Cell>) -> Result<Range<usize>, Error> {
        let first = cells.len();
        self.array(|scan| {
            cells.push(scan.cell()?);
            Ok(())
        })?;
        Ok(first..cells.len())
    }

    fn cell(&mut self) -> Result<Cell, Error> {
        let (mut name, mut value) = (None, None);
        self.object(|scan, member| match member {
            "name" => put(&mut name, scan.string()?),
            "value" => put(&mut value, scan.scalar()?),
            _ => scan.skip(0),
        })?;
        Ok(Cell { name: name.ok_or(MALFORMED)?, value: value.unwrap_or(Value::Null) })
    }

    pub(super) fn scalar(&mut self) -> Result<Value, Error> {
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false)),
            _ => Ok(Value::Number(self.number()?)),
        }
    }

    /// Passes over whatever comes next.
    fn skip(&mut self, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(MALFORMED);
        }
        match self.peek() {
            Some(b'{') => self.object(|scan, _| scan.skip(depth + 1)),
            Some(b'[') => self.array(|scan| scan.skip(depth + 1)),
            _ => self.scalar().map(drop),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), Error> {
        if self.passes(word) { Ok(()) } else { Err(MALFORMED) }
    }

    pub(super) fn string(&mut self) -> Result<Quoted, Error> {
        self.expect(b'"')?;
        let start = self.at;
        let mut has_escapes = false;
        loop {
            let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
            self.at += plain_length(rest);
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                // Cut short, or a control character.
                _ => return Err(MALFORMED),
            }
            has_escapes = true;
        }
        let end = self.at;
        self.at += 1;
        Ok(Quoted { start, end, has_escapes })
    }

    fn escape(&mut self) -> Result<(), Error> {
        self.at += 1;
        let digits = match self.byte() {
            Some(b'u') => 4,
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
            _ => return Err(MALFORMED),
        };
        self.at += 1;
        let code = self.text.as_bytes().get(self.at..self.at + digits).ok_or(MALFORMED)?;
        if !code.iter().all(u8::is_ascii_hexdigit) {
            return Err(MALFORMED);
        }
        self.at += digits;
        Ok(())
    }

    fn number(&mut self) -> Result<Range<usize>, Error> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        // No zeros lead.
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(start..self.at)
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(MALFORMED) }
    }
}

/// How many bytes come before one that means something in a string.
fn plain_length(bytes: &[u8]) -> usize {
    let means_something = |byte: &u8| matches!(byte, b'"' | b'\\' | ..b' ');
    let mut length = 0;
    for chunk in bytes.chunks(CHUNK_BYTES) {
        // Without a way out amid the chunk, so that it is one comparison for the processor.
        if chunk.iter().fold(false, |any, byte| any | means_something(byte)) {
            return length + chunk.iter().take_while(|byte| !means_something(byte)).count();
        }
        length += chunk.len();
    }
    length
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    /// The same by a general reader of JSON, for comparison.
    #[derive(Deserialize)]
    struct Second<'a> {
        #[serde(borrow)]
        action: Cow<'a, str>,
        #[serde(borrow, default)]
        schema: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        table: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        lsn: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        nextlsn: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        timestamp: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        columns: Option<Vec<SecondCell<'a>>>,
        #[serde(borrow, default)]
        identity: Option<Vec<SecondCell<'a>>>,
        #[serde(borrow, default)]
        content: Option<Cow<'a, str>>,
    }

    #[derive(Deserialize)]
    struct SecondCell<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow)]
        value: Option<&'a RawValue>,
    }

    type Row = Option<Vec<(String, Option<String>)>>;
    type Shown = (Vec<Option<String>>, Row, Row);

    /// None if it is refused, or lacks the one member that every message has.
    fn first(bytes: &[u8]) -> Option<Shown> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut cells = Vec::new();
        let found = message(text, &mut cells).ok()?;
        let row = |place: &Option<Range<usize>>| {
            let Some(place) = place else { return Some(None) };
            let row = cells[place.clone()].iter().map(|cell| {
                let value = match &cell.value {
                    Value::Null => None,
                    Value::Bool(is_true) => Some(is_true.to_string()),
                    Value::Number(place) => Some(text[place.clone()].to_owned()),
                    Value::Text(quoted) => Some(format!("\"{}", quoted.read(text).ok()?)),
                };
                Some((cell.name.read(text).ok()?.into_owned(), value))
            });
            Some(Some(row.collect::<Option<Vec<_>>>()?))
        };
        let (columns, identity) = (row(&found.columns)?, row(&found.identity)?);
        found.action.as_ref()?;
        let members = [found.action, found.schema, found.table, found.lsn, found.nextlsn];
        let members = members.into_iter().chain([found.timestamp, found.content]);
        Some((members.map(|member| member.map(Cow::into_owned)).collect(), columns, identity))
    }

    fn second(bytes: &[u8]) -> Option<Shown> {
        let found: Second<'_> = serde_json::from_slice(bytes).ok()?;
        let row = |row: Option<Vec<SecondCell<'_>>>| {
            let Some(row) = row else { return Some(None) };
            let row = row.into_iter().map(|cell| {
                let value = match cell.value.map(RawValue::get) {
                    None => None,
                    Some(raw) if raw.starts_with('"') => {
                        Some(format!("\"{}", serde_json::from_str::<String>(raw).ok()?))
                    }
                    Some(raw) => Some(raw.to_owned()),
                };
                Some((cell.name.into_owned(), value))
            });
            Some(Some(row.collect::<Option<Vec<_>>>()?))
        };
        let (columns, identity) = (row(found.columns)?, row(found.identity)?);
        let members = [Some(found.action), found.schema, found.table, found.lsn, found.nextlsn];
        let members = members.into_iter().chain([found.timestamp, found.content]);
        Some((members.map(|member| member.map(Cow::into_owned)).collect(), columns, identity))
    }

    const MESSAGES: [&str; 6] = [
        r#"{"action":"I","timestamp":"2026-11-21 19:23:03.797903+00","lsn":"0/1","schema":"public",
           "table":"t","columns":[{"name":"id","value":-12345678901234567890.10e+7},
           {"name":"a \"b\"","value":"x\"\u00e4\ud83d\ude00\\y\/\b\f\n\r\t"},
           {"name":"n","value":null},
           {"name":"long","value":"0123456789abcdef0123456789abcdef0123456789"},{"name":"o"}]}"#,
        r#"{"action":"U","lsn":"0/1","schema":"public","table":"t\u0041","pk":[{"name":"id",
           "type":"int"},[[]],{}],"columns":[{"name":"f","type":"boolean","value":true},
           {"name":"g","value":false},{"name":"z","value":0.5E-3}],"identity":[
           {"value":1,"name":"id","optional":false}]}"#,
        r#"{"action":"D","schema":"s","table":"\u00fcber","columns":[],"identity":[]}"#,
        r#"{"action":"M","xid":null,"timestamp":null,"lsn":"0/9","transactional":false,
           "prefix":"x","content":"{\"a\": [1, 2]}"}"#,
        r#"{"action":"C","timestamp":"2026-11-21 19:23:03+00","lsn":"0/A","nextlsn":"0/B"}"#,
        "{\"action\":\"T\" , \"schema\" : \"\u{e4}\u{1f600}\"\t, \"table\":\"t\"\r\n}",
    ];

    #[test]
    fn reads_what_the_second_reader_reads() {
        for message in MESSAGES {
            let found = first(message.as_bytes());
            assert!(found.is_some(), "{message}");
            assert_eq!(found, second(message.as_bytes()), "{message}");
        }
    }

    #[test]
    fn refuses_what_is_cut_short_or_goes_on() {
        for message in MESSAGES {
            for length in 0..message.len() {
                assert_eq!(first(&message.as_bytes()[..length]), None, "{length} of {message}");
            }
            assert_eq!(first(format!("{message} {{").as_bytes()), None);
        }
    }

    #[test]
    fn refuses_what_nobody_writes() {
        let values =
            ["01", "1.", ".5", "1e", "+1", "-", "nul", "tru", "\"\\x\"", "\"\\u12\"", "\"\t\""];
        let nested = "[".repeat(200);
        for value in values.iter().copied().chain(["[]", "{}", "", "1 2", &nested]) {
            let message = format!(r#"{{"action":"I","columns":[{{"name":"a","value":{value}}}]}}"#);
            assert_eq!(first(message.as_bytes()), None, "{message}");
        }
        for members in [
            r#""action":"I","action":"I""#,
            r#""action":"I","columns":[],"columns":[]"#,
            r#""action":"I","columns":[{"value":1}]"#,
            r#""action":"I","columns":[{"name":"a","name":"b"}]"#,
            r#""action":"I","schema":null"#,
            r#""action":"I","lsn":1"#,
            r#""action":"I","x":[1,]"#,
            r#""action":"I","#,
            r#""action":"I","columns":[{"name":"\ud800"}]"#,
        ] {
            assert_eq!(first(format!("{{{members}}}").as_bytes()), None, "{members}");
        }
        assert_eq!(first(b"{\"action\":\"\xff\"}"), None);
    }

    /// Whatever happens to a message: what is read is read alike by both, or refused.
    #[test]
    fn reads_nothing_else_after_any_mutation() {
        let mut random = StdRng::seed_from_u64(0x5eed);
        let mut below = |limit: usize| random.random_range(0..limit);
        let alphabet = b"\"\\{}[],:0123456789.-+eEnulltruefasb \n\x00\x1f\x7f\xc3\xa4\xff";
        let mut read = 0;
        for _ in 0..200_000 {
            let mut bytes = MESSAGES[below(MESSAGES.len())].as_bytes().to_vec();
            for _ in 0..=below(3) {
                let at = below(bytes.len());
                match below(3) {
                    0 => bytes[at] = alphabet[below(alphabet.len())],
                    1 => bytes.insert(at, alphabet[below(alphabet.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let Some(found) = first(&bytes) else { continue };
            assert_eq!(Some(found), second(&bytes), "{}", String::from_utf8_lossy(&bytes));
            read += 1;
        }
        assert!(read > 10_000, "only {read} were read at all");
    }
}
