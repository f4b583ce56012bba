//! Environments and private links: kept, listed, and forgotten when no connector needs them.

use std::time::SystemTime;

use super::{ControlPlane, refuse};
use crate::admin::request::{CreateEnvironmentRequest, CreatePrivateLinkRequest};
use crate::admin::row::{EnvironmentRow, PrivateLinkRow};
use crate::admin::{OperationError, Outcome, sqlstate};
use crate::catalog::{EnvironmentRecord, PrivateLinkRecord};
use crate::connector::Connector;
use crate::environment::Way;

/// More than names need, and short enough for every table.
const NAME_BYTES_MAX: usize = 63;

impl ControlPlane {
    pub(super) fn do_create_environment(
        &self,
        request: CreateEnvironmentRequest,
    ) -> Outcome<EnvironmentRow> {
        check_name(&request.name)?;
        let way = Way::parse(&request.url, request.key.as_ref(), request.known_host.as_deref())
            .map_err(|error| {
                OperationError::new(sqlstate::INVALID_PARAMETER, error.to_string())
                    .with_hint("Write ssh://user@host:port or socks5://host:port.")
            })?;
        let record = EnvironmentRecord {
            name: request.name,
            address: way.address(),
            url: self.0.key.seal(&request.url),
            key: request.key.as_ref().map(|key| self.0.key.seal(key)),
            known_host: request.known_host,
            created_at: SystemTime::now(),
        };
        self.0.catalog.insert_environment(&record).map_err(refuse::catalog)?;
        Ok(EnvironmentRow {
            name: record.name,
            address: record.address,
            private_links: Vec::new(),
            connectors: Vec::new(),
            created_at: record.created_at,
        })
    }

    pub(super) fn do_list_environments(&self) -> Outcome<Vec<EnvironmentRow>> {
        let links = self.0.catalog.private_links().map_err(refuse::catalog)?;
        let environments = self.0.catalog.environments().map_err(refuse::catalog)?;
        let row = |environment: EnvironmentRecord| EnvironmentRow {
            private_links: links
                .iter()
                .filter(|link| link.environment == environment.name)
                .map(|link| link.name.clone())
                .collect(),
            connectors: self.users(|made| made.environment.as_ref(), &environment.name),
            name: environment.name,
            address: environment.address,
            created_at: environment.created_at,
        };
        Ok(environments.into_iter().map(row).collect())
    }

    pub(super) fn do_delete_environment(&self, name: &str) -> Outcome<()> {
        let found = self.do_list_environments()?.into_iter().find(|found| found.name == name);
        let found = found.ok_or_else(|| refuse::undefined("environment", name))?;
        refuse_used("environment", name, "connectors", &found.connectors)?;
        refuse_used("environment", name, "private links", &found.private_links)?;
        self.0.catalog.delete_environment(name).map_err(refuse::catalog).map(drop)
    }

    pub(super) fn do_create_private_link(
        &self,
        request: CreatePrivateLinkRequest,
    ) -> Outcome<PrivateLinkRow> {
        check_name(&request.name)?;
        let environments = self.0.catalog.environments().map_err(refuse::catalog)?;
        if !environments.iter().any(|environment| environment.name == request.environment) {
            return Err(refuse::undefined("environment", &request.environment));
        }
        if crate::environment::endpoint(&request.endpoint).is_none() {
            let message = "the endpoint is not host:port";
            return Err(OperationError::new(sqlstate::INVALID_PARAMETER, message)
                .with_hint("Write it as seen from inside, such as 'db.internal:5432'."));
        }
        let record = PrivateLinkRecord {
            name: request.name,
            environment: request.environment,
            endpoint: request.endpoint,
            created_at: SystemTime::now(),
        };
        self.0.catalog.insert_private_link(&record).map_err(refuse::catalog)?;
        Ok(self.private_link_row(record))
    }

    pub(super) fn do_list_private_links(&self) -> Outcome<Vec<PrivateLinkRow>> {
        let links = self.0.catalog.private_links().map_err(refuse::catalog)?;
        Ok(links.into_iter().map(|link| self.private_link_row(link)).collect())
    }

    pub(super) fn do_delete_private_link(&self, name: &str) -> Outcome<()> {
        let found = self.do_list_private_links()?.into_iter().find(|found| found.name == name);
        let found = found.ok_or_else(|| refuse::undefined("private link", name))?;
        refuse_used("private link", name, "connectors", &found.connectors)?;
        self.0.catalog.delete_private_link(name).map_err(refuse::catalog).map(drop)
    }

    fn private_link_row(&self, link: PrivateLinkRecord) -> PrivateLinkRow {
        PrivateLinkRow {
            connectors: self.users(|made| made.private_link.as_ref(), &link.name),
            name: link.name,
            environment: link.environment,
            endpoint: link.endpoint,
            created_at: link.created_at,
        }
    }

    /// Names of the connectors that go through something of that name.
    fn users(
        &self,
        used: impl Fn(&crate::catalog::NewConnector) -> Option<&String>,
        name: &str,
    ) -> Vec<String> {
        let connectors = self.0.connectors.list().into_iter();
        let uses = |connector: &std::sync::Arc<Connector>| {
            used(connector.made()).is_some_and(|used| used == name)
        };
        connectors.filter(uses).map(|connector| connector.name().to_owned()).collect()
    }
}

/// Letters, digits, `_` and `-`: `env_1`, `epl_123`.
fn check_name(name: &str) -> Outcome<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(());
    }
    Err(OperationError::new(sqlstate::INVALID_PARAMETER, "invalid name")
        .with_detail("A name is 1 to 63 letters, digits, underscores and hyphens."))
}

fn refuse_used(kind: &str, name: &str, by: &str, users: &[String]) -> Outcome<()> {
    if users.is_empty() {
        return Ok(());
    }
    let message = format!("{kind} \"{name}\" is in use");
    Err(OperationError::new(sqlstate::DEPENDENTS_EXIST, message)
        .with_detail(format!("Used by {by}: {}.", users.join(", ")))
        .with_hint("Delete them first."))
}
