//! TRUNCATE, and the savepoint it and other single statements run under.

use crate::source::TableName;

use super::applier::{Applier, MISSING};
use super::cache::Known;
use super::error::{Error, at_trunk};
use super::quarantine;

impl Applier {
    pub(super) async fn truncate(&mut self, names: &[TableName]) -> Result<(), Error> {
        self.run_round().await?;
        let mut quoted = Vec::new();
        for name in names {
            // Partitions are named themselves; their parent has no rows of its own.
            if self.quarantined.contains(name) {
                continue;
            }
            match self.cache.table(&self.session, name).await? {
                Known::Yes(_) => quoted.push(format!("ONLY {}", name.quoted())),
                Known::Derived => {}
                Known::Missing => self.discover(name, MISSING),
                Known::No(reason) => self.discover(name, &reason),
            }
        }
        if quoted.is_empty() {
            return Ok(());
        }
        self.begin().await?;
        let sql = format!("TRUNCATE {}", quoted.join(", "));
        if self.guarded(self.session.batch_execute(&sql)).await?.is_ok() {
            return Ok(());
        }
        // A table that is not followed refers to one of these. Deleting asks no foreign key here.
        let deletes: Vec<String> =
            quoted.iter().map(|name| format!("DELETE FROM {name}")).collect();
        let outcome = self.guarded(self.session.batch_execute(&deletes.join("; "))).await?;
        if let Err(said) = outcome {
            for name in names {
                self.discover(name, &format!("truncate failed: {said}"));
            }
        }
        Ok(())
    }

    /// Runs one statement under a savepoint; the text of its error if it failed.
    pub(super) async fn guarded<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<Result<(), String>, Error> {
        self.session.batch_execute("SAVEPOINT guard").await.map_err(at_trunk)?;
        let outcome = work.await;
        let said = match outcome {
            Ok(_) => None,
            Err(error) => match error.as_db_error() {
                Some(db) if quarantine::is_about_the_row(db.code()) => {
                    Some(db.message().to_owned())
                }
                _ => return Err(at_trunk(error)),
            },
        };
        let end = if said.is_some() { "ROLLBACK TO SAVEPOINT guard" } else { "RELEASE guard" };
        self.session.batch_execute(end).await.map_err(at_trunk)?;
        Ok(said.map_or(Ok(()), Err))
    }
}
