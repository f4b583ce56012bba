//! The `ardent` command: a verb is one admin statement sent over the wire.
//!
//! `args` says what may be typed, `statement` what it means in SQL, `connection` sends it, and
//! `text` or JSON shows the answer. Must never: know more of the server than its SQL; show a
//! password that was typed.

mod answer;
pub mod args;
pub mod conceal;
mod connection;
mod decide;
mod failure;
pub mod processes;
mod progress;
pub mod report;
mod row;
mod shell;
mod statement;
mod style;
mod text;
mod time;

use std::io::Write;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_json::json;

use self::answer::Answer;
use self::args::{Cli, Command, Connector, Decisions, Format, Global};
use self::failure::{FAILED, Failure, USAGE};
use self::progress::ProgressLine;
use self::report::Style;
use self::row::Row;
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
    if let Some(text) = shell::text(command) {
        return std::io::stdout().write_all(&text).map_or(FAILED, |()| 0);
    }
    let outcome = match statement_of(command) {
        Ok(statement) => {
            tokio::select! {
                outcome = ask(global, command, &statement) => outcome,
                Ok(()) = tokio::signal::ctrl_c() => Err(detached(command)),
            }
        }
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
        Command::Settings(verb) => statement::settings(verb),
        Command::Role(verb) => statement::role(verb),
        Command::Show { what } => Ok(statement::show(*what)),
        Command::Sql { text } => Ok(Statement::verbatim(text)),
        Command::Serve(_) | Command::Store { .. } => {
            Err(Failure::usage("not a verb of the client"))
        }
        Command::Completions { .. } | Command::Man => {
            Err(Failure::usage("answered without a server"))
        }
    }
}

async fn ask(global: &Global, command: &Command, statement: &Statement) -> Result<Answer, Failure> {
    let begun = std::time::Instant::now();
    let mut rows = send(global, command, statement).await?;
    if let Some(path) = decide::given(command).and_then(|given| given.write_replica_plan.as_ref()) {
        return answer::plan_written(rows, path);
    }
    if let Some(undecided) = decide::undecided(command, &rows)
        && decide::is_interactive(global.format)
        && decide::given(command).is_some_and(Decisions::are_to_be_asked)
    {
        let name = undecided.connector.clone();
        let decisions = on_terminal(move || {
            decide::ask(&undecided, &mut std::io::stdin().lock(), &mut std::io::stderr())
        });
        rows = send(global, command, &statement::retry_with(&name, decisions.await?)).await?;
    }
    answer::of(command, rows, begun.elapsed())
}

/// Asks on a thread of its own, so that Ctrl-C ends the wait for an answer.
async fn on_terminal(
    question: impl FnOnce() -> std::io::Result<String> + Send + 'static,
) -> Result<String, Failure> {
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(sender.send(question())));
    let none = || Failure::new("undecided", "no answer: setup waits for decisions");
    answer.await.map_err(|_| none())?.map_err(|_| none())
}

/// What is under way goes on without us.
fn detached(command: &Command) -> Failure {
    let look = match command {
        Command::Connector(
            Connector::Create { name: Some(name), .. } | Connector::RetrySetup { name, .. },
        ) => format!("ardent connector status {name}"),
        Command::Branch(_) => "ardent branch list".to_owned(),
        _ => "ardent connector list".to_owned(),
    };
    let mut failure = Failure::new("detached", "stopped waiting; the server carries on");
    failure.hint = Some(format!("Look again with `{look}`."));
    failure
}

async fn send(
    global: &Global,
    command: &Command,
    statement: &Statement,
) -> Result<Vec<Row>, Failure> {
    let target = connection::target(global)?;
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
    rows
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
