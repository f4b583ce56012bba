//! `ARDENT HELP`: the command table, as rows.

use proxy::Value;

use super::commands;
use super::error::{OperationError, Outcome, sqlstate};
use super::grammar::Command;
use super::syntax::did_you_mean;

/// The commands whose names begin with `words`; all for no words.
pub(super) fn rows(words: &[String]) -> Outcome<Vec<Vec<Value>>> {
    let mut wanted = words.join(" ").to_uppercase();
    if let Some(rest) = wanted.strip_prefix("ARDENT") {
        wanted = rest.trim_start().to_owned();
    }
    let rows: Vec<_> =
        commands::all().filter(|command| is_prefix(&wanted, &command.name())).map(row).collect();
    if !rows.is_empty() {
        return Ok(rows);
    }
    let names: Vec<_> = commands::all().map(Command::name).collect();
    let hint = did_you_mean(&wanted, names.iter().map(String::as_str));
    Err(OperationError::new(sqlstate::UNDEFINED_OBJECT, "no statement of that name")
        .with_hint(hint.unwrap_or_else(|| "ARDENT HELP lists all statements.".to_owned())))
}

/// Whole words only: `BRANCH` begins `BRANCH LIST`, `BRA` does not.
fn is_prefix(wanted: &str, name: &str) -> bool {
    name.strip_prefix(wanted)
        .is_some_and(|rest| wanted.is_empty() || rest.is_empty() || rest.starts_with(' '))
}

fn row(command: &Command) -> Vec<Value> {
    let options: Vec<_> = command
        .options()
        .map(|option| format!("{} = {}: {}", option.name, option.kind.syntax(), option.summary))
        .collect();
    let options = if options.is_empty() { Value::Null } else { Value::Text(options.join("\n")) };
    vec![
        Value::Text(command.tag()),
        Value::Text(command.summary.to_owned()),
        Value::Text(command.syntax()),
        options,
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(words: &[&str], expected: Expect) {
        let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
        let out = match rows(&words) {
            Err(error) => format!("{error}\n{}\n", error.hint.clone().unwrap()),
            Ok(rows) => rows
                .iter()
                .map(|row| match (&row[2], &row[3]) {
                    (Value::Text(syntax), Value::Text(options)) => format!("{syntax}\n{options}\n"),
                    (Value::Text(syntax), _) => format!("{syntax}\n"),
                    _ => unreachable!(),
                })
                .collect(),
        };
        expected.assert_eq(&out);
    }

    #[test]
    fn shows_what_a_statement_takes() {
        check(
            &["ardent", "branch", "create"],
            expect![[r#"
            ARDENT BRANCH CREATE name [FROM branch] [WITH (role, max_size, freshness_timeout)]
            role = 'text': the role its URL logs in as; default: branch_owner
            max_size = '10GB': the most it may come to hold of its own
            freshness_timeout = '30s': how long to wait for the source's present position
        "#]],
        );
        check(
            &["connector", "quarantine"],
            expect![[r#"
            ARDENT CONNECTOR QUARANTINE LIST name
            ARDENT CONNECTOR QUARANTINE RELEASE name '<schema.table>'
        "#]],
        );
        check(
            &["brnch", "create"],
            expect![[r#"
            no statement of that name
            Did you mean "BRANCH CREATE"?
        "#]],
        );
    }
}
