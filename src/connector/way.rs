//! The way from a connector to its source: straight, or through an environment.

use super::{ConnectorError, Connectors};
use crate::catalog::ConnectorRecord;
use crate::environment::{self, Gateway, Way};
use crate::source::SourceUrl;

/// Of the directories with a gateway's sockets, below `run/`.
const DIRECTORY_PREFIX: &str = "way-";

/// How a source in a private network is reached.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// The environment.
    pub environment: &'a str,
    /// The endpoint inside it; none means the URL's own.
    pub private_link: Option<&'a str>,
}

impl Connectors {
    /// The source as it is reached, and the gateway that leads there if there has to be one.
    pub(super) fn gateway(
        &self,
        record: &ConnectorRecord,
        source: SourceUrl,
    ) -> Result<(SourceUrl, Option<Gateway>), ConnectorError> {
        let Some(environment) = &record.made.environment else { return Ok((source, None)) };
        let route = Route { environment, private_link: record.made.private_link.as_deref() };
        let directory = record.id.to_string();
        let (gateway, source) = self.open_gateway(route, &directory, &source)?;
        Ok((source, Some(gateway)))
    }

    /// Removes the sockets that a killed server left.
    pub(super) fn remove_dead_gateways(&self) {
        let entries = std::fs::read_dir(self.services.data_dir.run()).into_iter().flatten();
        let dead = entries.flatten().filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with(DIRECTORY_PREFIX))
        });
        for entry in dead {
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, "sockets of a gateway stay behind");
            }
        }
    }

    /// Opens a way to a source, with its sockets in a directory of that name; the source comes back
    /// as it is reached through it.
    pub fn open_gateway(
        &self,
        route: Route<'_>,
        directory: &str,
        source: &SourceUrl,
    ) -> Result<(Gateway, SourceUrl), ConnectorError> {
        let (way, endpoint) = self.way(route, source)?;
        let directory = format!("{DIRECTORY_PREFIX}{directory}");
        let directory = self.services.data_dir.run().join(directory);
        let (gateway, target) = Gateway::open(&directory, way, endpoint, source.target())
            .map_err(ConnectorError::Gateway)?;
        Ok((gateway, SourceUrl::reached_as(target)))
    }

    /// The way of a route, and where its far end connects to.
    pub fn way(
        &self,
        route: Route<'_>,
        source: &SourceUrl,
    ) -> Result<(Way, (String, u16)), ConnectorError> {
        let catalog = &self.services.catalog;
        let lacking = || ConnectorError::NoWay(route.environment.to_owned());
        let mut environments = catalog.environments()?.into_iter();
        let stored = environments.find(|found| found.name == route.environment);
        let stored = stored.ok_or_else(lacking)?;
        let url = self.services.key.open(&stored.url)?;
        let key = stored.key.map(|key| self.services.key.open(&key)).transpose()?;
        let way = Way::parse(&url, key.as_ref(), stored.known_host.as_deref())?;
        let endpoint = match route.private_link {
            Some(name) => {
                let link = catalog.private_links()?.into_iter().find(|link| link.name == name);
                link.and_then(|link| environment::endpoint(&link.endpoint)).ok_or_else(lacking)?
            }
            None => environment::endpoint(&source.address()).ok_or_else(lacking)?,
        };
        Ok((way, endpoint))
    }
}
