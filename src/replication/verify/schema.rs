//! The objects of a schema, each as lines of text that Postgres itself prints, and what differs.

use std::collections::{BTreeMap, BTreeSet};

use proxy::client::Session;

use super::super::error::{Error, at_source, at_trunk};
use super::{Finding, Verdict};

/// A longer line is kept as its beginning and its hash; `catalog.sql` says so to the servers.
pub(super) const LINE_CHARS_MAX: usize = 500;
/// Differing lines that are shown of an object.
const SHOWN_MAX: usize = 3;
const SHOWN_CHARS_MAX: usize = 120;
/// Kinds that a copy makes anew from their definition.
const REBUILT: [&str; 2] = ["index", "materialized view"];
/// What says that a column is NOT NULL, where that has a name.
const NOT_NULL: &str = "not null constraint";
/// A role that only the copy has.
const OURS: [&str; 2] = ["branch_owner", "ardent_"];

type Objects = BTreeMap<(String, String), BTreeSet<String>>;

/// Compares the schemas of two databases object by object.
pub(super) async fn compare(
    source: &Session,
    copy: &Session,
    schemas: &[String],
) -> Result<Vec<Finding>, Error> {
    let theirs = read(source, schemas).await.map_err(at_source)?;
    let mut ours = read(copy, schemas).await.map_err(at_trunk)?;
    restore_trigger_modes(copy, &mut ours).await.map_err(at_trunk)?;
    let roles = roles(copy).await.map_err(at_trunk)?;
    Ok(differences(&theirs, &ours, &roles))
}

fn differences(theirs: &Objects, ours: &Objects, roles: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((kind, object), expected) in theirs {
        let Some(found) = ours.get(&(kind.clone(), object.clone())) else {
            findings.push(Finding::of(kind, object, Verdict::NotCarried, "the trunk lacks it"));
            continue;
        };
        let rebuilt = REBUILT.contains(&kind.as_str());
        let same = if rebuilt { Verdict::Rebuilt } else { Verdict::Carried };
        let missing: Vec<&String> = expected.difference(found).collect();
        let extra: Vec<&String> =
            found.difference(expected).filter(|line| !is_ours(line)).collect();
        findings.push(if missing.is_empty() && extra.is_empty() {
            let detail = if expected.contains(UNLOGGED) { "rows are not logged" } else { "" };
            let verdict = if detail.is_empty() { same } else { Verdict::NotCarried };
            Finding::of(kind, object, verdict, detail)
        } else if kind.starts_with("grants") && missing.iter().all(|line| !knows(roles, line)) {
            let detail = format!("to roles the trunk lacks: {}", shown(&missing));
            Finding::of(kind, object, Verdict::NotCarried, &detail)
        } else {
            let detail = format!("source: {}; trunk: {}", shown(&missing), shown(&extra));
            Finding::of(kind, object, Verdict::Different, &detail)
        });
    }
    // A source before Postgres 18 knows of no such names.
    let names_not_null = theirs.keys().any(|(kind, _)| kind == NOT_NULL);
    let is_compared = |kind: &str| kind != NOT_NULL || names_not_null;
    let only_here = ours.keys().filter(|key| !theirs.contains_key(*key) && is_compared(&key.0));
    findings.extend(only_here.map(|(kind, object)| {
        Finding::of(kind, object, Verdict::Different, "only the trunk has it")
    }));
    findings
}

/// The line of a table whose rows never reach the log.
const UNLOGGED: &str = "unlogged";

/// A grant to, or ownership by, a role of ours.
fn is_ours(line: &str) -> bool {
    OURS.iter().any(|role| line.starts_with(role) || line.starts_with(&format!("owner {role}")))
}

/// The copy has the role a line of grants is about.
fn knows(roles: &BTreeSet<String>, line: &str) -> bool {
    let role = line.strip_prefix("owner ").unwrap_or(line);
    roles.contains(role.split('=').next().unwrap_or_default())
}

fn shown(lines: &[&String]) -> String {
    if lines.is_empty() {
        return "nothing".to_owned();
    }
    let cut = |line: &&String| line.chars().take(SHOWN_CHARS_MAX).collect::<String>();
    let mut text = lines.iter().take(SHOWN_MAX).map(cut).collect::<Vec<_>>().join(" | ");
    if lines.len() > SHOWN_MAX {
        text.push_str(" | ...");
    }
    text
}

async fn read(session: &Session, schemas: &[String]) -> Result<Objects, tokio_postgres::Error> {
    let mut objects = Objects::new();
    let limit = i32::try_from(LINE_CHARS_MAX).unwrap_or(i32::MAX);
    for row in session.query(include_str!("catalog.sql"), &[&schemas, &limit]).await? {
        let lines: &mut BTreeSet<String> =
            objects.entry((row.try_get(0)?, row.try_get(1)?)).or_default();
        if let Some(line) = row.try_get(2)? {
            lines.insert(line);
        }
    }
    Ok(objects)
}

/// Triggers that the trunk has switched off count as what they are on the source.
async fn restore_trigger_modes(
    copy: &Session,
    objects: &mut Objects,
) -> Result<(), tokio_postgres::Error> {
    let rows = copy.query(TRIGGERS_SQL, &[]).await?;
    for row in rows {
        let (object, mode): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(lines) = objects.get_mut(&("trigger".to_owned(), object)) {
            lines.retain(|line| !line.starts_with("enabled "));
            lines.insert(format!("enabled {mode}"));
        }
    }
    Ok(())
}

async fn roles(copy: &Session) -> Result<BTreeSet<String>, tokio_postgres::Error> {
    let rows = copy.query("SELECT rolname::text FROM pg_catalog.pg_roles", &[]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

const TRIGGERS_SQL: &str = "\
SELECT pg_catalog.format('%s.%s.%s', schema_name, table_name, trigger_name), mode::text
  FROM ardent.disabled_trigger";

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(list: &[(&str, &str, &[&str])]) -> Objects {
        list.iter()
            .map(|(kind, name, lines)| {
                let lines = lines.iter().map(|line| (*line).to_owned()).collect();
                (((*kind).to_owned(), (*name).to_owned()), lines)
            })
            .collect()
    }

    #[test]
    fn names_of_not_null_count_where_the_source_has_them() {
        let named = |name| objects(&[("not null constraint", name, &["NOT NULL a"])]);
        let found = |theirs: &Objects, ours: &Objects| -> Vec<_> {
            let findings = differences(theirs, ours, &BTreeSet::new());
            findings.into_iter().map(|f| format!("{} {}", f.object, f.verdict.as_str())).collect()
        };
        assert_eq!(found(&objects(&[]), &named("s.t.x")), [""; 0]);
        assert_eq!(found(&named("s.t.x"), &named("s.t.x")), ["s.t.x carried"]);
        let differ = found(&named("s.t.x"), &named("s.t.y"));
        assert_eq!(differ, ["s.t.x not carried", "s.t.y different"]);
    }

    #[test]
    fn every_object_gets_a_verdict() {
        let theirs = objects(&[
            ("table", "s.a", &["1 id integer"]),
            ("table", "s.b", &["1 id integer"]),
            ("table", "s.u", &["unlogged"]),
            ("index", "s.i", &["CREATE INDEX"]),
            ("view", "s.v", &["SELECT"]),
            ("grants on table", "s.a", &["owner app", "ghost=SELECT"]),
        ]);
        let ours = objects(&[
            ("table", "s.a", &["1 id integer"]),
            ("table", "s.b", &["1 id bigint"]),
            ("table", "s.u", &["unlogged"]),
            ("table", "s.x", &[]),
            ("index", "s.i", &["CREATE INDEX"]),
            ("grants on table", "s.a", &["owner app", "branch_owner=SELECT"]),
        ]);
        let roles = ["app".to_owned()].into();
        let found: Vec<_> = differences(&theirs, &ours, &roles)
            .into_iter()
            .map(|f| format!("{} {} {}", f.kind, f.object, f.verdict.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                "grants on table s.a not carried",
                "index s.i rebuilt",
                "table s.a carried",
                "table s.b different",
                "table s.u not carried",
                "view s.v not carried",
                "table s.x different",
            ]
        );
    }
}
