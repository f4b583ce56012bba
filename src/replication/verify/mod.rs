//! Is a copy equal to its source? Compared at one moment: the source as a snapshot sees it, the
//! copy cut where the applier stood at that snapshot's position.
//!
//! Rows are counted and hashed by the two servers, so only sums travel; a table's sum does not
//! depend on the order of its rows. Schemas are compared object by object, as text that Postgres
//! itself prints. Nothing is written on either side.
//!
//! Bounds: one session on each side, one table at a time, all of it within [`Scope::limit`]; in
//! memory the definitions of both schemas, each line cut at [`schema::LINE_CHARS_MAX`].

mod rows;
mod schema;

use std::time::Duration;

use proxy::client::Session;
use tokio::time::Instant;

use crate::lsn::Lsn;
use crate::source::{self, Sequence, Table};

use super::error::{Error, at_source, at_trunk};
use super::link::{Link, TrunkAccess};
use super::quarantine;
use super::sequences;
use super::setup::Snapshot;

/// What a copy is to be compared with.
pub struct Reference {
    pub(super) snapshot: Snapshot,
    /// Sequences of the source as they stood before the copy was brought to that moment: they are
    /// not part of any snapshot.
    pub(super) sequences: Vec<Sequence>,
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Scope {
    /// `schema.table` of the tables; none named means everything.
    pub tables: Vec<String>,
    /// About so many rows a table, the same on both sides; none means all.
    pub sample: Option<u64>,
    /// What is not compared after this long is reported as such.
    pub limit: Duration,
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The source position it was made at.
    pub lsn: Lsn,
    /// Object by object, the worst first; before them the database, which sums them up.
    pub findings: Vec<Finding>,
}

/// What is known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub object: String,
    /// `table`, `index`, `function`, ...
    pub kind: String,
    /// Whether it is the same.
    pub verdict: Verdict,
    /// What was compared, or what differs.
    pub detail: Option<String>,
}

/// Whether an object is the same in source and copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is not, though it should be.
    Different,
    /// The copy lacks it, or its contents, by decision or because no log carries it.
    NotCarried,
    /// Nobody looked: the time was over, or a server refused.
    NotCompared,
    /// Made anew in the copy from the same definition.
    Rebuilt,
    /// It is the same.
    Carried,
}

impl Verdict {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Different => "different",
            Self::NotCarried => "not carried",
            Self::NotCompared => "not compared",
            Self::Rebuilt => "rebuilt",
            Self::Carried => "carried",
        }
    }
}

impl Reference {
    /// Lets go of the source.
    pub async fn release(self) {
        self.snapshot.release().await;
    }
}

impl Comparison {
    /// Objects of a verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        count(self.findings.get(1..).unwrap_or_default(), verdict)
    }
}

/// Compares a copy with the reference it was cut at.
pub async fn compare(
    link: &Link,
    reference: &Reference,
    copy: &TrunkAccess,
    scope: &Scope,
) -> Result<Comparison, Error> {
    let copy_session = Session::open(&copy.as_apply("")).await.map_err(at_trunk)?;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    copy_session.batch_execute(begin).await.map_err(at_trunk)?;
    let look = Look {
        link,
        reference,
        copy: &copy_session,
        scope,
        deadline: Instant::now() + scope.limit,
    };
    let outcome = look.run().await;
    copy_session.close().await;
    let mut findings = outcome?;
    findings.insert(0, summary(reference, &copy.database, &findings));
    Ok(Comparison { lsn: reference.snapshot.lsn, findings })
}

struct Look<'a> {
    link: &'a Link,
    reference: &'a Reference,
    copy: &'a Session,
    scope: &'a Scope,
    deadline: Instant,
}

impl Look<'_> {
    async fn run(&self) -> Result<Vec<Finding>, Error> {
        let source = &self.reference.snapshot.session;
        let tables = source::tables(source, &self.link.schemas).await?;
        let mut findings = if self.scope.tables.is_empty() {
            let mut findings = schema::compare(source, self.copy, &self.link.schemas).await?;
            findings.extend(self.sequences(source).await?);
            findings
        } else {
            self.missing(&tables)
        };
        for finding in self.rows(source, &tables).await? {
            // A table whose definition differs was found already; its rows are said beside that.
            match findings.iter_mut().find(|f| f.kind == "table" && f.object == finding.object) {
                Some(known) => known.merge(finding),
                None => findings.push(finding),
            }
        }
        findings
            .sort_by(|a, b| (a.verdict, &a.kind, &a.object).cmp(&(b.verdict, &b.kind, &b.object)));
        Ok(findings)
    }

    /// Tables that were asked for and are not there.
    fn missing(&self, tables: &[Table]) -> Vec<Finding> {
        let is_there = |name: &&String| !tables.iter().any(|t| t.name.to_string() == **name);
        let asked = self.scope.tables.iter().filter(is_there);
        asked
            .map(|name| Finding::of("table", name, Verdict::NotCompared, "no table of the source"))
            .collect()
    }

    async fn rows(&self, source: &Session, tables: &[Table]) -> Result<Vec<Finding>, Error> {
        let quarantined = quarantine::load(self.copy).await.map_err(at_trunk)?;
        let mut findings = Vec::new();
        for table in tables {
            let name = table.name.to_string();
            if !self.scope.tables.is_empty() && !self.scope.tables.contains(&name) {
                continue;
            }
            if !self.link.follows(&table.name) {
                findings.push(Finding::of("table", &name, Verdict::NotCarried, "excluded"));
                continue;
            }
            if let Some(entry) = quarantined.iter().find(|entry| entry.table == table.name) {
                let detail = format!("quarantined: {}", entry.reason);
                findings.push(Finding::of("table", &name, Verdict::NotCarried, &detail));
                continue;
            }
            let (verdict, detail) =
                rows::compare((source, self.copy), table, self.scope.sample, self.deadline).await?;
            findings.push(Finding::of("table", &name, verdict, &detail));
        }
        Ok(findings)
    }

    /// A sequence has to stand where the source's stood at some time between two looks: one before
    /// the copy was brought to its moment and one now.
    async fn sequences(&self, source: &Session) -> Result<Vec<Finding>, Error> {
        let now = sequences::read(source, &self.link.schemas).await.map_err(at_source)?;
        let here = sequences::read(self.copy, &self.link.schemas).await.map_err(at_trunk)?;
        let find = |list: &[Sequence], wanted: &Sequence| {
            let is_it = |s: &&Sequence| s.schema == wanted.schema && s.name == wanted.name;
            list.iter().find(is_it).map(|s| s.last_value)
        };
        let mut findings = Vec::new();
        for sequence in &now {
            let name = format!("{}.{}", sequence.schema, sequence.name);
            let Some(copied) = find(&here, sequence) else {
                findings.push(Finding::of("sequence value", &name, Verdict::NotCarried, "missing"));
                continue;
            };
            let before = find(&self.reference.sequences, sequence).unwrap_or(sequence.last_value);
            let (low, high) = (before.min(sequence.last_value), before.max(sequence.last_value));
            let (verdict, detail) = if (low..=high).contains(&copied) {
                (Verdict::Carried, format!("at {copied}"))
            } else {
                (Verdict::Different, format!("at {copied}, source between {low} and {high}"))
            };
            findings.push(Finding::of("sequence value", &name, verdict, &detail));
        }
        Ok(findings)
    }
}

impl Finding {
    fn of(kind: &str, object: &str, verdict: Verdict, detail: &str) -> Self {
        Self {
            object: object.to_owned(),
            kind: kind.to_owned(),
            verdict,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
        }
    }

    /// Two looks at one object: the worse verdict, and what both said.
    fn merge(&mut self, other: Self) {
        self.verdict = self.verdict.min(other.verdict);
        self.detail = match (self.detail.take(), other.detail) {
            (Some(own), Some(other)) => Some(format!("{own}; {other}")),
            (own, other) => own.or(other),
        };
    }
}

fn count(findings: &[Finding], verdict: Verdict) -> usize {
    findings.iter().filter(|finding| finding.verdict == verdict).count()
}

fn summary(reference: &Reference, database: &str, findings: &[Finding]) -> Finding {
    let counts: Vec<String> = [
        Verdict::Different,
        Verdict::NotCarried,
        Verdict::NotCompared,
        Verdict::Rebuilt,
        Verdict::Carried,
    ]
    .into_iter()
    .map(|verdict| format!("{} {}", count(findings, verdict), verdict.as_str()))
    .collect();
    let worst = findings.iter().map(|finding| finding.verdict).min().unwrap_or(Verdict::Carried);
    let detail = format!("at {}: {}", reference.snapshot.lsn, counts.join(", "));
    Finding::of("database", database, worst, &detail)
}
