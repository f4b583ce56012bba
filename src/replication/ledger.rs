//! What of a first copy is in the trunk already, kept there until the copy is whole: so that one
//! that was cut short goes on with the tables that are missing.
//!
//! | in schema `ardent` | written |
//! |---|---|
//! | `first_copy`: what was asked for, the slot, its position X, the dump | with all tables empty |
//! | `copied`: each table with its shape at X | then too |
//! | `copied.lsn`: the position the table was copied at | after its last row |
//! | `first_copy.unmet` | with the progress row, if tables stand at several positions |
//!
//! A copy that was never cut short has all tables at X and leaves nothing here. After one that went
//! on, a table is at X or past it: the trunk is *uneven* until the stream is past them all, and the
//! row stays until then.

use proxy::client::{Session, quote_identifier};
use tokio_postgres::Error as SqlError;

use crate::lsn::Lsn;
use crate::source::{Identity, TableName};

use super::error::{Error, at_trunk};
use super::link::{Link, TrunkAccess};
use super::progress::{self, Progress};
use super::setup::literal;

/// A first copy under way.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    /// The source and its slot, at the position of the first snapshot.
    pub(super) origin: Progress,
    /// What was to be followed.
    pub(super) terms: String,
    /// The schema at that position, as `pg_dump` writes it.
    pub(super) dump: Vec<u8>,
    /// At that position.
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) warnings: Vec<String>,
    pub(super) tables: Vec<Entry>,
}

/// A table of the first copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) table: TableName,
    /// Equal for what is the same table, unchanged, at two moments.
    pub(super) shape: String,
    /// Holds every commit before this and none after it; none if it is not whole.
    pub(super) copied: Option<Lsn>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct ForeignKey {
    pub(super) schema: String,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) definition: String,
}

/// Foreign keys that could not be made as they are on the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Unmet {
    /// There, and only new rows are checked.
    pub(super) unvalidated: Vec<ForeignKey>,
    pub(super) missing: Vec<ForeignKey>,
}

const NOT_VALID: &str = " NOT VALID";

impl ForeignKey {
    pub(super) fn of(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.table.clone() }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.schema, &self.table, &self.name) == (&other.schema, &other.table, &other.name)
    }

    pub(super) fn is_validated(&self) -> bool {
        !self.definition.ends_with(NOT_VALID)
    }

    pub(super) fn add(&self) -> String {
        let (table, name) = (self.of().quoted(), quote_identifier(&self.name));
        format!("ALTER TABLE {table} ADD CONSTRAINT {name} {}", self.definition)
    }

    pub(super) fn add_unvalidated(&self) -> String {
        let validated = if self.is_validated() { NOT_VALID } else { "" };
        format!("{}{validated}", self.add())
    }

    pub(super) fn validate(&self) -> String {
        let (table, name) = (self.of().quoted(), quote_identifier(&self.name));
        format!("ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    }
}

impl Unmet {
    pub(super) fn warnings(&self) -> Vec<String> {
        let say =
            |key: &ForeignKey, what| format!("foreign key {} of {} {what}", key.name, key.of());
        let unvalidated = self.unvalidated.iter().map(|key| say(key, "is not validated"));
        unvalidated.chain(self.missing.iter().map(|key| say(key, "is not carried over"))).collect()
    }
}

/// What a first copy depends on beside its source.
pub(super) fn terms(link: &Link) -> String {
    format!("{:?}", (link.plugin.as_str(), &link.schemas, &link.excluded))
}

impl Ledger {
    /// Begins it: from here on the copy can go on.
    pub(super) async fn open(&self, system: &Session) -> Result<(), Error> {
        let Progress { identity, slot, lsn, .. } = &self.origin;
        let foreign_keys = serde_json::to_string(&self.foreign_keys)?;
        let (mut schemas, mut names, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for Entry { table, shape, .. } in &self.tables {
            schemas.push(table.schema.as_str());
            names.push(table.name.as_str());
            shapes.push(shape.as_str());
        }
        system.batch_execute("BEGIN").await.map_err(at_trunk)?;
        let Identity { system_identifier, database_oid, timeline } = identity;
        let (system_identifier, database_oid) =
            (system_identifier.to_string(), database_oid.to_string());
        let (timeline, lsn) = (timeline.to_string(), lsn.to_string());
        system
            .execute(
                OPEN_SQL,
                &[
                    slot,
                    &system_identifier,
                    &database_oid,
                    &timeline,
                    &lsn,
                    &self.terms,
                    &self.dump,
                    &foreign_keys,
                    &self.warnings,
                ],
            )
            .await
            .map_err(at_trunk)?;
        system.execute(ENTER_SQL, &[&schemas, &names, &shapes]).await.map_err(at_trunk)?;
        system.batch_execute("COMMIT").await.map_err(at_trunk)
    }

    /// The one in the trunk, if a first copy is under way there.
    pub(super) async fn find(trunk: &TrunkAccess) -> Result<Option<Self>, Error> {
        let Some(system) = progress::open_database(trunk).await? else { return Ok(None) };
        let found = Self::find_in(&system).await;
        system.close().await;
        found
    }

    async fn find_in(system: &Session) -> Result<Option<Self>, Error> {
        let row = system.query_opt(FIND_SQL, &[]).await.map_err(at_trunk)?;
        let Some(row) = row else { return Ok(None) };
        let foreign_keys: String = row.try_get("foreign_keys").map_err(at_trunk)?;
        Ok(Some(Self {
            origin: progress::read(&row)?,
            terms: row.try_get("terms").map_err(at_trunk)?,
            dump: row.try_get("dump").map_err(at_trunk)?,
            foreign_keys: serde_json::from_str(&foreign_keys)?,
            warnings: row.try_get("warnings").map_err(at_trunk)?,
            tables: entries(system).await.map_err(at_trunk)?,
        }))
    }

    /// Ends it, in the transaction that makes the trunk count as a copy. `unmet` is said of a trunk
    /// that is uneven.
    pub(super) async fn close(system: &Session, unmet: Option<&Unmet>) -> Result<(), Error> {
        let Some(unmet) = unmet else { return clear(system).await.map_err(at_trunk) };
        let unmet = serde_json::to_string(unmet)?;
        system.execute(UNEVEN_SQL, &[&unmet]).await.map_err(at_trunk)?;
        Ok(())
    }
}

/// SQL that notes that a table is whole, for after its last row.
pub(super) fn mark_sql(table: &TableName, at: Lsn) -> String {
    let (schema, name) = (literal(&table.schema), literal(&table.name));
    format!(
        "UPDATE ardent.copied SET lsn = '{at}' WHERE schema_name = {schema} AND table_name = {name}"
    )
}

/// All tables of the copy.
pub(super) async fn entries(session: &Session) -> Result<Vec<Entry>, SqlError> {
    let sql = "SELECT schema_name, table_name, shape, lsn::text FROM ardent.copied ORDER BY 1, 2";
    let entry = |row: &tokio_postgres::Row| {
        let lsn: Option<String> = row.try_get(3)?;
        Ok(Entry {
            table: TableName { schema: row.try_get(0)?, name: row.try_get(1)? },
            shape: row.try_get(2)?,
            // A table whose mark does not read is not whole.
            copied: lsn.and_then(|lsn| lsn.parse().ok()),
        })
    };
    session.query(sql, &[]).await?.iter().map(entry).collect()
}

/// True of a trunk whose tables stand at several positions: the stream has to bring them to one.
pub async fn is_uneven(trunk: &TrunkAccess) -> Result<bool, Error> {
    let session = Session::open(&trunk.as_apply("")).await.map_err(at_trunk)?;
    let uneven = is_uneven_in(&session).await;
    session.close().await;
    uneven
}

/// A trunk of an older build has no such table.
async fn is_uneven_in(session: &Session) -> Result<bool, Error> {
    let sql = "SELECT pg_catalog.to_regclass('ardent.first_copy') IS NOT NULL";
    let row = session.query_one(sql, &[]).await.map_err(at_trunk)?;
    if !row.try_get::<_, bool>(0).map_err(at_trunk)? {
        return Ok(false);
    }
    Ok(unmet(session).await?.is_some())
}

/// What is left to be done once the tables of the trunk are at one position; none if they are.
pub(super) async fn unmet(session: &Session) -> Result<Option<Unmet>, Error> {
    let sql = "SELECT unmet::text FROM ardent.first_copy WHERE unmet IS NOT NULL";
    let Some(row) = session.query_opt(sql, &[]).await.map_err(at_trunk)? else { return Ok(None) };
    let unmet: String = row.try_get(0).map_err(at_trunk)?;
    Ok(Some(serde_json::from_str(&unmet)?))
}

/// Forgets the copy: it is whole, and of one moment.
pub(super) async fn clear(session: &Session) -> Result<(), SqlError> {
    session.batch_execute("DELETE FROM ardent.first_copy; DELETE FROM ardent.copied").await
}

const OPEN_SQL: &str = "\
INSERT INTO ardent.first_copy (slot, system_identifier, database_oid, timeline, lsn, terms, dump,
                               foreign_keys, warnings)
VALUES ($1, $2, $3::text::bigint, $4::text::bigint, $5::text::pg_lsn, $6, $7, $8::text::jsonb, $9)";

const ENTER_SQL: &str = "\
INSERT INTO ardent.copied (schema_name, table_name, shape)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[])";

const FIND_SQL: &str = "\
SELECT slot, system_identifier, database_oid::text, timeline::text, lsn::text,
       lsn::text AS idle_lsn, NULL::bigint AS commit_time_us,
       terms, dump, foreign_keys::text, warnings
  FROM ardent.first_copy WHERE unmet IS NULL";

// The dump has served.
const UNEVEN_SQL: &str = "UPDATE ardent.first_copy SET unmet = $1::text::jsonb, dump = ''";
