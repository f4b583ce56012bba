//! Environments and private links in the catalog: named ways into private networks.

use std::time::SystemTime;

use rusqlite::{Row, params};

use super::{Catalog, CatalogError, from_micros, taken, to_micros};

/// A way into a private network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentRecord {
    /// Unique name.
    pub name: String,
    /// `ssh://user@host:port` or `socks5://host:port`, without a password.
    pub address: String,
    /// The whole URL, sealed.
    pub url: Vec<u8>,
    /// Private key for ssh, sealed.
    pub key: Option<Vec<u8>>,
    /// The host's public key, a line of `known_hosts`.
    pub known_host: Option<String>,
    /// When it was made.
    pub created_at: SystemTime,
}

/// A named endpoint inside an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateLinkRecord {
    /// Unique name.
    pub name: String,
    /// The environment.
    pub environment: String,
    /// `host:port`, as seen from inside.
    pub endpoint: String,
    /// When it was made.
    pub created_at: SystemTime,
}

impl Catalog {
    /// Stores a new environment.
    pub fn insert_environment(&self, new: &EnvironmentRecord) -> Result<(), CatalogError> {
        let sql = "INSERT INTO environment VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let EnvironmentRecord { name, address, url, key, known_host, created_at } = new;
        self.lock()
            .execute(sql, params![name, address, url, key, known_host, to_micros(*created_at)])
            .map_err(|error| taken(error, || format!("environment \"{name}\"")))?;
        Ok(())
    }

    /// All environments by name.
    pub fn environments(&self) -> Result<Vec<EnvironmentRecord>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT name, address, url, key, known_host, created_at FROM environment ORDER BY name",
        )?;
        let read = |row: &Row<'_>| {
            Ok(EnvironmentRecord {
                name: row.get(0)?,
                address: row.get(1)?,
                url: row.get(2)?,
                key: row.get(3)?,
                known_host: row.get(4)?,
                created_at: from_micros(row.get(5)?),
            })
        };
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// Forgets an environment that nothing uses; says whether there was one.
    pub fn delete_environment(&self, name: &str) -> Result<bool, CatalogError> {
        let sql = "DELETE FROM environment WHERE name = ?1";
        Ok(self.lock().execute(sql, params![name])? > 0)
    }

    /// Stores a new private link; its environment must exist.
    pub fn insert_private_link(&self, new: &PrivateLinkRecord) -> Result<(), CatalogError> {
        let sql = "INSERT INTO private_link VALUES (?1, ?2, ?3, ?4)";
        let PrivateLinkRecord { name, environment, endpoint, created_at } = new;
        self.lock()
            .execute(sql, params![name, environment, endpoint, to_micros(*created_at)])
            .map_err(|error| taken(error, || format!("private link \"{name}\"")))?;
        Ok(())
    }

    /// All private links by name.
    pub fn private_links(&self) -> Result<Vec<PrivateLinkRecord>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT name, environment, endpoint, created_at FROM private_link ORDER BY name",
        )?;
        let read = |row: &Row<'_>| {
            Ok(PrivateLinkRecord {
                name: row.get(0)?,
                environment: row.get(1)?,
                endpoint: row.get(2)?,
                created_at: from_micros(row.get(3)?),
            })
        };
        Ok(statement.query_map([], read)?.collect::<Result<_, _>>()?)
    }

    /// Forgets a private link that no connector uses; says whether there was one.
    pub fn delete_private_link(&self, name: &str) -> Result<bool, CatalogError> {
        let sql = "DELETE FROM private_link WHERE name = ?1";
        Ok(self.lock().execute(sql, params![name])? > 0)
    }
}
