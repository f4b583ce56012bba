//! What has to be done to make an object of the trunk equal to the source's. Pure.

use super::object::{Fact, Object};

/// Statements for one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) phase: i32,
    pub(super) key: String,
    /// To be tried in turn until one succeeds.
    pub(super) attempts: Vec<String>,
}

/// Renames come before everything else of their object.
const RENAME_PHASE: i32 = -1_000;

/// The steps from `trunk` to `source`; none left means that both are equal. An object that is not
/// there is only made; what else is to be said about it shows in the next round.
pub(super) fn steps(source: &Object, trunk: Option<&Object>) -> Vec<Step> {
    let Some(trunk) = trunk else {
        let made =
            source.facts.iter().filter(|fact| fact.kind() == "exists" || is_standing(source));
        return made.map(|fact| step(fact.phase, fact, vec![fact.creation().to_owned()])).collect();
    };
    let mut steps = Vec::new();
    let mut missing: Vec<&Fact> = lacking(source, trunk);
    let mut extra: Vec<&Fact> = lacking(trunk, source);
    rename(&mut missing, &mut extra, &mut steps);
    let owner_differs =
        differing(source, trunk).any(|(fact, _)| matches!(fact.key.as_str(), "owner" | "owned"));
    for (fact, present) in differing(source, trunk) {
        steps.extend(change(fact, present));
    }
    for fact in missing.iter().filter(|fact| !is_implied(fact, &missing)) {
        let attempts = std::iter::once(fact.creation()).chain(fact.retry.as_deref());
        steps.push(step(fact.phase, fact, attempts.map(str::to_owned).collect()));
    }
    for fact in extra {
        // Dependents were made later, so they go first.
        steps.extend(fact.drop.clone().map(|drop| step(-fact.phase, fact, vec![drop])));
    }
    // Privileges of the owner move with the ownership.
    steps.retain(|step| !owner_differs || !step.key.starts_with("grant/"));
    steps.sort_by_key(|step| step.phase);
    steps
}

/// True for what has no object of its own behind it.
fn is_standing(object: &Object) -> bool {
    object.class == super::object::Class::DefaultPrivileges
}

fn lacking<'a>(of: &'a Object, other: &Object) -> Vec<&'a Fact> {
    of.facts.iter().filter(|fact| !other.facts.iter().any(|o| o.key == fact.key)).collect()
}

fn differing<'a>(
    source: &'a Object,
    trunk: &'a Object,
) -> impl Iterator<Item = (&'a Fact, &'a Fact)> {
    source.facts.iter().filter_map(|fact| {
        let present = trunk.facts.iter().find(|other| other.key == fact.key)?;
        (present.make != fact.make).then_some((fact, present))
    })
}

/// A fact that went and one that came, alike but for the name, are one that was renamed.
fn rename(missing: &mut Vec<&Fact>, extra: &mut Vec<&Fact>, steps: &mut Vec<Step>) {
    missing.retain(|fact| {
        let alike = |other: &&&Fact| {
            other.kind() == fact.kind() && other.body == fact.body && other.rename.is_some()
        };
        let (Some(name), Some(_)) = (&fact.name, &fact.body) else { return true };
        let Some(position) = extra.iter().position(|other| alike(&other)) else { return true };
        let old = extra.remove(position);
        let sql = format!("{}{name}", old.rename.as_deref().unwrap_or_default());
        steps.push(step(RENAME_PHASE, fact, vec![sql]));
        false
    });
}

fn change(fact: &Fact, present: &Fact) -> Option<Step> {
    let attempts = match &present.drop {
        _ if fact.is_replaceable() => {
            let drop_first = present.drop.as_ref().map(|drop| format!("{drop}; {}", fact.make));
            let remake = drop_first.filter(|_| fact.kind() == "exists");
            std::iter::once(fact.make.clone()).chain(fact.retry.clone()).chain(remake).collect()
        }
        // A table of another make: only a new one would do, and that is the source's to say.
        _ if fact.key == "exists" && fact.first.is_some() => return None,
        Some(drop) => std::iter::once(fact.creation())
            .chain(fact.retry.as_deref())
            .map(|make| format!("{drop}; {make}"))
            .collect(),
        None => vec![fact.make.clone()],
    };
    Some(step(fact.phase, fact, attempts))
}

/// A new column comes with its type.
fn is_implied(fact: &Fact, missing: &[&Fact]) -> bool {
    fact.key
        .strip_suffix("/type")
        .is_some_and(|column| missing.iter().any(|other| other.key == column))
}

fn step(phase: i32, fact: &Fact, attempts: Vec<String>) -> Step {
    Step { phase, key: fact.key.clone(), attempts }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(facts: &[(i32, &str, &str)]) -> Object {
        let facts = facts.iter().map(|(phase, key, make)| Fact {
            phase: *phase,
            key: (*key).to_owned(),
            make: (*make).to_owned(),
            drop: Some(format!("DROP {key}")),
            body: key.starts_with("index/").then(|| "(a)".to_owned()),
            name: key.strip_prefix("index/").map(str::to_owned),
            rename: key.strip_prefix("index/").map(|name| format!("ALTER {name} RENAME TO ")),
            ..Fact::default()
        });
        let text = r#"{"class":"relation","oid":1,"kind":"r","namespace":2,"schema":"s",
            "name":"t","target":"s.t","columns":{},"facts":[]}"#;
        Object { facts: facts.collect(), ..serde_json::from_str(text).unwrap() }
    }

    fn sql(source: &[(i32, &str, &str)], trunk: Option<&[(i32, &str, &str)]>) -> Vec<String> {
        let trunk = trunk.map(object);
        let steps = steps(&object(source), trunk.as_ref());
        steps.into_iter().map(|step| step.attempts.join(" | ")).collect()
    }

    #[test]
    fn makes_what_is_not_there() {
        let table = [(10, "exists", "CREATE"), (20, "column/a", "ADD a")];
        assert_eq!(sql(&table, None), ["CREATE"]);
        assert_eq!(sql(&table, Some(&table[..1])), ["ADD a"]);
        assert_eq!(sql(&table, Some(&table)), [""; 0]);
    }

    #[test]
    fn drops_in_reverse_before_it_makes() {
        let trunk = [(20, "column/a", "ADD a"), (22, "column/a/default", "SET")];
        let source = [(20, "column/b", "ADD b")];
        assert_eq!(sql(&source, Some(&trunk)), ["DROP column/a/default", "DROP column/a", "ADD b"]);
        assert_eq!(sql(&[(20, "column/a", "ADD b")], Some(&trunk[..1])), ["DROP column/a; ADD b"]);
    }

    #[test]
    fn knows_a_renamed_index() {
        let (old, new) = ([(55, "index/i", "CREATE i")], [(55, "index/j", "CREATE j")]);
        assert_eq!(sql(&new, Some(&old)), ["ALTER i RENAME TO j"]);
    }
}
