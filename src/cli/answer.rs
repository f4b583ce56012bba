//! What a verb prints when the server did as it was told.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::SCHEMA_VERSION;
use super::args::{Branch, Command, Connector, Environment, Format, PrivateLink, Settings};
use super::decide;
use super::failure::{FAILED, Failure, USAGE};
use super::report::Style;
use super::row::Row;
use super::text;

/// Rows as text.
type Render = Box<dyn Fn(&[Row], Style) -> String>;

/// Rows, how people see them, and how the process ends.
pub(super) struct Answer {
    rows: Vec<Row>,
    /// The verb answers with one object, not with a list.
    is_single: bool,
    text: Render,
    exit_code: u8,
}

/// The states of a connector that can be branched from.
const BRANCHABLE: [&str; 2] = ["ready", "degraded"];

impl Answer {
    fn many(rows: Vec<Row>, text: impl Fn(&[Row], Style) -> String + 'static) -> Self {
        Self { rows, is_single: false, text: Box::new(text), exit_code: 0 }
    }

    fn single(rows: Vec<Row>, text: impl Fn(&Row, Style) -> String + 'static) -> Self {
        let of_first =
            move |rows: &[Row], style| rows.first().map(|row| text(row, style)).unwrap_or_default();
        Self { rows, is_single: true, text: Box::new(of_first), exit_code: 0 }
    }

    /// Writes it to standard output; the exit code of the process.
    pub(super) fn print(&self, format: Format) -> std::io::Result<u8> {
        let mut stdout = std::io::stdout();
        match format {
            Format::Text => {
                let text = (self.text)(&self.rows, Style::of(&stdout));
                stdout.write_all(text.as_bytes())?;
            }
            Format::Json => writeln!(stdout, "{}", self.json())?,
        }
        Ok(self.exit_code)
    }

    fn json(&self) -> Json {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        match (self.is_single, rows.as_slice()) {
            (true, [row]) => {
                let mut object = row.clone();
                object.insert("schema_version".to_owned(), Json::from(SCHEMA_VERSION));
                Json::Object(object)
            }
            _ => json!({"schema_version": SCHEMA_VERSION, "rows": rows}),
        }
    }
}

/// `took` is what the operator waited.
pub(super) fn of(command: &Command, rows: Vec<Row>, took: Duration) -> Result<Answer, Failure> {
    match command {
        Command::Connector(verb) => connector(verb, rows),
        Command::Branch(verb) => branch(verb, rows, took),
        Command::Settings(verb) => Ok(match verb {
            Settings::List => Answer::many(rows, |rows, _| text::settings(rows)),
            Settings::Set { .. } => Answer::single(rows, text::setting_set),
            Settings::Remove { .. } => Answer::single(rows, |row, style| {
                text::done(&format!("Removed {}", row.text("key")), style)
            }),
        }),
        Command::Environment(Environment::Create { .. }) => {
            Ok(created(rows, "Environment '{}' created"))
        }
        Command::Environment(Environment::Delete { .. }) => {
            Ok(created(rows, "Environment '{}' deleted"))
        }
        Command::PrivateLink(PrivateLink::Create { .. }) => {
            Ok(created(rows, "Private link '{}' created"))
        }
        Command::PrivateLink(PrivateLink::Delete { .. }) => {
            Ok(created(rows, "Private link '{}' deleted"))
        }
        _ => Ok(Answer::many(rows, |rows, _| text::table(rows))),
    }
}

/// One line that names what was made or deleted.
fn created(rows: Vec<Row>, line: &'static str) -> Answer {
    Answer::single(rows, move |row, style| text::done(&line.replace("{}", row.text("name")), style))
}

/// The decisions are in a file, and setup waits for them.
pub(super) fn plan_written(rows: Vec<Row>, path: &Path) -> Result<Answer, Failure> {
    let tables = rows.first().map(|row| row.text("undecided").to_owned()).unwrap_or_default();
    decide::write_plan(path, &tables.lines().collect::<Vec<_>>())?;
    let path = path.display().to_string();
    Ok(Answer::single(rows, move |row, style| text::plan_written(row, &path, style)))
}

fn connector(verb: &Connector, rows: Vec<Row>) -> Result<Answer, Failure> {
    Ok(match verb {
        Connector::Preflight(_) => {
            let passed = rows.last().is_some_and(|verdict| verdict.text("status") == "pass");
            let exit_code = if passed { 0 } else { USAGE };
            Answer { exit_code, ..Answer::many(rows, text::preflight) }
        }
        Connector::Create { .. } => {
            require_set_up(&rows)?;
            Answer::single(rows, |row, style| {
                text::connector_ready(row, "Connector created and ready", style)
            })
        }
        Connector::RetrySetup { .. } => {
            require_set_up(&rows)?;
            Answer::single(rows, |row, style| match row.flag("no_work_needed") {
                true => text::done("Setup is already complete, no work needed", style),
                false => text::connector_ready(row, "Connector set up and ready", style),
            })
        }
        Connector::List { fail_on_warnings } => {
            let has_warnings = rows.iter().any(|row| row.optional_text("warnings").is_some());
            let exit_code = if *fail_on_warnings && has_warnings { USAGE } else { 0 };
            Answer { exit_code, ..Answer::many(rows, text::connector_list) }
        }
        Connector::Status { name: Some(_) } => Answer::single(rows, |row, style| {
            text::connector_status(std::slice::from_ref(row), style)
        }),
        Connector::Status { name: None } => Answer::many(rows, text::connector_status),
        Connector::Switch { .. } => Answer::single(rows, |row, _| text::switched(row)),
        Connector::Delete { .. } => Answer::single(rows, text::connector_deleted),
        Connector::Verify { .. } => {
            let is_different = rows.iter().any(|row| row.text("verdict") == "different");
            let exit_code = if is_different { FAILED } else { 0 };
            Answer { exit_code, ..Answer::many(rows, text::verified) }
        }
        Connector::Update { .. } => Answer::single(rows, text::connector_updated),
        Connector::Lock { .. } => {
            Answer::single(rows, |_, style| text::done("Connector locked", style))
        }
        Connector::Unlock { .. } => {
            Answer::single(rows, |_, style| text::done("Connector unlocked", style))
        }
        _ => Answer::many(rows, |rows, _| text::table(rows)),
    })
}

/// Setup that waits for decisions, or did not come through, is no success of the verb.
fn require_set_up(rows: &[Row]) -> Result<(), Failure> {
    let Some(row) = rows.first() else { return Ok(()) };
    let (name, state) = (row.text("name"), row.text("state"));
    if BRANCHABLE.contains(&state) {
        return Ok(());
    }
    let undecided: Vec<_> = row.text("undecided").lines().collect();
    if undecided.is_empty() {
        let mut failure =
            Failure::new("connector_unavailable", format!("connector '{name}' is {state}"));
        failure.detail = row.optional_text("warnings").map(str::to_owned);
        failure.hint = Some(format!("Look again with `ardent connector status {name}`."));
        return Err(failure);
    }
    let message = format!("connector '{name}' is {state}: tables need a replica identity decision");
    let mut failure = Failure::new("connector_unavailable", message);
    failure.detail = Some(undecided.join("\n"));
    failure.hint = Some(format!(
        "Pass decisions with --replica-identity-decisions <path>, exclude these tables with \
         --accept-replica-identity-defaults, or get a file to edit with --write-replica-plan \
         <path>:\nardent connector retry-setup {name} --accept-replica-identity-defaults"
    ));
    Err(failure)
}

fn branch(verb: &Branch, rows: Vec<Row>, took: Duration) -> Result<Answer, Failure> {
    Ok(match verb {
        Branch::Create { print_url: true, .. } | Branch::Info { print_url: true, .. } => {
            // An empty line would be taken for a URL by a script that does not look.
            if rows.first().is_none_or(|row| row.text("url").is_empty()) {
                return Err(Failure::new("branch_url_missing", "the branch has no URL for you"));
            }
            Answer::single(rows, |row, _| format!("{}\n", row.text("url")))
        }
        Branch::Create { .. } => {
            Answer::single(rows, move |row, style| text::branch_created(row, took, style))
        }
        Branch::List => Answer::many(rows, text::branch_list),
        Branch::Info { .. } => Answer::single(rows, text::branch_info),
        Branch::Switch { .. } => Answer::single(rows, |row, _| text::switched(row)),
        Branch::Delete { .. } => {
            Answer::single(rows, |_, style| text::done("Branch deleted", style))
        }
        Branch::RotatePassword { .. } => Answer::single(rows, text::password_rotated),
    })
}
