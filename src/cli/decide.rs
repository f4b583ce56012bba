//! Decisions about tables that cannot identify their rows: asked on a terminal, or written to a
//! file for later.
//!
//! Must never: decide by itself; write anywhere but to the file that was named.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use super::args::{Command, Connector, Decisions, Format};
use super::failure::Failure;
use super::row::Row;

/// A connector whose setup waits for decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undecided {
    pub(super) connector: String,
    pub(super) tables: Vec<String>,
}

/// What can be decided, the default first: the value, and what it means.
const CHOICES: [(&str, &str); 3] = [
    ("exclude", "do not replicate this table yet"),
    ("add_pk", "you add a primary key on the source, then retry setup"),
    ("replica_identity_full", "you set REPLICA IDENTITY FULL on the source, then retry setup"),
];

/// The decisions that came with a verb.
pub(super) fn given(command: &Command) -> Option<&Decisions> {
    match command {
        Command::Connector(
            Connector::Create { decisions, .. } | Connector::RetrySetup { decisions, .. },
        ) => Some(decisions),
        _ => None,
    }
}

/// What the answer to a setup leaves open.
pub(super) fn undecided(command: &Command, rows: &[Row]) -> Option<Undecided> {
    given(command)?;
    let row = rows.first()?;
    let tables: Vec<String> = row.text("undecided").lines().map(str::to_owned).collect();
    let is_open = row.text("state") == "setup pending" && !tables.is_empty();
    is_open.then(|| Undecided { connector: row.text("name").to_owned(), tables })
}

/// Somebody is there to answer.
pub(super) fn is_interactive(format: Format) -> bool {
    format == Format::Text && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks about each table; the decisions as a JSON object.
pub(super) fn ask(
    undecided: &Undecided,
    answers: &mut impl BufRead,
    questions: &mut impl Write,
) -> io::Result<String> {
    let count = undecided.tables.len();
    writeln!(
        questions,
        "{count} table(s) have no primary key, valid unique NOT NULL index, or REPLICA IDENTITY \
         FULL.\nWithout one, Postgres cannot say which row an UPDATE or DELETE meant."
    )?;
    let mut decisions = BTreeMap::new();
    for table in &undecided.tables {
        writeln!(questions, "\n{table}:")?;
        for (number, (value, meaning)) in (1..).zip(CHOICES) {
            writeln!(questions, "  {number}) {value:22} {meaning}")?;
        }
        decisions.insert(table, choice(answers, questions)?);
    }
    Ok(serde_json::to_string(&decisions).expect("strings serialize"))
}

fn choice(answers: &mut impl BufRead, questions: &mut impl Write) -> io::Result<&'static str> {
    loop {
        write!(questions, "Choice [1]: ")?;
        questions.flush()?;
        let mut line = String::new();
        if answers.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = line.trim();
        let numbered = (1..).zip(CHOICES).map(|(number, (value, _))| (number.to_string(), value));
        let mut known = numbered.chain(CHOICES.map(|(value, _)| (value.to_owned(), value)));
        match known.find(|(word, _)| word == answer || answer.is_empty()) {
            Some((_, value)) => return Ok(value),
            None => writeln!(questions, "Answer 1, 2 or 3.")?,
        }
    }
}

/// Writes the recommended decisions: what is safe without a change on the source.
pub(super) fn write_plan(path: &Path, tables: &[&str]) -> Result<(), Failure> {
    let (recommended, _) = CHOICES[0];
    let plan: BTreeMap<&str, &str> = tables.iter().map(|table| (*table, recommended)).collect();
    let text = serde_json::to_string_pretty(&plan).expect("strings serialize");
    std::fs::write(path, text + "\n")
        .map_err(|error| Failure::usage(format!("write {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn asks_until_it_understands() {
        let undecided = Undecided {
            connector: "prod".to_owned(),
            tables: ["public.a", "public.b", "public.c"].map(str::to_owned).to_vec(),
        };
        let mut questions = Vec::new();
        let mut answers = "\nmaybe\n2\nreplica_identity_full\n".as_bytes();
        let json = ask(&undecided, &mut answers, &mut questions).unwrap();
        expect![[
            r#"{"public.a":"exclude","public.b":"add_pk","public.c":"replica_identity_full"}"#
        ]]
        .assert_eq(&json);
        let asked = String::from_utf8(questions).unwrap();
        assert!(asked.contains("public.c:\n  1) exclude "), "{asked}");
        assert!(asked.contains("Choice [1]: Answer 1, 2 or 3.\nChoice [1]: "), "{asked}");
        assert!(ask(&undecided, &mut "1\n".as_bytes(), &mut Vec::new()).is_err(), "no answer");
    }
}
