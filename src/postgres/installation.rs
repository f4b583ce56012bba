//! The Postgres installations of this host, and which of them serves a source.
//!
//! A directory counts when it holds `postgres` and `initdb` and `postgres --version` names a
//! major that we know. Of two installations of one major the one found first wins: configured
//! directories, then Debian's, then `PATH`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::PostgresError;

/// Oldest and newest major whose data directory, settings and roles we know.
const MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// Where Debian's packages put one directory per major.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// One set of server binaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Major version, 13 to 18.
    pub major: u32,
    /// Full version as the binary prints it, such as `15.20`.
    pub version: String,
    /// Directory of `postgres`, `initdb`, `pg_dump`.
    pub bin_dir: PathBuf,
}

impl Installation {
    /// Path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// Finds one installation per major, lowest major first. `configured` is `compute.bin_dirs`.
/// Runs each candidate once, so call it at start and keep the answer.
pub fn find(configured: &[PathBuf]) -> Vec<Installation> {
    let mut found: Vec<Installation> = Vec::new();
    for bin_dir in candidates(configured) {
        if let Some(installation) = inspect(&bin_dir)
            && found.iter().all(|known| known.major != installation.major)
        {
            found.push(installation);
        }
    }
    found.sort_by_key(|installation| installation.major);
    found
}

/// The installation for a source: its own major, else the next newer one.
pub fn choose(installed: &[Installation], source: u32) -> Result<&Installation, PostgresError> {
    if !MAJORS.contains(&source) {
        return Err(PostgresError::UnsupportedMajor(source));
    }
    installed
        .iter()
        .filter(|installation| installation.major >= source)
        .min_by_key(|installation| installation.major)
        .ok_or(PostgresError::NotInstalled { wanted: source })
}

fn candidates(configured: &[PathBuf]) -> Vec<PathBuf> {
    let mut debian: Vec<PathBuf> = fs::read_dir(DEBIAN_ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort();
    let search = env::var_os("PATH").unwrap_or_default();
    configured.iter().cloned().chain(debian).chain(env::split_paths(&search)).collect()
}

fn inspect(bin_dir: &Path) -> Option<Installation> {
    // Followed to its home, because Postgres looks for its libraries beside the real binary.
    let postgres = fs::canonicalize(bin_dir.join("postgres")).ok()?;
    let bin_dir = postgres.parent()?.to_owned();
    if !bin_dir.join("initdb").exists() {
        return None;
    }
    let output = Command::new(&postgres).arg("--version").stdin(Stdio::null()).output().ok()?;
    let version = parse_version(std::str::from_utf8(&output.stdout).ok()?)?;
    let major = version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    MAJORS.contains(&major).then_some(Installation { major, version, bin_dir })
}

/// `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` -> `15.20`.
fn parse_version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("(PostgreSQL) ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(majors: &[u32]) -> Vec<Installation> {
        let make = |&major| Installation {
            major,
            version: format!("{major}.1"),
            bin_dir: PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        };
        majors.iter().map(make).collect()
    }

    #[test]
    fn chooses_the_same_major_else_the_next_newer() {
        let all = installed(&[14, 16, 18]);
        for (source, chosen) in [(13, 14), (14, 14), (15, 16), (16, 16), (17, 18)] {
            assert_eq!(choose(&all, source).unwrap().major, chosen);
        }
    }

    #[test]
    fn names_the_package_that_is_missing() {
        let error = choose(&installed(&[15]), 16).unwrap_err();
        assert!(error.to_string().contains("Debian package postgresql-16"), "{error}");
        assert!(!error.may_retry());
        for unknown in [12, 19] {
            let error = choose(&installed(&[15]), unknown).unwrap_err();
            assert!(matches!(error, PostgresError::UnsupportedMajor(_)));
        }
    }

    #[test]
    fn reads_versions_of_packages_and_of_previews() {
        let debian = "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n";
        assert_eq!(parse_version(debian).as_deref(), Some("15.20"));
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1\n").as_deref(), Some("18beta1"));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn finds_each_major_of_this_host_once() {
        let found = find(&[PathBuf::from("/nonexistent")]);
        assert!(!found.is_empty(), "the tests need a PostgreSQL");
        assert!(found.windows(2).all(|pair| pair[0].major < pair[1].major));
        assert!(found[0].program("initdb").exists());
    }
}
