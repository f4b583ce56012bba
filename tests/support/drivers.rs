//! The clients that customers use: psql, psycopg and node-postgres. A missing one fails the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::cli::{Ran, bounded, run};

/// One client library, by what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    Psql,
    Psycopg,
    NodePostgres,
}

impl Driver {
    pub(crate) const ALL: [Self; 3] = [Self::Psql, Self::Psycopg, Self::NodePostgres];

    /// Runs one statement and returns its rows as psql prints them unaligned.
    #[track_caller]
    pub(crate) fn rows(self, url: &str, sql: &str) -> String {
        match self {
            Self::Psql => psql(url, sql).ok(),
            Self::Psycopg => run(python("query.py").args([url, sql])).ok(),
            Self::NodePostgres => run(node("query.js").args([url, sql])).ok(),
        }
    }
}

/// Runs SQL through psql: rows unaligned, errors with their SQLSTATE, notices on stderr.
pub(crate) fn psql(url: &str, sql: &str) -> Ran {
    let mut command = bounded("psql");
    command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--no-password"]);
    command.args(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=verbose", "--command", sql, url]);
    // Values must print alike whatever time zone a server was set up with.
    run(command.env("PGCONNECT_TIMEOUT", "30").env("PGTZ", "UTC"))
}

/// What a server said when it refused a connection.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) severity: String,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Connects through node-postgres, which shows every field of the refusal it must get.
#[track_caller]
pub(crate) fn refused(url: &str) -> Refused {
    let said = run(node("refused.js").arg(url)).ok();
    let fields: Value = serde_json::from_str(&said).expect("the refusal as JSON");
    let field = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    Refused {
        severity: field("severity"),
        sqlstate: field("code"),
        message: field("message"),
        hint: field("hint"),
    }
}

/// Starts a long query, cancels it by a CancelRequest on a second connection, returns its SQLSTATE.
#[track_caller]
pub(crate) fn cancelled(url: &str) -> String {
    run(python("cancel.py").arg(url)).ok().trim_end().to_owned()
}

/// A driver script under the Python that `make setup` prepared.
pub(crate) fn python(script: &str) -> Command {
    let interpreter = tests_dir().join(".venv/bin/python");
    assert!(interpreter.exists(), "the Python drivers are missing: run make setup");
    let mut command = bounded(interpreter);
    command.arg(tests_dir().join("drivers").join(script));
    command
}

/// Where pip put what `make setup` installed.
pub(crate) fn python_packages() -> PathBuf {
    let libraries =
        std::fs::read_dir(tests_dir().join(".venv/lib")).into_iter().flatten().flatten();
    let mut packages = libraries.map(|python| python.path().join("site-packages"));
    packages.next().expect("the Python drivers are missing: run make setup")
}

/// A driver script under node.
pub(crate) fn node(script: &str) -> Command {
    let drivers = tests_dir().join("node_modules/.prisma/client");
    assert!(drivers.exists(), "the node drivers are missing: run make setup");
    let mut command = bounded("node");
    command.arg(tests_dir().join("drivers").join(script));
    command
}

/// A driver script under Java, which compiles it as it starts.
pub(crate) fn java(script: &str) -> Command {
    let driver = Path::new("/usr/share/java/postgresql.jar");
    assert!(driver.exists(), "JDBC is missing: run make setup");
    let mut command = bounded("java");
    // The quick compiler suffices for a program that runs for a second.
    command.arg("-XX:TieredStopAtLevel=1").arg("-cp").arg(driver);
    command.arg(tests_dir().join("drivers").join(script));
    command
}

fn tests_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")
}
