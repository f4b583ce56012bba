//! Settings of connectors: what is kept, and as operators see it.

use std::time::Duration;

use super::{ControlPlane, refuse, rows};
use crate::admin::request::{HookChange, SettingChange};
use crate::admin::row::{ConnectorUpdateRow, SettingRow};
use crate::admin::{Caller, OperationError, Outcome, sqlstate};
use crate::catalog::{Hook, SettingKey};
use crate::connector::Connector;
use crate::name::Name;

impl ControlPlane {
    pub(super) fn do_update_connector(
        &self,
        name: Name,
        drop_extensions: Vec<String>,
    ) -> Outcome<ConnectorUpdateRow> {
        let connector = self.connector(name.as_str())?;
        let set = self.0.connectors.set_drop_extensions(&connector, drop_extensions);
        set.map_err(refuse::connector)?;
        Ok(ConnectorUpdateRow { name, drop_extensions: connector.drop_extensions() })
    }

    /// Every key, and for `branch_sql` every hook.
    pub(super) fn do_list_settings(&self, caller: &Caller) -> Outcome<Vec<SettingRow>> {
        let connector = self.current_connector(caller)?;
        let mut settings = self.0.catalog.settings(connector.id()).map_err(refuse::catalog)?;
        let hooks = self.0.catalog.hooks(connector.id()).map_err(refuse::catalog)?;
        let mut listed = Vec::new();
        for key in SettingKey::ALL {
            if key == SettingKey::BranchSql && !hooks.is_empty() {
                for hook in &hooks {
                    listed.push(hook_row(&connector, hook)?);
                }
            } else {
                listed.push(row(&connector, key, settings.remove(&key))?);
            }
        }
        Ok(listed)
    }

    pub(super) fn do_set_setting(
        &self,
        caller: &Caller,
        change: SettingChange,
    ) -> Outcome<SettingRow> {
        let connector = self.current_connector(caller)?;
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        let (key, value) = match change {
            SettingChange::BranchSql(change) => return self.set_hook(&connector, change),
            SettingChange::DefaultDb(database) => (SettingKey::DefaultDb, database),
            SettingChange::SuspendAfter(limit) => (SettingKey::SuspendAfter, milliseconds(limit)),
            SettingChange::FreshnessTimeout(limit) => {
                (SettingKey::FreshnessTimeout, milliseconds(limit))
            }
        };
        let stored = self.0.catalog.set_setting(connector.id(), key, &value);
        stored.map_err(refuse::catalog)?;
        row(&connector, key, Some(value))
    }

    /// A hook keeps what a change does not name; an empty text is the default again.
    fn set_hook(&self, connector: &Connector, change: HookChange) -> Outcome<SettingRow> {
        let unnamed = || SettingKey::BranchSql.as_str().to_owned();
        let name = change.name.unwrap_or_else(unnamed);
        let hooks = self.0.catalog.hooks(connector.id()).map_err(refuse::catalog)?;
        let before = hooks.into_iter().find(|hook| hook.name == name);
        let (position, database, run_as) = match before {
            Some(hook) => (hook.position, hook.database, hook.run_as),
            None => (0, None, None),
        };
        let changed = |given: Option<String>, before| match given {
            Some(text) => Some(text).filter(|text| !text.is_empty()),
            None => before,
        };
        let hook = Hook {
            name,
            position: change.position.unwrap_or(position),
            sql: change.sql,
            database: changed(change.database, database),
            run_as: changed(change.run_as, run_as),
        };
        self.0.catalog.set_hook(connector.id(), &hook).map_err(refuse::catalog)?;
        hook_row(connector, &hook)
    }

    pub(super) fn do_remove_setting(
        &self,
        caller: &Caller,
        key: SettingKey,
        hook: Option<&str>,
    ) -> Outcome<()> {
        let connector = self.current_connector(caller)?;
        let (what, removed) = match (key, hook) {
            (SettingKey::BranchSql, hook) => {
                (hook, self.0.catalog.remove_hooks(connector.id(), hook))
            }
            (_, Some(_)) => {
                let message = "option \"hook\" is for branch_sql only";
                return Err(OperationError::new(sqlstate::INVALID_PARAMETER, message));
            }
            (key, None) => (None, self.0.catalog.remove_setting(connector.id(), key)),
        };
        match (removed.map_err(refuse::catalog)?, what) {
            (false, Some(hook)) => {
                let message = format!("hook \"{hook}\" does not exist");
                Err(OperationError::new(sqlstate::UNDEFINED_OBJECT, message)
                    .with_hint("ARDENT SETTINGS LIST shows what is set."))
            }
            // What is not set is at its default already.
            _ => Ok(()),
        }
    }
}

fn row(connector: &Connector, key: SettingKey, value: Option<String>) -> Outcome<SettingRow> {
    let value = match key {
        SettingKey::SuspendAfter | SettingKey::FreshnessTimeout => {
            value.and_then(|text| text.parse().ok()).map(duration)
        }
        SettingKey::DefaultDb | SettingKey::BranchSql => value,
    };
    Ok(SettingRow {
        connector: rows::name(connector.name())?,
        key: key.as_str(),
        value,
        summary: summary(key),
        hook: None,
        position: None,
        database: None,
        run_as: None,
    })
}

fn hook_row(connector: &Connector, hook: &Hook) -> Outcome<SettingRow> {
    Ok(SettingRow {
        value: Some(hook.sql.clone()),
        hook: Some(hook.name.clone()),
        position: Some(hook.position),
        database: hook.database.clone(),
        run_as: hook.run_as.clone(),
        ..row(connector, SettingKey::BranchSql, None)?
    })
}

fn summary(key: SettingKey) -> &'static str {
    match key {
        SettingKey::DefaultDb => "Database that URLs of new branches name",
        SettingKey::BranchSql => "SQL to run on every new branch after creation",
        SettingKey::SuspendAfter => "Idle time after which a branch is suspended; 0 for never",
        SettingKey::FreshnessTimeout => "How long branch create waits for the source's position",
    }
}

/// In the largest unit that divides it.
fn duration(milliseconds: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let fits = |(unit, _): &&(u64, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn lengths_of_time_come_back_as_they_are_written() {
        let shown = [0, 250, 30_000, 900_000, 5_400_000, 172_800_000].map(duration);
        assert_eq!(shown, ["0ms", "250ms", "30s", "15min", "90min", "2d"]);
    }
}
