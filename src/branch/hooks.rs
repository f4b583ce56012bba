//! What is done to a new branch before anybody can connect to it: extensions are left out, then the
//! connector's hooks run once, in order.
//!
//! Must never: run a hook as superuser; let a branch whose hook failed become connectable.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::{BranchError, Branches};
use crate::catalog::{BranchRecord, ConnectorId, Hook};
use crate::compute::ComputeError;
use crate::connector::Connector;
use crate::postgres::{PostgresError, Session};

/// The longest a hook may run: masking rewrites tables, but somebody waits for the branch.
const HOOK_MAX: Duration = Duration::from_secs(1800);

impl Branches {
    /// Runs everything; the error names the hook that failed and keeps Postgres' words.
    pub(super) async fn dress(
        &self,
        branch: &BranchRecord,
        connector: &Connector,
        socket_dir: &Path,
    ) -> Result<(), BranchError> {
        let dropped = connector.drop_extensions();
        if !dropped.is_empty() {
            drop_extensions(socket_dir, &branch.made.database, &dropped).await?;
        }
        for hook in self.hooks(branch.made.connector)? {
            let database = hook.database.as_deref().unwrap_or(&branch.made.database);
            let run = Session::run_as(socket_dir, database, hook.run_as.as_deref(), &hook.sql);
            let reason = match timeout(HOOK_MAX, run).await {
                Ok(Ok(())) => continue,
                Ok(Err(PostgresError::ScriptFailed(said))) => said,
                Ok(Err(error)) => crate::cause::Causes(&error).to_string(),
                Err(_) => format!("took longer than {} s", HOOK_MAX.as_secs()),
            };
            return Err(BranchError::Hook {
                branch: branch.made.name.clone(),
                hook: hook.name,
                reason,
            });
        }
        Ok(())
    }

    fn hooks(&self, connector: ConnectorId) -> Result<Vec<Hook>, BranchError> {
        Ok(self.services.catalog.hooks(connector)?)
    }
}

async fn drop_extensions(
    socket_dir: &Path,
    database: &str,
    names: &[String],
) -> Result<(), ComputeError> {
    let failed = std::sync::Arc::new;
    let session = Session::connect(socket_dir, database).await.map_err(failed)?;
    Ok(session.drop_extensions(names).await.map_err(failed)?)
}
