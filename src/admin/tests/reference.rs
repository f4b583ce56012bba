//! The reference in `docs/sql.md` is the command table. `UPDATE_EXPECT=1` writes it anew.

use std::fmt::Write as _;

use expect_test::expect_file;

use crate::admin::commands;
use crate::admin::grammar::Command;

const HEAD: &str = "\
# Admin SQL

Made from the command table of the server: `ARDENT HELP` shows the same. Any Postgres client runs these statements in
the admin database `ardent`, over TCP as an admin role or over the unix socket below `run/` of the data directory.
Options are Postgres' own: `WITH (name = value, ...)`. Columns only ever grow at the end.
";

fn section(command: &Command) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("memory takes text");
    line(format!("\n## {}\n", command.name()));
    line(format!("```sql\n{}\n```\n", command.syntax()));
    line(format!("{}. Level: {}.", sentence(command.summary), command.level.as_str()));
    let options: Vec<_> = command.options().collect();
    if !options.is_empty() {
        line("\n| Option | Value | Meaning |\n|---|---|---|".to_owned());
    }
    for option in options {
        let value = option.kind.syntax().replace('|', "\\|");
        line(format!("| `{}` | {value} | {} |", option.name, option.summary));
    }
    let columns: Vec<_> = command.columns.iter().map(|(name, _)| format!("`{name}`")).collect();
    if !columns.is_empty() {
        line(format!("\nColumns: {}.", columns.join(", ")));
    }
    text
}

fn sentence(summary: &str) -> String {
    let (first, rest) = summary.split_at(1);
    first.to_uppercase() + rest
}

#[test]
fn the_documented_statements_are_those_of_the_command_table() {
    let sections: Vec<_> = commands::all().map(section).collect();
    expect_file!["../../../docs/sql.md"].assert_eq(&format!("{HEAD}{}", sections.concat()));
}
