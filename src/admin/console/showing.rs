//! `ARDENT SHOW`: what the server is doing.

use super::{AdminConsole, Rows};
use crate::admin::columns;
use crate::admin::operations::Operations;
use crate::admin::statement::Statement;

impl<O: Operations> AdminConsole<O> {
    /// What the server is doing.
    pub(super) async fn show(&self, statement: Statement) -> Rows {
        let operations = &self.operations;
        match statement {
            Statement::ShowSessions => {
                Ok(operations.sessions().await?.into_iter().map(columns::session).collect())
            }
            Statement::ShowComputes => {
                Ok(operations.computes().await?.into_iter().map(columns::compute).collect())
            }
            Statement::ShowMetrics => {
                let samples = operations.metrics().await?;
                Ok(samples.iter().filter_map(columns::metric).collect())
            }
            Statement::ShowJobs => {
                Ok(operations.jobs().await?.into_iter().map(columns::job).collect())
            }
            Statement::ShowConfig => {
                Ok(operations.config()?.into_iter().map(columns::config).collect())
            }
            other => {
                debug_assert!(false, "{other:?} is executed elsewhere");
                Ok(Vec::new())
            }
        }
    }
}
