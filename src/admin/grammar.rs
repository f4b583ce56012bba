//! The shape of a command: what its table entry is made of.
//!
//! One [`Command`] is all there is to know about a statement. The parser, its errors, `ARDENT
//! HELP`, privileges and result columns are derived from it; nothing else repeats a keyword.

use proxy::ColumnKind;

use super::arguments::Arguments;
use super::request::Level;
use super::statement::Statement;
use super::syntax::SyntaxError;

/// One statement of the admin SQL.
pub(crate) struct Command {
    /// What follows `ARDENT`. The leading words name the command.
    pub(crate) grammar: &'static [Item],
    /// The least level that may run it.
    pub(crate) level: Level,
    /// The columns of its answer, in order. They only ever grow at the end.
    pub(crate) columns: &'static [(&'static str, ColumnKind)],
    /// One line for `ARDENT HELP`.
    pub(crate) summary: &'static str,
    /// Makes the statement from arguments that match the grammar.
    pub(crate) build: fn(&Arguments) -> Result<Statement, SyntaxError>,
}

/// One element of a command's grammar.
#[derive(Clone, Copy)]
pub(crate) enum Item {
    /// A keyword, in any case.
    Word(&'static str),
    /// A name of ours, bare (`pr-123`), quoted or as a literal.
    Name(&'static str),
    /// A name of Postgres' kind: a role or a setting.
    Identifier(&'static str),
    /// A string literal.
    Text(&'static str),
    /// `=`, between a setting and its value.
    Equals,
    /// Any literal or word: the value of a setting.
    Value(&'static str),
    /// All of it or nothing; taken if its first item fits.
    Optional(&'static [Self]),
    /// `(name = value, ...)`
    Options(&'static [OptionSpec]),
    /// All words up to the end.
    Words(&'static str),
}

/// One option of a parenthesised list.
pub(crate) struct OptionSpec {
    /// Its name.
    pub(crate) name: &'static str,
    /// What its value is.
    pub(crate) kind: OptionKind,
    /// One line for `ARDENT HELP`.
    pub(crate) summary: &'static str,
}

/// What the value of an option is.
#[derive(Clone, Copy)]
pub(crate) enum OptionKind {
    /// Any text.
    Text,
    /// on/off, true/false, yes/no, 1/0; the option's name alone means on.
    Flag,
    /// `'30s'`, `'5min'`; a bare number is seconds.
    Duration,
    /// `'10GB'`, `'512MB'`; a bare number is bytes.
    Size,
    /// A whole number.
    Count,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Command {
    /// `CONNECTOR RETRY SETUP`: the words that name it.
    pub(crate) fn name(&self) -> String {
        let words = self.grammar.iter().map_while(|item| match item {
            Item::Word(word) if word.chars().all(|c| c.is_ascii_uppercase()) => Some(*word),
            _ => None,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// The tag of its answer.
    pub(crate) fn tag(&self) -> String {
        format!("ARDENT {}", self.name())
    }

    /// The statement in the notation of the Postgres manual.
    pub(crate) fn syntax(&self) -> String {
        format!("ARDENT {}", syntax_of(self.grammar))
    }

    /// All its options.
    pub(crate) fn options(&self) -> impl Iterator<Item = &'static OptionSpec> {
        options_of(self.grammar).into_iter()
    }
}

fn syntax_of(items: &[Item]) -> String {
    items.iter().map(Item::syntax).collect::<Vec<_>>().join(" ")
}

fn options_of(items: &'static [Item]) -> Vec<&'static OptionSpec> {
    items
        .iter()
        .flat_map(|item| match item {
            Item::Options(specs) => specs.iter().collect(),
            Item::Optional(items) => options_of(items),
            _ => Vec::new(),
        })
        .collect()
}

impl Item {
    /// The element in the notation of the Postgres manual.
    pub(crate) fn syntax(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Name(key) | Self::Identifier(key) | Self::Value(key) => (*key).to_owned(),
            Self::Text(key) => format!("'<{key}>'"),
            Self::Equals => "=".to_owned(),
            Self::Optional(items) => format!("[{}]", syntax_of(items)),
            Self::Options(specs) => {
                let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
                format!("({})", names.join(", "))
            }
            Self::Words(key) => format!("[{key}]"),
        }
    }

    /// The element as an error names it when it is missing.
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Name(key) | Self::Identifier(key) => format!("a name ({key})"),
            Self::Text(key) => format!("a quoted string ('<{key}>')"),
            Self::Equals => "=".to_owned(),
            Self::Value(_) => "a value".to_owned(),
            Self::Optional(items) => items.first().map(Self::expected).unwrap_or_default(),
            Self::Options(_) => "(".to_owned(),
            Self::Words(_) => "the name of a statement".to_owned(),
        }
    }
}

impl OptionKind {
    /// What the value looks like.
    pub(crate) fn syntax(&self) -> String {
        match self {
            Self::Text => "'text'".to_owned(),
            Self::Flag => "on | off".to_owned(),
            Self::Duration => "'30s'".to_owned(),
            Self::Size => "'10GB'".to_owned(),
            Self::Count => "number".to_owned(),
            Self::Choice(words) => words.join(" | "),
        }
    }
}
