//! Looking at a source before anything is made of it.

use std::collections::BTreeMap;

use super::{ControlPlane, refuse};
use crate::admin::request::{Decision, Decisions, Plugin, SourceRequest};
use crate::admin::{OperationError, Outcome, sqlstate};
use crate::cause::Causes;
use crate::connector::{Connector, Route};
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
        let url = parse(&request.url)?;
        let route = self.route(request)?;
        let options = PreflightOptions {
            schemas: request.schemas.clone(),
            plugin: match request.plugin {
                Plugin::Auto => PluginChoice::Auto,
                Plugin::Wal2json => PluginChoice::Only(source::Plugin::Wal2json),
                Plugin::Pgoutput => PluginChoice::Only(source::Plugin::Pgoutput),
            },
            ..PreflightOptions::default()
        };
        self.look_at(&url, route.as_ref(), options, true).await
    }

    /// Runs preflight on a source through the way it is reached by. `is_new`: nobody may follow it
    /// already.
    pub(super) async fn look_at(
        &self,
        url: &SourceUrl,
        route: Option<&NamedRoute>,
        mut options: PreflightOptions,
        is_new: bool,
    ) -> Outcome<Report> {
        let taken_by = |identity: &Identity| is_new.then(|| self.follower_of(identity)).flatten();
        let Some(route) = route else {
            return Ok(source::preflight(url, &options, taken_by).await);
        };
        let way = self.0.connectors.way(route.borrow(), url).map_err(refuse::connector)?;
        let (way, (host, port)) = way;
        let opened = way.open(&host, port).await;
        options.beyond = Some(opened.map(drop).map_err(|error| Causes(&error).to_string()));
        let directory = format!("{:016x}", rand::random::<u64>());
        let opened = self.0.connectors.open_gateway(route.borrow(), &directory, url);
        let (_gateway, reached) = opened.map_err(refuse::connector)?;
        Ok(source::preflight(&reached, &options, taken_by).await)
    }

    /// The environment and private link a request means; none for the straight way.
    pub(super) fn route(&self, request: &SourceRequest) -> Outcome<Option<NamedRoute>> {
        if !request.byoc && request.environment.is_none() && request.private_link.is_none() {
            return Ok(None);
        }
        let environments = self.do_list_environments()?;
        let names: Vec<_> = environments.iter().map(|found| found.name.clone()).collect();
        let wrong = |message: String, names: &[String]| {
            OperationError::new(sqlstate::INVALID_PARAMETER, message)
                .with_detail(format!("There are: {}.", names.join(", ")))
        };
        let environment = match (&request.environment, environments.as_slice()) {
            (Some(name), _) => environments.iter().find(|found| found.name == *name),
            (None, [only]) => Some(only),
            (None, []) => {
                let message = "no environment exists yet";
                return Err(OperationError::new(sqlstate::UNDEFINED_OBJECT, message).with_hint(
                    "Create one: ardent environment create <name> ssh://user@host --key <file> \
                     --known-host <line>",
                ));
            }
            (None, _) => {
                return Err(wrong("there is more than one environment".to_owned(), &names)
                    .with_hint("Name one with --environment-id (option environment)."));
            }
        };
        let Some(environment) = environment else {
            let name = request.environment.as_deref().unwrap_or_default();
            return Err(refuse::undefined("environment", name));
        };
        let links = &environment.private_links;
        match &request.private_link {
            Some(link) if !links.contains(link) => Err(refuse::undefined("private link", link)
                .with_detail(format!(
                    "Private links of environment {}: {}.",
                    environment.name,
                    if links.is_empty() { "none".to_owned() } else { links.join(", ") }
                ))),
            None if !links.is_empty() => {
                let message = format!("environment \"{}\" has private links", environment.name);
                Err(wrong(message, links)
                    .with_hint("Name one with --private-link-id (option private_link)."))
            }
            link => Ok(Some(NamedRoute {
                environment: environment.name.clone(),
                private_link: link.clone(),
            })),
        }
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

/// How a source in a private network is reached, by names that exist.
#[derive(Clone, Debug)]
pub(super) struct NamedRoute {
    pub(super) environment: String,
    pub(super) private_link: Option<String>,
}

impl NamedRoute {
    /// The route of a connector.
    pub(super) fn of(connector: &Connector) -> Option<Self> {
        let made = connector.made();
        let environment = made.environment.clone()?;
        Some(Self { environment, private_link: made.private_link.clone() })
    }

    fn borrow(&self) -> Route<'_> {
        Route { environment: &self.environment, private_link: self.private_link.as_deref() }
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
