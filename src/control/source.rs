//! Looking at a source before anything is made of it.

use std::collections::BTreeMap;

use super::{ControlPlane, refuse};
use crate::admin::request::{Decision, Decisions, Plugin, SourceRequest};
use crate::admin::{OperationError, Outcome, sqlstate};
use crate::secret::Secret;
use crate::source::{self, Identity, PluginChoice, PreflightOptions, Report, SourceUrl, TableName};

/// Reads a source URL; the refusal does not repeat it.
pub(super) fn parse(url: &Secret) -> Outcome<SourceUrl> {
    SourceUrl::parse(url).map_err(|error| {
        OperationError::new(sqlstate::INVALID_PARAMETER, error.to_string())
            .with_hint("Write postgresql://user:password@host:port/database in single quotes.")
    })
}

impl ControlPlane {
    /// Runs preflight.
    pub(super) async fn check_source(&self, request: &SourceRequest) -> Outcome<Report> {
        if request.environment.is_some() || request.private_link.is_some() {
            let message = "environments and private links are not supported yet";
            return Err(OperationError::new(sqlstate::NOT_SUPPORTED, message)
                .with_hint("Name a source that this host reaches itself."));
        }
        let url = parse(&request.url)?;
        let options = PreflightOptions {
            schemas: request.schemas.clone(),
            plugin: match request.plugin {
                Plugin::Auto => PluginChoice::Auto,
                Plugin::Wal2json => PluginChoice::Only(source::Plugin::Wal2json),
                Plugin::Pgoutput => PluginChoice::Only(source::Plugin::Pgoutput),
            },
        };
        let taken_by = |identity: &Identity| self.follower_of(identity);
        Ok(source::preflight(&url, &options, taken_by).await)
    }

    /// The connector that follows a database already.
    fn follower_of(&self, identity: &Identity) -> Option<String> {
        let system_identifier = identity.system_identifier.to_string();
        self.0
            .catalog
            .connector_of_source(&system_identifier, identity.database_oid)
            .unwrap_or_default()
    }
}

/// The decisions to store, and the tables that still have none.
///
/// `add_pk` and `replica_identity_full` announce a change on the source; a table that preflight
/// still finds without identity has not had it, so it stays undecided.
pub(super) fn decide(given: &Decisions, undecided: &[TableName]) -> Outcome<Settled> {
    let mut decisions = BTreeMap::new();
    for (table, decision) in &given.tables {
        decisions.insert(table.clone(), word(*decision).to_owned());
    }
    let mut open = Vec::new();
    for table in undecided {
        match given.tables.get(&table.to_string()) {
            Some(Decision::Exclude) => {}
            None if given.accept_defaults => {
                let exclude = word(Decision::Exclude).to_owned();
                decisions.insert(table.to_string(), exclude);
            }
            None | Some(Decision::AddPk | Decision::ReplicaIdentityFull) => {
                open.push(table.to_string());
            }
        }
    }
    let stored = serde_json::to_string(&decisions).map_err(|error| refuse::internal(&error))?;
    Ok(Settled { decisions: stored, open })
}

/// What came of the decisions.
pub(super) struct Settled {
    /// JSON object of table to decision.
    pub(super) decisions: String,
    /// Tables for which nothing is decided, or not done yet.
    pub(super) open: Vec<String>,
}

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Exclude => crate::connector::EXCLUDE,
        Decision::AddPk => "add_pk",
        Decision::ReplicaIdentityFull => "replica_identity_full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(given: &[(&str, Decision)], accept_defaults: bool) -> Vec<String> {
        let tables = given.iter().map(|(table, decision)| ((*table).to_owned(), *decision));
        let decisions = Decisions { tables: tables.collect(), accept_defaults };
        let undecided =
            ["a", "b"].map(|name| TableName { schema: "public".to_owned(), name: name.to_owned() });
        decide(&decisions, &undecided).unwrap().open
    }

    #[test]
    fn only_excluded_tables_are_settled_without_the_source() {
        assert_eq!(open(&[], false), ["public.a", "public.b"]);
        assert_eq!(open(&[("public.a", Decision::Exclude)], false), ["public.b"]);
        assert!(open(&[], true).is_empty());
        let add = [("public.a", Decision::AddPk)];
        assert_eq!(open(&add, true), ["public.a"]);
    }
}
