//! Objects looked at outside of any message: before a table is copied again, and after.

use proxy::client::Session;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::super::applier::Applier;
use super::super::error::{Error, at_look, at_source, at_trunk};
use super::super::resync::NUDGE_SQL;
use super::describe;
use super::object::Object;

const SOURCE_OPTIONS: &str = "-c statement_timeout=60s -c lock_timeout=10s";

const EXISTS_SQL: &str = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";

impl Applier {
    /// Makes the table what it is on the source now, so that its rows fit. A change of it that is
    /// still to come in the stream finds it done, or begins the copy anew. Returns a position of
    /// the source's log that whatever was seen lies before; none if the source has no such table.
    pub(in super::super) async fn repair(
        &mut self,
        table: &TableName,
    ) -> Result<Option<Lsn>, Error> {
        let target = self.replay.link.source_target(SOURCE_OPTIONS);
        let session = Session::open(&target).await.map_err(at_source)?;
        let seen = see(&session, table).await;
        session.close().await;
        let (objects, position) = seen?;
        if objects.is_empty() {
            return Ok(None);
        }
        self.begin().await?;
        self.equalize(&objects).await?;
        self.forget_shapes();
        self.commit_aside().await?;
        Ok(Some(position))
    }

    pub(in super::super) async fn is_on_source(&self, table: &TableName) -> Result<bool, Error> {
        let target = self.replay.link.source_target(SOURCE_OPTIONS);
        let session = Session::open(&target).await.map_err(at_source)?;
        let row = session.query_one(EXISTS_SQL, &[&table.quoted()]).await;
        session.close().await;
        row.and_then(|row| row.try_get(0)).map_err(at_look)
    }

    pub(in super::super) async fn has_table(&self, table: &TableName) -> Result<bool, Error> {
        let row = self.session.query_one(EXISTS_SQL, &[&table.quoted()]).await.map_err(at_trunk)?;
        row.try_get(0).map_err(at_trunk)
    }

    /// Tries once more what could not be made equal while rows were missing, such as a foreign key
    /// to a table that was being copied.
    pub(in super::super) async fn retry_unequal(&mut self) -> Result<(), Error> {
        let objects = std::mem::take(&mut self.replay.unequal);
        self.run_round().await?;
        self.begin().await?;
        self.equalize(&objects).await?;
        self.forget_shapes();
        Ok(())
    }
}

/// The table, and a message of ours after it.
async fn see(session: &Session, table: &TableName) -> Result<(Vec<Object>, Lsn), Error> {
    let objects = describe::table(session, table).await?;
    let row = session.query_one(NUDGE_SQL, &[]).await.map_err(at_look)?;
    let position: String = row.try_get(0).map_err(at_look)?;
    let damaged = |_| Error::Decode("a position of the log");
    Ok((objects, position.parse().map_err(damaged)?))
}
