//! Settings of a connector in the catalog, and the hooks that run on its new branches.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::{Row, params};
use storage::BranchId;

use super::{Catalog, CatalogError, ConnectorId, stored_number};

/// What can be set for a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingKey {
    /// The database that URLs of new branches name.
    DefaultDb,
    /// The hooks; these are kept apart.
    BranchSql,
    /// Idle time after which a branch is suspended, in milliseconds.
    SuspendAfter,
    /// Longest wait for freshness at branch creation, in milliseconds.
    FreshnessTimeout,
}

impl SettingKey {
    /// All keys in the order operators see them.
    pub const ALL: [Self; 4] =
        [Self::DefaultDb, Self::BranchSql, Self::SuspendAfter, Self::FreshnessTimeout];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DefaultDb => "default_db",
            Self::BranchSql => "branch_sql",
            Self::SuspendAfter => "suspend_after",
            Self::FreshnessTimeout => "freshness_timeout",
        }
    }

    /// The key of that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == text)
    }
}

/// SQL that runs once on every new branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Unique within its connector.
    pub name: String,
    /// Lower ones run first; equal ones by name.
    pub position: i64,
    /// What runs, as one transaction unless it says otherwise.
    pub sql: String,
    /// The database it runs in; none means the source's.
    pub database: Option<String>,
    /// The role it runs as; none means the owner of the branch.
    pub run_as: Option<String>,
}

impl Catalog {
    /// What has been set for a connector.
    pub fn settings(
        &self,
        connector: ConnectorId,
    ) -> Result<BTreeMap<SettingKey, String>, CatalogError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT key, value FROM setting WHERE connector = ?1")?;
        let mut rows = statement.query(params![connector.0])?;
        let mut settings = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let key = SettingKey::parse(&row.get::<_, String>(0)?);
            settings.insert(key.ok_or(CatalogError::Damaged("setting"))?, row.get(1)?);
        }
        Ok(settings)
    }

    /// A setting that is a length of time, if it is set.
    pub fn duration_setting(
        &self,
        connector: ConnectorId,
        key: SettingKey,
    ) -> Result<Option<Duration>, CatalogError> {
        let Some(text) = self.settings(connector)?.remove(&key) else { return Ok(None) };
        let milliseconds = text.parse().map_err(|_| CatalogError::Damaged("setting"))?;
        Ok(Some(Duration::from_millis(milliseconds)))
    }

    /// Idle times after which branches are suspended, where their connectors set one.
    pub fn suspend_limits(&self) -> Result<BTreeMap<BranchId, Duration>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT branch.number, setting.value FROM setting \
             JOIN branch ON branch.connector = setting.connector WHERE setting.key = ?1",
        )?;
        let mut rows = statement.query(params![SettingKey::SuspendAfter.as_str()])?;
        let mut limits = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let milliseconds = row.get::<_, String>(1)?.parse();
            let milliseconds = milliseconds.map_err(|_| CatalogError::Damaged("setting"))?;
            limits.insert(stored_number(row.get(0)?)?, Duration::from_millis(milliseconds));
        }
        Ok(limits)
    }

    /// Sets a key.
    pub fn set_setting(
        &self,
        connector: ConnectorId,
        key: SettingKey,
        value: &str,
    ) -> Result<(), CatalogError> {
        let sql = "INSERT OR REPLACE INTO setting VALUES (?1, ?2, ?3)";
        self.lock().execute(sql, params![connector.0, key.as_str(), value])?;
        Ok(())
    }

    /// Forgets a key; says whether it was set.
    pub fn remove_setting(
        &self,
        connector: ConnectorId,
        key: SettingKey,
    ) -> Result<bool, CatalogError> {
        let sql = "DELETE FROM setting WHERE connector = ?1 AND key = ?2";
        Ok(self.lock().execute(sql, params![connector.0, key.as_str()])? > 0)
    }

    /// The hooks of a connector in the order they run.
    pub fn hooks(&self, connector: ConnectorId) -> Result<Vec<Hook>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT name, position, sql, database, run_as FROM hook WHERE connector = ?1 \
             ORDER BY position, name",
        )?;
        let hook = |row: &Row<'_>| {
            Ok(Hook {
                name: row.get(0)?,
                position: row.get(1)?,
                sql: row.get(2)?,
                database: row.get(3)?,
                run_as: row.get(4)?,
            })
        };
        Ok(statement.query_map(params![connector.0], hook)?.collect::<Result<_, _>>()?)
    }

    /// Stores a hook in place of one of the same name.
    pub fn set_hook(&self, connector: ConnectorId, hook: &Hook) -> Result<(), CatalogError> {
        let sql = "INSERT OR REPLACE INTO hook VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let Hook { name, position, sql: text, database, run_as } = hook;
        self.lock().execute(sql, params![connector.0, name, position, text, database, run_as])?;
        Ok(())
    }

    /// Forgets one hook, or all; says whether there was one.
    pub fn remove_hooks(
        &self,
        connector: ConnectorId,
        name: Option<&str>,
    ) -> Result<bool, CatalogError> {
        let sql = "DELETE FROM hook WHERE connector = ?1 AND (?2 IS NULL OR name = ?2)";
        Ok(self.lock().execute(sql, params![connector.0, name])? > 0)
    }
}
