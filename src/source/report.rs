//! What preflight found, as the rows of `ARDENT CONNECTOR PREFLIGHT`.

use super::facts::{Identity, TableName};
use super::plugin::Plugin;

/// A preflight report. Rows come in the order to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Checks, then the provider, the grant script if one is needed, and the verdict.
    pub rows: Vec<Row>,
    /// No check failed.
    pub passed: bool,
    /// Tables that cannot identify their rows: each needs a decision before setup.
    pub undecided: Vec<TableName>,
    /// Which database this is, if it could be asked.
    pub identity: Option<Identity>,
    /// The plugin to follow it with, if there is one.
    pub plugin: Option<Plugin>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What the row is.
    pub kind: RowKind,
    /// The check's or provider's name.
    pub name: String,
    /// How the check came out; `Pass` or `Fail` for the verdict.
    pub status: RowStatus,
    /// A passing check: the fact for its brackets (`actual: logical`). Any other: lines saying what
    /// is wrong. The script row: the script.
    pub detail: Option<String>,
    /// What to do, one line.
    pub remedy: Option<String>,
}

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// One check.
    Check,
    /// The detected provider, in `name`.
    Provider,
    /// The grant script, in `detail`.
    Script,
    /// The verdict, the last row.
    Verdict,
}

/// How a check came out. Only `Fail` fails the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    /// As it should be.
    Pass,
    /// Works, with a restriction worth knowing.
    Warn,
    /// Must be mended first.
    Fail,
    /// Could not run; `detail` says why.
    Skip,
}

impl Row {
    /// A check that is as it should be.
    pub fn pass(name: &str) -> Self {
        Self {
            kind: RowKind::Check,
            name: name.to_owned(),
            status: RowStatus::Pass,
            detail: None,
            remedy: None,
        }
    }

    /// A check with a restriction.
    pub fn warn(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: RowStatus::Warn, ..Self::fail(name, detail, remedy) }
    }

    /// A check that failed.
    pub fn fail(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            status: RowStatus::Fail,
            remedy: Some(remedy.into()),
            ..Self::pass(name).with_detail(detail)
        }
    }

    /// A check that could not run.
    pub fn skip(name: &str, why: impl Into<String>) -> Self {
        Self { status: RowStatus::Skip, ..Self::pass(name).with_detail(why) }
    }

    /// The same row with a detail.
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }
}

/// A check's detail names this many objects; the script has them all.
pub(super) const NAMED_OBJECTS_MAX: usize = 10;

/// The first names of a list, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_OBJECTS_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_OBJECTS_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
