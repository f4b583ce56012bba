//! Tables that are no longer followed: kept by name in the trunk, so that every branch names them.

use std::time::SystemTime;

use proxy::client::Session;
use tokio_postgres::error::SqlState;

use crate::source::TableName;

use super::applier::Applier;
use super::error::{Error, at_trunk};
use super::status::Quarantined;

/// Notes a table. The first reason stays: later ones are its consequences.
pub(super) async fn add(
    session: &Session,
    entry: &Quarantined,
) -> Result<(), tokio_postgres::Error> {
    let Quarantined { table, reason, lsn, is_resync_due, .. } = entry;
    session
        .execute(
            "INSERT INTO ardent.quarantine (schema_name, table_name, reason, lsn, is_resync_due)
             VALUES ($1, $2, $3, $4::text::pg_lsn, $5) ON CONFLICT DO NOTHING",
            &[&table.schema, &table.name, reason, &lsn.to_string(), is_resync_due],
        )
        .await?;
    Ok(())
}

/// Notes that a table is to be copied again.
pub(super) async fn schedule(
    session: &Session,
    table: &TableName,
) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE ardent.quarantine SET is_resync_due = true
                WHERE schema_name = $1 AND table_name = $2";
    session.execute(sql, &[&table.schema, &table.name]).await?;
    Ok(())
}

/// How many parts of a table's copy are in the trunk.
pub(super) async fn parts_done(
    session: &Session,
    table: &TableName,
) -> Result<i64, tokio_postgres::Error> {
    let sql = "SELECT copied_parts FROM ardent.quarantine
                WHERE schema_name = $1 AND table_name = $2";
    session.query_one(sql, &[&table.schema, &table.name]).await?.try_get(0)
}

/// Counts a part, in the transaction that copies it.
pub(super) async fn count_part(
    session: &Session,
    table: &TableName,
    done: i64,
) -> Result<(), tokio_postgres::Error> {
    let sql = "UPDATE ardent.quarantine SET copied_parts = $3
                WHERE schema_name = $1 AND table_name = $2";
    session.execute(sql, &[&table.schema, &table.name, &done]).await?;
    Ok(())
}

/// Takes a table out.
pub(super) async fn remove(
    session: &Session,
    table: &TableName,
) -> Result<(), tokio_postgres::Error> {
    let sql = "DELETE FROM ardent.quarantine WHERE schema_name = $1 AND table_name = $2";
    session.execute(sql, &[&table.schema, &table.name]).await?;
    Ok(())
}

/// All tables noted.
pub(super) async fn load(session: &Session) -> Result<Vec<Quarantined>, tokio_postgres::Error> {
    let rows = session
        .query(
            "SELECT schema_name, table_name, reason, lsn::text, is_resync_due, since FROM ardent.quarantine
              ORDER BY 1, 2",
            &[],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let lsn: String = row.try_get(3)?;
            Ok(Quarantined {
                table: TableName { schema: row.try_get(0)?, name: row.try_get(1)? },
                reason: row.try_get(2)?,
                lsn: lsn.parse().unwrap_or_default(),
                is_resync_due: row.try_get(4)?,
                since: row.try_get(5)?,
            })
        })
        .collect()
}

impl Applier {
    /// Quarantines a table from the last commit on.
    pub(super) fn discover(&mut self, table: &TableName, reason: &str) {
        self.divert(table, reason, false);
    }

    /// Quarantines a table, perhaps only until it is copied again.
    pub(super) fn divert(&mut self, table: &TableName, reason: &str, is_resync_due: bool) {
        if self.quarantined.insert(table.clone()) {
            let lsn = self.progress.lsn;
            let reason = reason.to_owned();
            let since = SystemTime::now();
            if is_resync_due {
                self.resyncs.add(table);
            }
            let table = table.clone();
            self.discovered.push(Quarantined { table, reason, lsn, is_resync_due, since });
        }
    }

    /// Quarantines a table whose change the plugin could not send. Where it has an identity that is
    /// the plugin's fault, and a copy of the table brings what is missing.
    pub(super) async fn lose(&mut self, table: &TableName, said: &str) -> Result<(), Error> {
        // Of a table without one, every update is lost: the first says it all.
        if self.quarantined.contains(table) {
            return Ok(());
        }
        self.settle().await?;
        let row = self.session.query_one(HAS_IDENTITY_SQL, &[&table.quoted()]).await;
        let has_identity = row.and_then(|row| row.try_get(0)).map_err(at_trunk)?;
        let is_resync_due = has_identity && self.resyncs.may_mend(table);
        self.divert(table, said, is_resync_due);
        Ok(())
    }

    /// Takes a table out of quarantine.
    pub(super) async fn pardon(&mut self, table: &TableName) -> Result<(), Error> {
        self.discovered.retain(|entry| entry.table != *table);
        self.resyncs.forget(table);
        if self.quarantined.remove(table) {
            self.begin().await?;
            remove(&self.session, table).await.map_err(at_trunk)?;
            self.shared.pardon(table);
        }
        Ok(())
    }

    /// Keeps a table in quarantine under its new name.
    pub(super) async fn requarantine(
        &mut self,
        from: &TableName,
        to: &TableName,
    ) -> Result<(), Error> {
        let status = self.shared.status();
        let mut found = status.quarantined.into_iter().chain(self.discovered.iter().cloned());
        let Some(entry) = found.find(|entry| entry.table == *from) else { return Ok(()) };
        self.pardon(from).await?;
        self.divert(to, &entry.reason, entry.is_resync_due);
        Ok(())
    }
}

/// True if the error says something about the data or the table, so that trying again is futile
/// and only this table is concerned: classes 21 to 44 but for transaction trouble, and P0 raised
/// by a function of the source.
pub(super) fn is_about_the_row(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "0A" | "21" | "22" | "23" | "2F" | "38" | "39" | "42" | "44" | "54" | "P0")
}

const HAS_IDENTITY_SQL: &str = "\
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_class c
   WHERE c.oid = pg_catalog.to_regclass($1) AND (c.relreplident = 'f' OR EXISTS (
     SELECT FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END)))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_the_trunk_is_no_tables_fault() {
        // Disk full, memory, shutdown, deadlock, a failed transaction, I/O, damage.
        for code in ["53100", "53200", "57P01", "40P01", "25P02", "58030", "XX001", "08006"] {
            assert!(!is_about_the_row(&SqlState::from_code(code)), "{code}");
        }
        for code in ["23505", "22P02", "42703", "P0001", "21000", "0A000"] {
            assert!(is_about_the_row(&SqlState::from_code(code)), "{code}");
        }
    }
}
