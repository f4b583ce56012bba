//! The `ardent` command: a verb is one admin statement sent over the wire.
//!
//! `args` says what may be typed, `statement` what it means in SQL, `connection` sends it, and
//! `text` or JSON shows the answer. Must never: know more of the server than its SQL; show a
//! password that was typed.

mod answer;
pub mod args;
mod connection;
mod failure;
pub mod processes;
mod progress;
pub mod report;
mod row;
mod statement;
mod style;
mod text;
mod time;

use std::io::Write;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::json;

use self::answer::Answer;
use self::args::{Cli, Command, Connector, Format, Global};
use self::failure::{FAILED, Failure, USAGE};
use self::progress::ProgressLine;
use self::report::Style;
use self::statement::Statement;

pub use self::connection::data_dir;

/// Raised when the shape of the JSON answers changes.
const SCHEMA_VERSION: u32 = 1;

/// Understands what was typed. The error is the text to show and the exit code.
///
/// clap repeats what it cannot place; a URL there may hold a password and is taken out.
pub fn parse(words: &[String]) -> Result<Cli, (String, u8)> {
    let parsed = Cli::try_parse_from(words).and_then(|cli| match cli.contradiction() {
        Some(message) => Err(Cli::command().error(ErrorKind::ArgumentConflict, message)),
        None => Ok(cli),
    });
    parsed.map_err(|error| {
        let mut text = error.render().to_string();
        for word in words.iter().filter(|word| word.contains("://")) {
            text = text.replace(word, "<url>");
            if let Some((_, value)) = word.split_once('=') {
                text = text.replace(value, "<url>");
            }
        }
        (text, u8::try_from(error.exit_code()).unwrap_or(USAGE))
    })
}

/// Runs a verb to its end; the result is the exit code. `serve` and `store` are not verbs.
pub async fn run(global: &Global, command: &Command) -> u8 {
    let outcome = match statement_of(command) {
        Ok(statement) => ask(global, command, &statement).await,
        Err(failure) => Err(failure),
    };
    let written = match outcome {
        Ok(answer) => answer.print(global.format),
        Err(failure) => print_failure(&failure, global.format).map(|()| failure.exit_code),
    };
    // A reader that has gone away (`| head`) leaves nobody to tell.
    written.unwrap_or(FAILED)
}

fn statement_of(command: &Command) -> Result<Statement, Failure> {
    match command {
        Command::Connector(verb) => statement::connector(verb),
        Command::Branch(verb) => Ok(statement::branch(verb)),
        Command::Environment(verb) => statement::environment(verb),
        Command::PrivateLink(verb) => Ok(statement::private_link(verb)),
        Command::Settings(verb) => Ok(statement::settings(verb)),
        Command::Role(verb) => statement::role(verb),
        Command::Show { what } => Ok(statement::show(*what)),
        Command::Sql { text } => Ok(Statement::verbatim(text)),
        Command::Serve(_) | Command::Store { .. } => {
            Err(Failure::usage("not a verb of the client"))
        }
    }
}

async fn ask(global: &Global, command: &Command, statement: &Statement) -> Result<Answer, Failure> {
    let target = connection::target(global)?;
    let begun = std::time::Instant::now();
    let progress = ProgressLine::new();
    let is_preflight = matches!(command, Command::Connector(Connector::Preflight(_)));
    let format = global.format;
    let show = progress.clone();
    let rows = connection::run(&target, statement, move |notice| {
        let is_header = report::is_header(&notice.message);
        match format {
            Format::Json => {}
            // The first line of the report comes before the checks, which take their time.
            Format::Text if is_preflight => {
                drop(writeln!(std::io::stdout(), "{}\n", notice.message));
            }
            // In a log it would stand twice: a refusal repeats it with the whole report.
            Format::Text if is_header && !show.is_on_terminal() => {}
            Format::Text => show.show(&notice.message),
        }
    })
    .await;
    progress.finish();
    answer::of(command, rows?, begun.elapsed())
}

/// Errors are for the eye on standard error, and for programs on standard output.
fn print_failure(failure: &Failure, format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        let Failure { code, message, detail, hint, .. } = failure;
        let error = json!({"code": code, "message": message, "detail": detail, "hint": hint});
        let envelope = json!({"schema_version": SCHEMA_VERSION, "error": error});
        return writeln!(std::io::stdout(), "{envelope}");
    }
    let mut stderr = std::io::stderr();
    if failure.code == "preflight_failed"
        && let Some(report) = &failure.detail
    {
        return writeln!(stderr, "{}", report.trim_end());
    }
    let mark = Style::of(&stderr).paint(style::Paint::Red, "\u{2717}");
    writeln!(stderr, "{mark} {}", failure.message)?;
    for line in failure.detail.iter().chain(&failure.hint).flat_map(|text| text.lines()) {
        writeln!(stderr, "  {line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> (String, u8) {
        let words: Vec<_> = ["ardent"].iter().chain(words).map(|&word| word.to_owned()).collect();
        parse(&words).unwrap_err()
    }

    #[test]
    fn what_was_typed_as_a_url_is_not_repeated() {
        let url = "postgresql://u:hunter2@h/d";
        let server = format!("--srver={url}");
        let mistakes: [&[&str]; 4] = [
            &["connector", "create", url],
            &["connector", "preflight", "postgresql", url, url],
            &[&server, "branch", "list"],
            &[url],
        ];
        for words in mistakes {
            let (text, code) = refused(words);
            assert_eq!(code, USAGE, "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn a_url_alone_is_never_json() {
        let (text, code) = refused(&["branch", "info", "--print-url", "--format", "json"]);
        assert_eq!(code, USAGE);
        assert!(text.contains("--print-url cannot be used with --format json"), "{text}");
    }
}
