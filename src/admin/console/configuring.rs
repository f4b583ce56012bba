//! Statements about what connectors are set up with, and the ways they take.

use proxy::Value;

use super::{AdminConsole, Rows};
use crate::admin::columns;
use crate::admin::operations::{Caller, Operations};
use crate::admin::statement::Statement;

impl<O: Operations> AdminConsole<O> {
    /// What connectors are set up with, and the ways they take.
    pub(super) async fn configure(&self, caller: &Caller, statement: Statement) -> Rows {
        let operations = &self.operations;
        Ok(match statement {
            Statement::ConnectorUpdate { name, drop_extensions } => {
                let row = operations.update_connector(name, drop_extensions).await?;
                vec![columns::connector_update(row)]
            }
            Statement::QuarantineList(name) => {
                let rows = operations.list_quarantine(caller, name).await?;
                rows.into_iter().map(columns::quarantine).collect()
            }
            Statement::QuarantineRelease { name, table } => {
                let row = operations.release_quarantine(caller, name, table).await?;
                vec![columns::quarantine(row)]
            }
            Statement::SettingsList => {
                let rows = operations.list_settings(caller).await?;
                rows.into_iter().map(columns::setting).collect()
            }
            Statement::SettingsSet(change) => {
                vec![columns::setting(operations.set_setting(caller, change).await?)]
            }
            Statement::SettingsRemove { key, hook } => {
                operations.remove_setting(caller, key, hook.clone()).await?;
                vec![vec![columns::text(key.as_str()), hook.map_or(Value::Null, Value::Text)]]
            }
            Statement::EnvironmentCreate(request) => {
                vec![columns::environment(operations.create_environment(request).await?)]
            }
            Statement::EnvironmentList => {
                let rows = operations.list_environments().await?;
                rows.into_iter().map(columns::environment).collect()
            }
            Statement::EnvironmentDelete(name) => {
                operations.delete_environment(&name).await?;
                vec![vec![Value::Text(name)]]
            }
            Statement::PrivateLinkCreate(request) => {
                vec![columns::private_link(operations.create_private_link(request).await?)]
            }
            Statement::PrivateLinkList => {
                let rows = operations.list_private_links().await?;
                rows.into_iter().map(columns::private_link).collect()
            }
            Statement::PrivateLinkDelete(name) => {
                operations.delete_private_link(&name).await?;
                vec![vec![Value::Text(name)]]
            }
            other => return self.show(other).await,
        })
    }
}
