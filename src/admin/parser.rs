//! Text to [`Statement`], driven by the command table.
//!
//! Every command is tried; the one that matches is meant. If none does, the error is about the
//! furthest place any of them reached, and lists what all of them would have accepted there.

use super::arguments::{self, Argument, Arguments};
use super::commands;
use super::grammar::{Command, Item, OptionSpec};
use super::lexer::{Lexer, Token, TokenKind};
use super::statement::Statement;
use super::syntax::{SyntaxError, did_you_mean};

/// SQLSTATE of a NULL where a value must be.
const NULL_NOT_ALLOWED: &str = "22004";
/// SQLSTATE of a `$n` that no value is given for.
const UNDEFINED_PARAMETER: &str = "42P02";

/// Values for `$n`.
#[derive(Clone, Copy)]
pub(crate) enum Parameters<'a> {
    /// The statement is only being described.
    Unknown,
    /// It runs with these.
    Known(&'a [Option<String>]),
}

/// A statement that matches its command's grammar.
pub(crate) struct Parsed {
    /// Its command.
    pub(crate) command: &'static Command,
    /// None while a parameter is unknown.
    pub(crate) statement: Option<Statement>,
}

/// The text begins with the word `ARDENT`, so it is ours.
pub(crate) fn is_ours(text: &str) -> Result<bool, SyntaxError> {
    Ok(Lexer::new(text).peek()?.is_word("ARDENT"))
}

/// Parses one statement that begins with `ARDENT`.
pub(crate) fn parse(text: &str, parameters: Parameters<'_>) -> Result<Parsed, SyntaxError> {
    let mut lexer = Lexer::new(text);
    lexer.next()?;
    let mut mismatch = Mismatch::default();
    for command in commands::all() {
        let mut attempt = Attempt {
            lexer: lexer.clone(),
            parameters,
            arguments: Arguments::default(),
            mismatch: &mut mismatch,
        };
        if attempt.matches(command.grammar)? && attempt.ends()? {
            let arguments = attempt.arguments;
            let statement = match arguments.has_unknown() {
                true => None,
                false => Some((command.build)(&arguments)?),
            };
            return Ok(Parsed { command, statement });
        }
    }
    Err(mismatch.into_error(text))
}

/// The furthest place where commands stopped matching, and what each would have taken there.
#[derive(Default)]
struct Mismatch {
    token: Option<Token>,
    expected: Vec<String>,
}

impl Mismatch {
    fn record(&mut self, token: Token, expected: String) {
        let furthest = self.token.as_ref().map_or(0, |token| token.span.start);
        if self.token.is_none() || token.span.start > furthest {
            self.expected.clear();
        }
        if self.token.is_none() || token.span.start >= furthest {
            self.token = Some(token);
            if !self.expected.contains(&expected) {
                self.expected.push(expected);
            }
        }
    }

    fn into_error(self, text: &str) -> SyntaxError {
        let token =
            self.token.unwrap_or(Token { kind: TokenKind::End, span: text.len()..text.len() });
        let message = match &token.kind {
            TokenKind::End => "syntax error at end of input".to_owned(),
            TokenKind::Text(_) => "syntax error at quoted string".to_owned(),
            _ => {
                let written = text.get(token.span.clone()).unwrap_or_default();
                format!("syntax error at or near \"{written}\"")
            }
        };
        let hint = match &token.kind {
            TokenKind::Word(word) => {
                let words = self.expected.iter().map(String::as_str);
                did_you_mean(word, words.filter(|word| !word.contains(' ')))
            }
            _ => None,
        };
        SyntaxError::at(token.span.start, message)
            .with_detail(match self.expected.as_slice() {
                [one] => format!("Expected {one}."),
                several => format!("Expected one of {}.", several.join(", ")),
            })
            .with_hint(hint)
    }
}

/// One command being tried.
struct Attempt<'a> {
    lexer: Lexer<'a>,
    parameters: Parameters<'a>,
    arguments: Arguments,
    mismatch: &'a mut Mismatch,
}

impl Attempt<'_> {
    fn matches(&mut self, items: &'static [Item]) -> Result<bool, SyntaxError> {
        for item in items {
            if !self.matches_item(item)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn matches_item(&mut self, item: &'static Item) -> Result<bool, SyntaxError> {
        let token = self.lexer.peek()?;
        let found = match item {
            Item::Word(word) => token.is_word(word),
            Item::Equals => token.is_symbol('='),
            Item::Optional(items) => return self.matches_optional(items),
            Item::Options(specs) if token.is_symbol('(') => {
                self.lexer.next()?;
                return self.option_list(specs).map(|()| true);
            }
            Item::Options(_) => false,
            Item::Words(key) => return self.words(key).map(|()| true),
            Item::Name(key) => return self.name(item, key),
            Item::Identifier(key) => return self.identifier(item, key),
            Item::Text(key) => {
                let value = match &token.kind {
                    TokenKind::Text(text) => Some(Argument::Text(text.clone())),
                    _ => self.parameter(&token)?,
                };
                return self.take(item, key, value);
            }
            Item::Value(key) => {
                let value = self.value(&token)?;
                return self.take(item, key, value);
            }
        };
        if found {
            self.lexer.next()?;
            // A keyword that may be left out is an argument by being there.
            if let Item::Word(word) = item {
                self.arguments.insert(word, Argument::Flag(true), token.span.start);
            }
        } else {
            self.mismatch.record(token, item.expected());
        }
        Ok(found)
    }

    /// Takes a value that stands at the next token, or records that it is missing.
    fn take(
        &mut self,
        item: &Item,
        key: &'static str,
        value: Option<Argument>,
    ) -> Result<bool, SyntaxError> {
        let token = self.lexer.peek()?;
        let Some(value) = value else {
            self.mismatch.record(token, item.expected());
            return Ok(false);
        };
        self.lexer.next()?;
        self.arguments.insert(key, value, token.span.start);
        Ok(true)
    }

    /// An optional part is there if its first item is.
    fn matches_optional(&mut self, items: &'static [Item]) -> Result<bool, SyntaxError> {
        let Some((first, rest)) = items.split_first() else { return Ok(true) };
        // The one word that can follow an optional name; a name of this kind must be quoted.
        let skips = matches!(first, Item::Name(_)) && self.lexer.peek()?.is_word("WITH");
        if skips || !self.matches_item(first)? {
            return Ok(true);
        }
        self.matches(rest)
    }

    fn ends(&mut self) -> Result<bool, SyntaxError> {
        let token = self.lexer.peek()?;
        let ends = token.ends_statement();
        if !ends {
            self.mismatch.record(token, "end of statement".to_owned());
        }
        Ok(ends)
    }

    fn name(&mut self, item: &Item, key: &'static str) -> Result<bool, SyntaxError> {
        if let Some(token) = self.lexer.bare_name()? {
            let TokenKind::Word(word) = &token.kind else { return Ok(false) };
            let at = token.span.start;
            self.arguments.insert(key, arguments::name(word, at)?, at);
            return Ok(true);
        }
        let token = self.lexer.peek()?;
        let value = match &token.kind {
            TokenKind::Identifier(text) | TokenKind::Text(text) => {
                Some(arguments::name(text, token.span.start)?)
            }
            _ => match self.parameter(&token)? {
                Some(Argument::Text(text)) => Some(arguments::name(&text, token.span.start)?),
                other => other,
            },
        };
        self.take(item, key, value)
    }

    fn identifier(&mut self, item: &Item, key: &'static str) -> Result<bool, SyntaxError> {
        let token = self.lexer.peek()?;
        let value = match &token.kind {
            TokenKind::Word(text) | TokenKind::Identifier(text) | TokenKind::Text(text) => {
                Some(Argument::Text(text.clone()))
            }
            _ => self.parameter(&token)?,
        };
        self.take(item, key, value)
    }

    /// Any literal, word or parameter, as text.
    fn value(&self, token: &Token) -> Result<Option<Argument>, SyntaxError> {
        Ok(match &token.kind {
            TokenKind::Word(text)
            | TokenKind::Identifier(text)
            | TokenKind::Text(text)
            | TokenKind::Number(text) => Some(Argument::Text(text.clone())),
            _ => self.parameter(token)?,
        })
    }

    fn parameter(&self, token: &Token) -> Result<Option<Argument>, SyntaxError> {
        let TokenKind::Parameter(number) = &token.kind else { return Ok(None) };
        let at = token.span.start;
        let Parameters::Known(values) = self.parameters else { return Ok(Some(Argument::Unknown)) };
        let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        match index.and_then(|index| values.get(index)) {
            Some(Some(text)) => Ok(Some(Argument::Text(text.clone()))),
            Some(None) => {
                Err(SyntaxError::at(at, "null value not allowed here")
                    .with_sqlstate(NULL_NOT_ALLOWED))
            }
            None => Err(SyntaxError::at(at, format!("there is no parameter ${number}"))
                .with_sqlstate(UNDEFINED_PARAMETER)),
        }
    }

    /// The options after an opening parenthesis. Errors are final: no other command fits here.
    fn option_list(&mut self, specs: &'static [OptionSpec]) -> Result<(), SyntaxError> {
        loop {
            let token = self.lexer.next()?;
            let (TokenKind::Word(name) | TokenKind::Identifier(name)) = &token.kind else {
                return Err(unexpected(&token, "the name of an option"));
            };
            let spec = find_option(specs, name, token.span.start)?;
            if self.arguments.contains(spec.name) {
                let message = format!("option \"{name}\" is given twice");
                return Err(SyntaxError::at(token.span.start, message));
            }
            self.option_value(spec, token.span.start)?;
            let token = self.lexer.next()?;
            if token.is_symbol(')') {
                return Ok(());
            }
            if !token.is_symbol(',') {
                return Err(unexpected(&token, "a comma or a closing parenthesis"));
            }
        }
    }

    fn option_value(
        &mut self,
        spec: &'static OptionSpec,
        name_at: usize,
    ) -> Result<(), SyntaxError> {
        let mut token = self.lexer.peek()?;
        if token.is_symbol('=') {
            self.lexer.next()?;
            token = self.lexer.peek()?;
        } else if token.is_symbol(',') || token.is_symbol(')') {
            let value = arguments::option(spec, None, name_at)?;
            self.arguments.insert(spec.name, value, name_at);
            return Ok(());
        }
        let at = token.span.start;
        let value = match self.value(&token)? {
            Some(Argument::Text(text)) => arguments::option(spec, Some(&text), at)?,
            Some(unknown) => unknown,
            None => return Err(unexpected(&token, "a value")),
        };
        self.lexer.next()?;
        self.arguments.insert(spec.name, value, at);
        Ok(())
    }

    fn words(&mut self, key: &'static str) -> Result<(), SyntaxError> {
        let mut words = Vec::new();
        let at = self.lexer.offset();
        while let TokenKind::Word(word) = self.lexer.peek()?.kind {
            self.lexer.next()?;
            words.push(word);
        }
        self.arguments.insert(key, Argument::Words(words), at);
        Ok(())
    }
}

fn find_option(
    specs: &'static [OptionSpec],
    name: &str,
    at: usize,
) -> Result<&'static OptionSpec, SyntaxError> {
    specs.iter().find(|spec| spec.name == name).ok_or_else(|| {
        let names: Vec<_> = specs.iter().map(|spec| spec.name).collect();
        SyntaxError::at(at, format!("unrecognized option \"{name}\""))
            .with_detail(format!("Options here: {}.", names.join(", ")))
            .with_hint(did_you_mean(name, names))
    })
}

/// An error at a token where exactly one thing fits.
fn unexpected(token: &Token, expected: &str) -> SyntaxError {
    let message = match token.kind {
        TokenKind::End => "syntax error at end of input",
        _ => "syntax error in the list of options",
    };
    SyntaxError::at(token.span.start, message).with_detail(format!("Expected {expected}."))
}
