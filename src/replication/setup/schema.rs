//! The source's schema, dumped at the snapshot and restored in two steps around the rows.
//!
//! Restored as the applying role, never as superuser: what a schema can run (functions behind
//! indexes, checks and defaults) is the source's code. Parts that only a superuser could make are
//! left out and reported.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use proxy::client::{Host, Target, quote_identifier};
use tokio::process::Command;

use super::super::error::Error;
use super::super::link::{APPLY_ROLE, Link};
use super::Setup;
use super::snapshot::Snapshot;

/// Kinds of dump entries that a trunk must not have: they would act on its own log, follow other
/// servers, or need a superuser. Extensions are made beforehand.
const LEFT_OUT: &[&str] = &[
    "EVENT TRIGGER ",
    "COMMENT - EVENT TRIGGER ",
    "PUBLICATION ",
    "COMMENT - PUBLICATION ",
    "SUBSCRIPTION ",
    "COMMENT - SUBSCRIPTION ",
    "EXTENSION ",
    "COMMENT - EXTENSION ",
    "USER MAPPING ",
];
/// More of a program's complaints than this help nobody.
const WARNINGS_MAX: usize = 50;
const SAID_BYTES_MAX: usize = 2_000;
const COMMAND_CHARS_MAX: usize = 100;

/// Dumps the schema at the snapshot. A dump has no rows, so it is small.
pub(super) async fn dump(
    link: &Link,
    snapshot: &Snapshot,
    bin_dir: &Path,
) -> Result<Vec<u8>, Error> {
    let mut command = Command::new(bin_dir.join("pg_dump"));
    command
        .args(["-Fc", "--schema-only", "--no-publications"])
        .args(["--no-subscriptions", "--no-security-labels", "--lock-wait-timeout=20000"])
        .args(["--exclude-schema", "ardent"])
        .arg(format!("--snapshot={}", snapshot.name));
    for schema in &link.schemas {
        command.arg("--schema").arg(quote_identifier(schema));
    }
    environment(&mut command, link.source.target());
    let output = run("pg_dump", &mut command).await?;
    if !output.status.success() {
        return Err(failed("pg_dump", &output));
    }
    Ok(output.stdout)
}

/// A dump in a private directory, removed when dropped.
pub(super) struct Dump {
    directory: PathBuf,
}

impl Dump {
    /// What [`dump`] made.
    pub(super) async fn unpack(setup: &Setup<'_>, bytes: &[u8]) -> Result<Self, Error> {
        let dump = Self::make(setup).await?;
        tokio::fs::write(dump.file(), bytes)
            .await
            .map_err(|source| Error::Program { program: "pg_restore", source })?;
        dump.write_list(setup.bin_dir).await?;
        Ok(dump)
    }

    async fn make(setup: &Setup<'_>) -> Result<Self, Error> {
        // Beside the trunk's socket, which is made anew at each start of the trunk: what a killed
        // server leaves of the source's schema goes with it.
        let name = format!("setup-{:016x}", rand::random::<u64>());
        let directory = setup.trunk.socket_dir.join(name);
        tokio::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .await
            .map_err(|source| Error::Program { program: "pg_dump", source })?;
        Ok(Self { directory })
    }

    /// Tables, types, functions: all that rows need.
    pub(super) async fn restore_tables(&self, setup: &Setup<'_>) -> Result<Vec<String>, Error> {
        self.restore(setup, "pre-data").await
    }

    /// Indexes, constraints, triggers, rules, materialized views.
    pub(super) async fn restore_rest(&self, setup: &Setup<'_>) -> Result<Vec<String>, Error> {
        self.restore(setup, "post-data").await
    }

    fn file(&self) -> PathBuf {
        self.directory.join("schema.dump")
    }

    fn list(&self) -> PathBuf {
        self.directory.join("schema.list")
    }

    async fn write_list(&self, bin_dir: &Path) -> Result<(), Error> {
        let mut command = Command::new(bin_dir.join("pg_restore"));
        command.arg("--list").arg(self.file());
        let output = run("pg_restore", &mut command).await?;
        if !output.status.success() {
            return Err(failed("pg_restore", &output));
        }
        let list = String::from_utf8_lossy(&output.stdout);
        let kept: Vec<&str> = list.lines().filter(|line| is_kept(line)).collect();
        tokio::fs::write(self.list(), kept.join("\n"))
            .await
            .map_err(|source| Error::Program { program: "pg_restore", source })
    }

    async fn restore(&self, setup: &Setup<'_>, section: &str) -> Result<Vec<String>, Error> {
        let mut command = Command::new(setup.bin_dir.join("pg_restore"));
        command
            .arg(format!("--section={section}"))
            .arg(format!("--jobs={}", if section == "post-data" { setup.jobs } else { 1 }))
            .args(["--no-tablespaces", "--username", APPLY_ROLE])
            .arg("--dbname")
            .arg(&setup.trunk.database)
            .arg("--use-list")
            .arg(self.list())
            .arg(self.file());
        environment(&mut command, &setup.trunk.as_apply(""));
        let output = run("pg_restore", &mut command).await?;
        let complaints = complaints(&String::from_utf8_lossy(&output.stderr), setup.is_resumed);
        // pg_restore goes on after errors and says so by its exit code; without any complaint about
        // an object, the restore as a whole failed.
        if !output.status.success() && complaints.is_none() {
            return Err(failed("pg_restore", &output));
        }
        Ok(complaints.unwrap_or_default())
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "temporary directory of a setup stays behind");
        }
    }
}

/// A line of `pg_restore --list`: `215; 1259 16386 TABLE public accounts app`.
fn is_kept(line: &str) -> bool {
    let entry = line.splitn(4, ' ').nth(3).unwrap_or_default();
    !LEFT_OUT.iter().any(|kind| entry.starts_with(kind))
}

/// What pg_restore could not make, one line each. None if it complained about no object at all.
/// What an interrupted restore made is there already when it is made again.
/// An error is followed by `Command was:` and the statement, whose first line names the object.
fn complaints(stderr: &str, is_repeated: bool) -> Option<Vec<String>> {
    let mut found = false;
    let mut warnings = Vec::new();
    let mut lines = stderr.lines();
    while let Some(line) = lines.next() {
        let Some((_, said)) = line.split_once("could not execute query: ERROR:") else { continue };
        found = true;
        let command = lines.find_map(|line| line.strip_prefix("Command was: ")).unwrap_or_default();
        let command: String = command.chars().take(COMMAND_CHARS_MAX).collect();
        // A schema we made for an extension, or that every database has. Foreign keys that fail
        // because a table is left out are made again without validation.
        let is_there = said.contains("already exists") || said.contains("multiple primary keys");
        let expected = is_there && (is_repeated || command.starts_with("CREATE SCHEMA "))
            || said.contains("violates foreign key constraint");
        if !expected && warnings.len() < WARNINGS_MAX {
            warnings.push(format!("not carried over: {command}: {}", said.trim()));
        }
    }
    found.then_some(warnings)
}

/// Everything about the connection goes through the environment: arguments are visible to others.
fn environment(command: &mut Command, target: &Target) {
    let host = match &target.host {
        Host::Name(name) => name.clone(),
        Host::Socket(directory) => directory.display().to_string(),
    };
    for variable in ["PGSERVICE", "PGPASSFILE", "PGSSLCERT", "PGSSLKEY", "PGHOSTADDR"] {
        command.env_remove(variable);
    }
    command
        .env("PGHOST", host)
        .env("PGPORT", target.port.to_string())
        .env("PGUSER", &target.user)
        .env("PGDATABASE", &target.database)
        .env("PGSSLMODE", target.tls.to_string())
        .env("PGCONNECT_TIMEOUT", target.connect_timeout.as_secs().max(2).to_string())
        .env("PGOPTIONS", &target.options)
        .env("PGAPPNAME", &target.application_name)
        .env("LC_ALL", "C");
    if let Some(via) = &target.via {
        // libpq dials this and still verifies the certificate of the host.
        command.env("PGHOSTADDR", "127.0.0.1").env("PGPORT", via.loopback_port.to_string());
    }
    if let Some(password) = &target.password {
        command.env("PGPASSWORD", password);
    }
    if let Some(path) = &target.root_certificate {
        command.env("PGSSLROOTCERT", path);
    }
}

async fn run(program: &'static str, command: &mut Command) -> Result<Output, Error> {
    command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| Error::Program { program, source })
}

fn failed(program: &'static str, output: &Output) -> Error {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut start = text.len().saturating_sub(SAID_BYTES_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let said = text.get(start..).unwrap_or_default().trim().to_owned();
    Error::ProgramFailed { program, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_acts_by_itself() {
        for line in [
            "3051; 3466 16399 EVENT TRIGGER - t postgres",
            "3052; 6104 16400 PUBLICATION - p postgres",
            "2; 3079 16384 EXTENSION - hstore ",
            "3053; 0 0 COMMENT - EXTENSION hstore ",
        ] {
            assert!(!is_kept(line), "{line}");
        }
        assert!(is_kept("215; 1259 16386 TABLE public accounts app"));
        assert!(is_kept("; a comment"));
    }

    #[test]
    fn reads_complaints_by_statement() {
        let stderr = "\
pg_restore: error: could not execute query: ERROR:  schema \"public\" already exists
Command was: CREATE SCHEMA public;

pg_restore: error: could not execute query: ERROR:  permission denied for language c
DETAIL:  none
Command was: CREATE FUNCTION public.f() RETURNS int
    LANGUAGE c
    AS 'x';
pg_restore: warning: errors ignored on restore: 2";
        assert_eq!(
            complaints(stderr, false).unwrap(),
            ["not carried over: CREATE FUNCTION public.f() RETURNS int: \
              permission denied for language c"]
        );
        assert_eq!(complaints("pg_restore: error: connection refused", false), None);
    }
}
