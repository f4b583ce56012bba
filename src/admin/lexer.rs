//! Text to tokens by Postgres' lexical rules (manual, section 4.1), on demand.
//!
//! On demand, because a bare name such as `pr-123` is three tokens of SQL and one name of ours:
//! only the grammar knows which is meant. Spans are byte offsets into the whole query text.
//!
//! Must never: change the case of anything but an unquoted word, or put a literal's text in an
//! error.

use std::ops::Range;

use super::syntax::SyntaxError;

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// An unquoted word, folded to lower case.
    Word(String),
    /// A `"quoted identifier"`, as written.
    Identifier(String),
    /// Any string literal, unescaped.
    Text(String),
    /// A number, with the unit written right behind it if there is one (`10GB`).
    Number(String),
    /// `$1`
    Parameter(String),
    /// Any other character.
    Symbol(char),
    /// The end of the text.
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Range<usize>,
}

impl Token {
    /// The token is this word, in any case. `word` is lower or upper case ASCII.
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, TokenKind::Word(own) if own.eq_ignore_ascii_case(word))
    }

    /// The token is this character.
    pub(crate) fn is_symbol(&self, symbol: char) -> bool {
        self.kind == TokenKind::Symbol(symbol)
    }

    /// A statement ends before this token.
    pub(crate) fn ends_statement(&self) -> bool {
        self.kind == TokenKind::End || self.is_symbol(';')
    }
}

/// A place in a text, from which tokens are read.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The byte offset of the next character to be read.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// The next token, left in place.
    pub(crate) fn peek(&self) -> Result<Token, SyntaxError> {
        self.clone().next()
    }

    /// The next token.
    pub(crate) fn next(&mut self) -> Result<Token, SyntaxError> {
        self.skip_space()?;
        let start = self.at;
        let kind = match self.byte(0) {
            None => TokenKind::End,
            Some(b'\'') => TokenKind::Text(self.quoted_text(start)?),
            Some(b'"') => TokenKind::Identifier(self.quoted_identifier(start)?),
            Some(b'e' | b'E') if self.byte(1) == Some(b'\'') => {
                self.at += 1;
                TokenKind::Text(self.escaped_text(start)?)
            }
            Some(b'$') => self.dollar(start)?,
            Some(b'0'..=b'9') => TokenKind::Number(self.number()),
            Some(byte) if starts_word(byte) => {
                TokenKind::Word(self.take_while(continues_word).to_lowercase())
            }
            Some(_) => TokenKind::Symbol(self.symbol()),
        };
        Ok(Token { kind, span: start..self.at })
    }

    /// Reads a bare name (`pr-123`, folded to lower case) if one stands here. What it takes may
    /// still break a rule for names; a double hyphen is taken along, since a comment there would
    /// silently name another branch.
    pub(crate) fn bare_name(&mut self) -> Result<Option<Token>, SyntaxError> {
        self.skip_space()?;
        let start = self.at;
        let is_quoted_text =
            matches!(self.byte(0), Some(b'e' | b'E')) && self.byte(1) == Some(b'\'');
        if is_quoted_text || !self.byte(0).is_some_and(|b| b.is_ascii_digit() || starts_word(b)) {
            return Ok(None);
        }
        let name = self.take_while(|b| continues_word(b) || b == b'-').to_ascii_lowercase();
        Ok(Some(Token { kind: TokenKind::Word(name), span: start..self.at }))
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// `wanted` must hold for whole characters: it is asked about every byte of a non-ASCII one.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|&byte| wanted(byte)).count();
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn symbol(&mut self) -> char {
        let symbol = self.rest().chars().next().unwrap_or_default();
        self.at += symbol.len_utf8();
        symbol
    }

    fn skip_space(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.take_while(is_space);
            if self.rest().starts_with("--") {
                self.take_while(|byte| byte != b'\n' && byte != b'\r');
            } else if self.rest().starts_with("/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    /// Block comments nest, as in the SQL standard.
    fn skip_block_comment(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(SyntaxError::at(start, "unterminated /* comment")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Literals with a line break between them are one literal.
    fn quoted_text(&mut self, start: usize) -> Result<String, SyntaxError> {
        let unterminated = || SyntaxError::at(start, "unterminated quoted string");
        let mut text = self.doubled(b'\'').ok_or_else(unterminated)?;
        while self.continues_on_a_new_line() {
            text += &self.doubled(b'\'').ok_or_else(unterminated)?;
        }
        Ok(text)
    }

    fn continues_on_a_new_line(&mut self) -> bool {
        let rest = self.rest();
        let after_space = rest.trim_start_matches(|c| u8::try_from(c).is_ok_and(is_space));
        let gap = rest.len() - after_space.len();
        let continues = after_space.starts_with('\'')
            && rest.get(..gap).is_some_and(|space| space.contains(['\n', '\r']));
        if continues {
            self.at += gap;
        }
        continues
    }

    fn quoted_identifier(&mut self, start: usize) -> Result<String, SyntaxError> {
        let name = self
            .doubled(b'"')
            .ok_or_else(|| SyntaxError::at(start, "unterminated quoted identifier"))?;
        if name.is_empty() {
            return Err(SyntaxError::at(start, "zero-length delimited identifier"));
        }
        Ok(name)
    }

    /// From an opening quote to its closing one; a doubled quote stands for itself.
    fn doubled(&mut self, quote: u8) -> Option<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            text += self.take_while(|byte| byte != quote);
            self.byte(0)?;
            self.at += 1;
            if self.byte(0) != Some(quote) {
                return Some(text);
            }
            text.push(char::from(quote));
            self.at += 1;
        }
    }

    fn escaped_text(&mut self, start: usize) -> Result<String, SyntaxError> {
        self.at += 1;
        let unterminated = || SyntaxError::at(start, "unterminated quoted string");
        let mut bytes = Vec::new();
        loop {
            bytes.extend_from_slice(self.take_while(|b| b != b'\'' && b != b'\\').as_bytes());
            let byte = self.byte(0).ok_or_else(unterminated)?;
            self.at += 1;
            if byte == b'\\' {
                self.escape(&mut bytes)?;
            } else if self.byte(0) == Some(b'\'') {
                bytes.push(b'\'');
                self.at += 1;
            } else {
                break;
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err(SyntaxError::at(start, "escapes do not make valid UTF-8 text")),
        }
    }

    /// What follows a backslash (manual, table 4.1).
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let start = self.at - 1;
        let Some(byte) = self.byte(0) else { return Ok(()) };
        let (skip, digits, radix) = match byte {
            b'0'..=b'7' => (0, 3, 8),
            b'x' => (1, 2, 16),
            b'u' => (1, 4, 16),
            b'U' => (1, 8, 16),
            _ => {
                let plain = self.symbol();
                let meant = match plain {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                };
                bytes.extend_from_slice(meant.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
        };
        self.at += skip;
        let code: String =
            self.rest().chars().take(digits).take_while(|c| c.is_digit(radix)).collect();
        self.at += code.len();
        let value = u32::from_str_radix(&code, radix).ok();
        match value {
            None if byte == b'x' => bytes.push(b'x'),
            // An octal code above \377 wraps, as in Postgres.
            Some(value) if digits < 4 => bytes.push(value.to_le_bytes()[0]),
            Some(value) if code.len() == digits => {
                let meant = char::from_u32(value)
                    .ok_or_else(|| SyntaxError::at(start, "invalid Unicode escape value"))?;
                bytes.extend_from_slice(meant.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return Err(SyntaxError::at(start, "invalid Unicode escape")),
        }
        Ok(())
    }

    /// `$1`, `$tag$...$tag$`, or a lone dollar.
    fn dollar(&mut self, start: usize) -> Result<TokenKind, SyntaxError> {
        self.at += 1;
        if self.byte(0).is_some_and(|byte| byte.is_ascii_digit()) {
            return Ok(TokenKind::Parameter(self.take_while(|b| b.is_ascii_digit()).to_owned()));
        }
        let tag = self
            .rest()
            .find('$')
            .and_then(|end| self.rest().get(..end))
            .filter(|tag| !tag.starts_with(|c: char| c.is_ascii_digit()))
            .filter(|tag| tag.bytes().all(|byte| byte != b'$' && continues_word(byte)));
        let Some(tag) = tag else { return Ok(TokenKind::Symbol('$')) };
        let body = self.rest().get(tag.len() + 1..).unwrap_or_default();
        let delimiter = format!("${tag}$");
        let Some(length) = body.find(&delimiter) else {
            return Err(SyntaxError::at(start, "unterminated dollar-quoted string"));
        };
        self.at += tag.len() + 1 + length + delimiter.len();
        Ok(TokenKind::Text(body.get(..length).unwrap_or_default().to_owned()))
    }

    /// Digits, a fraction, an exponent, and a unit written right behind.
    fn number(&mut self) -> String {
        let mut number = self.take_while(|b| b.is_ascii_digit()).to_owned();
        if self.byte(0) == Some(b'.') && self.byte(1).is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
            number.push('.');
            number += self.take_while(|b| b.is_ascii_digit());
        }
        number + self.take_while(continues_word)
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// The statements of a query text: byte ranges between semicolons, without those that are empty.
pub(crate) fn split(text: &str) -> Result<Vec<Range<usize>>, SyntaxError> {
    let mut lexer = Lexer::new(text);
    let mut statements = Vec::new();
    let mut span: Option<Range<usize>> = None;
    loop {
        let token = lexer.next()?;
        if token.ends_statement() {
            statements.extend(span.take());
        } else {
            let start = span.as_ref().map_or(token.span.start, |span| span.start);
            span = Some(start..token.span.end);
        }
        if token.kind == TokenKind::End {
            return Ok(statements);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, expected: Expect) {
        let mut lexer = Lexer::new(text);
        let mut out = String::new();
        loop {
            match lexer.next() {
                Ok(Token { kind: TokenKind::End, .. }) => break,
                Ok(token) => {
                    let Range { start, end } = token.span;
                    let kind = format!("{:?}", token.kind).replace('\u{e9}', "\\u{e9}");
                    writeln!(out, "{start}..{end} {kind}").unwrap();
                }
                Err(error) => {
                    writeln!(out, "{} error: {}", error.at, error.message).unwrap();
                    break;
                }
            }
        }
        expected.assert_eq(&out);
    }

    #[test]
    fn words_fold_and_literals_do_not() {
        check(
            r#"Select "Ab""c" 'It''s' E'a\n\'\x41\u00e9' $x$a'$$b$x$ $1 10GB 1.5;"#,
            expect![[r#"
                0..6 Word("select")
                7..14 Identifier("Ab\"c")
                15..22 Text("It's")
                23..41 Text("a\n'A\u{e9}")
                42..53 Text("a'$$b")
                54..56 Parameter("1")
                57..61 Number("10GB")
                62..65 Number("1.5")
                65..66 Symbol(';')
            "#]],
        );
    }

    #[test]
    fn comments_nest_and_are_skipped() {
        check(
            "a -- b\n/* c /* d */ e */ f",
            expect![[r#"
            0..1 Word("a")
            25..26 Word("f")
        "#]],
        );
    }

    #[test]
    fn literals_join_across_lines_only() {
        check(
            "'a'\n 'b' 'c'",
            expect![[r#"
            0..8 Text("ab")
            9..12 Text("c")
        "#]],
        );
    }

    #[test]
    fn what_is_not_closed_is_named_where_it_opens() {
        check(
            "a 'b",
            expect![[r#"
            0..1 Word("a")
            2 error: unterminated quoted string
        "#]],
        );
        check("\"b", expect!["0 error: unterminated quoted identifier\n"]);
        check("\"\"", expect!["0 error: zero-length delimited identifier\n"]);
        check(" /* /* */", expect!["1 error: unterminated /* comment\n"]);
        check("$a$ $b$", expect!["0 error: unterminated dollar-quoted string\n"]);
        check("e'\\ud800'", expect!["2 error: invalid Unicode escape value\n"]);
        check("e'\\xff'", expect!["0 error: escapes do not make valid UTF-8 text\n"]);
    }

    #[test]
    fn a_bare_name_holds_hyphens() {
        let mut lexer = Lexer::new("  PR-123-x;");
        let token = lexer.bare_name().unwrap().unwrap();
        assert_eq!(token, Token { kind: TokenKind::Word("pr-123-x".into()), span: 2..10 });
        assert!(lexer.bare_name().unwrap().is_none());
    }

    #[test]
    fn splits_at_semicolons_outside_literals() {
        let text = "; a ';' ;; $$;$$ b -- ;\n;";
        let parts: Vec<_> = split(text).unwrap().into_iter().map(|span| &text[span]).collect();
        assert_eq!(parts, ["a ';'", "$$;$$ b"]);
    }

    /// Whatever is quoted comes back as it was.
    #[test]
    fn quoting_round_trips() {
        for text in ["", "a", "it's", "\\", "a\"b", "$$", "\u{e9}\u{1f600}", "--", "/*", "\n"] {
            let quoted = format!("'{}'", text.replace('\'', "''"));
            let kind = Lexer::new(&quoted).next().unwrap().kind;
            assert_eq!(kind, TokenKind::Text(text.to_owned()));
        }
    }
}
