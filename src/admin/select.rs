//! `SELECT` as tools send it to find out where they are.
//!
//! Without FROM, the few expressions below are evaluated. With FROM, only the names of the target
//! list are of interest: the answer is empty, and what counts rows counts none. Must never: be
//! taken for a query engine.

use proxy::{Column, ColumnKind, Value};

use super::error::sqlstate;
use super::lexer::{Token, TokenKind};
use super::syntax::SyntaxError;
use super::tolerance::{DATABASE, Session, VERSION, setting};

/// A SELECT, as far as we care.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Select {
    /// Reads from something: no rows, these columns.
    Empty(Vec<String>),
    /// One row of expressions.
    Row(Vec<(String, Expression)>),
}

/// What can be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Null,
    Text(String),
    Integer(i64),
    Bool(bool),
    Parameter { number: usize, at: usize },
    Role,
    SessionNumber,
    Now,
}

/// Words that end a target list.
const AFTER_TARGETS: [&str; 11] = [
    "FROM",
    "WHERE",
    "GROUP",
    "HAVING",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "UNION",
    "EXCEPT",
    "INTERSECT",
    "FOR",
];

/// Understands a statement that begins with SELECT or WITH.
pub(super) fn parse(tokens: &[Token]) -> Result<Select, SyntaxError> {
    let depths = depths(tokens);
    let top = |index: usize, word: &str| depths[index] == 0 && tokens[index].is_word(word);
    let count = tokens.len();
    let Some(select) = (0..count).find(|&index| top(index, "SELECT")) else {
        return Err(not_supported(tokens.first()));
    };
    let start =
        select + 1 + usize::from(tokens.get(select + 1).is_some_and(|t| t.is_word("DISTINCT")));
    let end = (start..count)
        .find(|&index| AFTER_TARGETS.iter().any(|word| top(index, word)))
        .unwrap_or(count);
    let mut targets = Vec::new();
    let mut begin = start;
    for index in start..=end {
        if index == end || (depths[index] == 0 && tokens[index].is_symbol(',')) {
            targets.push(&tokens[begin.min(index)..index]);
            begin = index + 1;
        }
    }
    if (start..count).any(|index| top(index, "FROM")) {
        let is_count = |target: &&[Token]| target.first().is_some_and(|t| t.is_word("COUNT"));
        if targets.iter().all(is_count) && !(start..count).any(|index| top(index, "GROUP")) {
            let zero = |target| (split_alias(target).0, Expression::Integer(0));
            return Ok(Select::Row(targets.into_iter().map(zero).collect()));
        }
        return Ok(Select::Empty(targets.iter().map(|target| split_alias(target).0).collect()));
    }
    let row = targets.iter().map(|target| {
        let (name, expression) = split_alias(target);
        let value = evaluate(expression).ok_or_else(|| not_supported(target.first()))?;
        Ok((name, value))
    });
    row.collect::<Result<_, _>>().map(Select::Row)
}

/// How deep in parentheses each token stands.
fn depths(tokens: &[Token]) -> Vec<usize> {
    let mut depth = 0_usize;
    tokens
        .iter()
        .map(|token| {
            if token.is_symbol(')') || token.is_symbol(']') {
                depth = depth.saturating_sub(1);
            }
            let own = depth;
            if token.is_symbol('(') || token.is_symbol('[') {
                depth += 1;
            }
            own
        })
        .collect()
}

/// The text of a word or quoted identifier.
pub(super) fn word_of(token: &Token) -> Option<&str> {
    match &token.kind {
        TokenKind::Word(word) | TokenKind::Identifier(word) => Some(word),
        _ => None,
    }
}

/// The column's name as Postgres would choose it, and the expression without its alias.
fn split_alias(target: &[Token]) -> (String, &[Token]) {
    if let [expression @ .., marker, alias] = target
        && marker.is_word("AS")
        && let Some(name) = word_of(alias)
    {
        return (name.to_owned(), expression);
    }
    if let [expression @ .., before, alias] = target
        && let Some(name) = word_of(alias)
        && ends_operand(before)
        && !alias.is_word("END")
    {
        let expression = target.get(..=expression.len()).unwrap_or_default();
        return (name.to_owned(), expression);
    }
    (own_name(target), target)
}

/// An alias without AS can follow this token.
fn ends_operand(token: &Token) -> bool {
    match &token.kind {
        TokenKind::Symbol(symbol) => matches!(symbol, ')' | ']'),
        _ => true,
    }
}

/// `case`, the function, or the last part of a dotted name; else `?column?`.
fn own_name(expression: &[Token]) -> String {
    let expression = without_cast(expression);
    let mut name = None;
    for token in expression {
        match word_of(token) {
            Some(word) => name = Some(word),
            None if token.is_symbol('.') => {}
            None if token.is_symbol('(') && name.is_some() => break,
            None => return "?column?".to_owned(),
        }
        if token.is_word("CASE") {
            break;
        }
    }
    name.unwrap_or("?column?").to_owned()
}

/// The expression before its first `::`.
fn without_cast(expression: &[Token]) -> &[Token] {
    let depths = depths(expression);
    let cast = expression
        .windows(2)
        .zip(depths)
        .position(|(pair, depth)| depth == 0 && pair.iter().all(|token| token.is_symbol(':')));
    expression.get(..cast.unwrap_or(expression.len())).unwrap_or_default()
}

fn evaluate(expression: &[Token]) -> Option<Expression> {
    let expression = match without_cast(expression) {
        [schema, dot, rest @ ..] if schema.is_word("pg_catalog") && dot.is_symbol('.') => rest,
        other => other,
    };
    let (first, rest) = expression.split_first()?;
    match (&first.kind, rest) {
        (TokenKind::Number(text), []) => text.parse().ok().map(Expression::Integer),
        (TokenKind::Text(text), []) => Some(Expression::Text(text.clone())),
        (TokenKind::Parameter(number), []) => {
            let number = number.parse().ok()?;
            Some(Expression::Parameter { number, at: first.span.start })
        }
        (TokenKind::Word(word), []) => keyword(word),
        (TokenKind::Word(function), [open, arguments @ .., close])
            if open.is_symbol('(') && close.is_symbol(')') =>
        {
            call(function, arguments)
        }
        _ => None,
    }
}

fn keyword(word: &str) -> Option<Expression> {
    Some(match word {
        "true" => Expression::Bool(true),
        "false" => Expression::Bool(false),
        "null" => Expression::Null,
        "current_user" | "session_user" | "user" | "current_role" => Expression::Role,
        "current_catalog" => Expression::Text(DATABASE.to_owned()),
        "current_schema" => Expression::Text("public".to_owned()),
        "current_timestamp" => Expression::Now,
        _ => return None,
    })
}

fn call(function: &str, arguments: &[Token]) -> Option<Expression> {
    let text = |index: usize| match arguments.get(index).map(|token| &token.kind) {
        Some(TokenKind::Text(text)) => Some(text.clone()),
        _ => None,
    };
    Some(match function {
        // Of rows that a subquery finds: there are none.
        "exists" => Expression::Bool(false),
        "version" => Expression::Text(VERSION.to_owned()),
        "current_database" => Expression::Text(DATABASE.to_owned()),
        "current_schema" => Expression::Text("public".to_owned()),
        "pg_backend_pid" => Expression::SessionNumber,
        "pg_is_in_recovery" => Expression::Bool(false),
        "now" => Expression::Now,
        "pg_advisory_unlock_all" => Expression::Text(String::new()),
        "pg_encoding_to_char" => Expression::Text("UTF8".to_owned()),
        "current_setting" => {
            Expression::Text(setting(&text(0)?.to_lowercase()).unwrap_or_default().to_owned())
        }
        // Arguments are tokens: 'name' , 'value' , flag.
        "set_config" => Expression::Text(text(2)?),
        _ => return None,
    })
}

fn not_supported(token: Option<&Token>) -> SyntaxError {
    SyntaxError::at(
        token.map_or(0, |token| token.span.start),
        "this expression is not supported in the admin database",
    )
    .with_sqlstate(sqlstate::NOT_SUPPORTED)
    .with_hint(Some("Connect to a branch to run SQL; ARDENT HELP lists what runs here.".to_owned()))
}

impl Select {
    /// The columns of its answer.
    pub(super) fn columns(&self) -> Vec<Column> {
        match self {
            Self::Empty(names) => {
                names.iter().map(|name| Column::new(name, ColumnKind::Text)).collect()
            }
            Self::Row(targets) => targets
                .iter()
                .map(|(name, expression)| Column::new(name, expression.kind()))
                .collect(),
        }
    }

    /// The rows of its answer.
    pub(super) fn rows(&self, session: &Session<'_>) -> Result<Vec<Vec<Value>>, SyntaxError> {
        match self {
            Self::Empty(_) => Ok(Vec::new()),
            Self::Row(targets) => {
                let row: Result<_, _> =
                    targets.iter().map(|(_, expression)| expression.value(session)).collect();
                Ok(vec![row?])
            }
        }
    }
}

impl Expression {
    fn kind(&self) -> ColumnKind {
        match self {
            Self::Integer(_) | Self::SessionNumber => ColumnKind::Int8,
            Self::Bool(_) => ColumnKind::Bool,
            Self::Now => ColumnKind::Timestamptz,
            Self::Null | Self::Text(_) | Self::Parameter { .. } | Self::Role => ColumnKind::Text,
        }
    }

    fn value(&self, session: &Session<'_>) -> Result<Value, SyntaxError> {
        Ok(match self {
            Self::Null => Value::Null,
            Self::Text(text) => Value::Text(text.clone()),
            Self::Integer(number) => Value::Int8(*number),
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Role => Value::Text(session.role.to_owned()),
            Self::SessionNumber => Value::Int8(i64::try_from(session.id).unwrap_or(i64::MAX)),
            Self::Now => Value::Timestamptz(session.now),
            Self::Parameter { number, at } => {
                let index = number.checked_sub(1);
                match index.and_then(|index| session.parameters.get(index)) {
                    Some(value) => value.clone().map_or(Value::Null, Value::Text),
                    None => {
                        let message = format!("there is no parameter ${number}");
                        return Err(SyntaxError::at(*at, message).with_sqlstate("42P02"));
                    }
                }
            }
        })
    }
}
