//! Statements of ordinary SQL that drivers and tools send without being asked.
//!
//! They get the answer that lets the tool go on: transaction statements and settings are taken as
//! they are, questions about the session are answered, and anything read from a table is an empty
//! set with the columns it asked for (psql's `\d` then says that it found nothing). Must never:
//! change anything.

use std::time::SystemTime;

use proxy::{Column, ColumnKind, TransactionEffect, Value};

use super::commands;
use super::error::sqlstate;
use super::lexer::{Lexer, Token, TokenKind};
use super::select::{self, Select};
use super::syntax::{SyntaxError, did_you_mean};

/// The name of the admin database.
pub(super) const DATABASE: &str = "ardent";

/// What `version()` says, and the greeting too. Tools parse the first number.
pub(super) const VERSION: &str =
    concat!("PostgreSQL 15.0 (Ardent ", env!("CARGO_PKG_VERSION"), ")");

/// A statement that is not of the admin SQL, understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Foreign {
    /// Answered by its tag alone.
    Tag(String, TransactionEffect),
    /// `SHOW name`
    Show {
        /// The column, as the tool asked for it.
        name: String,
        /// The value.
        value: String,
    },
    /// `SELECT ...`
    Select(Select),
}

/// What an answer may depend on.
pub(super) struct Session<'a> {
    /// The role that logged in.
    pub(super) role: &'a str,
    /// The session's number.
    pub(super) id: u64,
    /// The time of the statement.
    pub(super) now: SystemTime,
    /// Values of `$1`, `$2`, ...
    pub(super) parameters: &'a [Option<String>],
}

/// Understands one statement that does not begin with `ARDENT`.
pub(super) fn parse(text: &str) -> Result<Foreign, SyntaxError> {
    let tokens = tokens(text)?;
    let word = |index: usize| match tokens.get(index).map(|token| &token.kind) {
        Some(TokenKind::Word(word)) => word.to_uppercase(),
        _ => String::new(),
    };
    let plain = |tag: &str| Ok(Foreign::Tag(tag.to_owned(), TransactionEffect::None));
    match word(0).as_str() {
        "BEGIN" => Ok(Foreign::Tag("BEGIN".to_owned(), TransactionEffect::Begin)),
        "START" => Ok(Foreign::Tag("START TRANSACTION".to_owned(), TransactionEffect::Begin)),
        "COMMIT" | "END" => Ok(Foreign::Tag("COMMIT".to_owned(), TransactionEffect::End)),
        "ROLLBACK" if tokens.iter().any(|token| token.is_word("TO")) => {
            Ok(Foreign::Tag("ROLLBACK".to_owned(), TransactionEffect::RollBackTo))
        }
        "ROLLBACK" | "ABORT" => Ok(Foreign::Tag("ROLLBACK".to_owned(), TransactionEffect::End)),
        "SAVEPOINT" => plain("SAVEPOINT"),
        "RELEASE" => plain("RELEASE"),
        "SET" => plain("SET"),
        "RESET" => plain("RESET"),
        "DISCARD" => plain(&format!("DISCARD {}", word(1))),
        "DEALLOCATE" if word(1) == "ALL" || word(2) == "ALL" => plain("DEALLOCATE ALL"),
        "DEALLOCATE" => plain("DEALLOCATE"),
        "LISTEN" => plain("LISTEN"),
        "UNLISTEN" => plain("UNLISTEN"),
        "CLOSE" if word(1) == "ALL" => plain("CLOSE CURSOR ALL"),
        "SHOW" => show(text, &tokens),
        "SELECT" | "WITH" => select::parse(&tokens).map(Foreign::Select),
        _ => Err(unknown(tokens.first(), text)),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        if token.ends_statement() {
            return Ok(tokens);
        }
        tokens.push(token);
    }
}

fn unknown(first: Option<&Token>, text: &str) -> SyntaxError {
    let span = first.map(|token| token.span.clone()).unwrap_or_default();
    let word = first.and_then(select::word_of).unwrap_or_default();
    let begins_ours = commands::all().any(|command| {
        command.name().split(' ').next().is_some_and(|own| own.eq_ignore_ascii_case(word))
    });
    let hint = match begins_ours {
        true => Some(format!("The statement begins with ARDENT {}.", word.to_uppercase())),
        false => did_you_mean(word, ["ARDENT"]),
    };
    let message = match word {
        "" => "syntax error".to_owned(),
        _ => format!("syntax error at or near \"{}\"", text.get(span.clone()).unwrap_or_default()),
    };
    SyntaxError::at(span.start, message)
        .with_detail("This is the admin database of Ardent; it holds no tables.")
        .with_hint(Some(hint.unwrap_or_else(|| "ARDENT HELP lists all statements.".to_owned())))
}

fn show(text: &str, tokens: &[Token]) -> Result<Foreign, SyntaxError> {
    let words: Vec<_> = tokens.iter().skip(1).filter_map(select::word_of).collect();
    let at = tokens.get(1).map_or(text.len(), |token| token.span.start);
    let name = words.join("_").to_lowercase();
    let value = setting(&name).ok_or_else(|| {
        let ours = ["sessions", "computes", "config", "metrics", "jobs"].contains(&name.as_str());
        SyntaxError::at(at, format!("unrecognized configuration parameter \"{name}\""))
            .with_sqlstate(sqlstate::UNDEFINED_OBJECT)
            .with_hint(ours.then(|| format!("Write ARDENT SHOW {}.", name.to_uppercase())))
    })?;
    Ok(Foreign::Show { name, value: value.to_owned() })
}

/// Settings that drivers ask for, with the values every session here has.
pub(super) fn setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "server_version" => VERSION.trim_start_matches("PostgreSQL "),
        "server_version_num" => "150000",
        "server_encoding" | "client_encoding" => "UTF8",
        "standard_conforming_strings" | "integer_datetimes" => "on",
        "transaction_isolation"
        | "transaction_isolation_level"
        | "default_transaction_isolation" => "read committed",
        "transaction_read_only"
        | "default_transaction_read_only"
        | "in_hot_standby"
        | "is_superuser" => "off",
        "datestyle" => "ISO, MDY",
        "intervalstyle" => "postgres",
        "timezone" | "time_zone" => "UTC",
        "search_path" => "public",
        "lc_collate" | "lc_ctype" | "lc_monetary" | "lc_numeric" | "lc_time" => "C.UTF-8",
        "max_identifier_length" => "63",
        "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout" => "0",
        "extra_float_digits" => "1",
        "bytea_output" => "hex",
        "application_name" => "",
        "ssl" => "off",
        _ => return None,
    })
}

impl Foreign {
    /// What it does to the transaction block.
    pub(super) fn effect(&self) -> TransactionEffect {
        match self {
            Self::Tag(_, effect) => *effect,
            _ => TransactionEffect::None,
        }
    }

    /// The columns of its answer.
    pub(super) fn columns(&self) -> Vec<Column> {
        match self {
            Self::Tag(..) => Vec::new(),
            Self::Show { name, .. } => vec![Column::new(name, ColumnKind::Text)],
            Self::Select(select) => select.columns(),
        }
    }

    /// The tag of its answer.
    pub(super) fn tag(&self, rows: usize) -> String {
        match self {
            Self::Tag(tag, _) => tag.clone(),
            Self::Show { .. } => "SHOW".to_owned(),
            Self::Select(_) => format!("SELECT {rows}"),
        }
    }

    /// The rows of its answer.
    pub(super) fn rows(&self, session: &Session<'_>) -> Result<Vec<Vec<Value>>, SyntaxError> {
        match self {
            Self::Tag(..) => Ok(Vec::new()),
            Self::Show { value, .. } => Ok(vec![vec![Value::Text(value.clone())]]),
            Self::Select(select) => select.rows(session),
        }
    }
}
