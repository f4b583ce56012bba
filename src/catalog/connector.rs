//! Connectors in the catalog.

use std::fmt;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::{Catalog, CatalogError, from_micros, taken, to_micros};
use crate::lsn::Lsn;

/// Number of a connector. It names its slot on the source (`ardent_conn_1x0z9q`), where other
/// servers have theirs: so it is drawn by chance.
///
/// | number | printed |
/// |---|---|
/// | below 2^31: of builds that counted | `c7` |
/// | 2^31 and above | `conn_` and six digits to the base of 36 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectorId(pub i64);

impl ConnectorId {
    const DRAWN: i64 = 1 << 31;
    const BASE: i64 = 36;
    const DIGITS: u32 = 6;

    fn draw() -> Self {
        Self(Self::DRAWN + rand::random_range(0..Self::BASE.pow(Self::DIGITS)))
    }
}

impl fmt::Display for ConnectorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drawn = self.0 - Self::DRAWN;
        if drawn < 0 {
            return write!(f, "c{}", self.0);
        }
        f.write_str("conn_")?;
        (0..Self::DIGITS).rev().try_for_each(|place| {
            let digit = drawn / Self::BASE.pow(place) % Self::BASE;
            let digit = u32::try_from(digit).ok().and_then(|digit| char::from_digit(digit, 36));
            write!(f, "{}", digit.unwrap_or('0'))
        })
    }
}

/// Where a connector stands. Moves:
///
/// | from | to | who |
/// |---|---|---|
/// | (none) | `Validating` | CREATE, after preflight passed |
/// | `Validating` | `Ready` | setup, when the stream runs |
/// | `Validating` | `SetupPending` | setup, on a failure or an undecided table |
/// | `SetupPending`, `Broken` | `Validating` | RETRY SETUP |
/// | `Ready` | `Broken` | the stream, when it must not go on |
/// | any | `Deleting` | DELETE; the row goes when nothing is left |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectorState {
    /// Setup has to be started again, see the message.
    SetupPending,
    /// Checks or setup are running.
    Validating,
    /// Branches can be cut.
    Ready,
    /// The stream stopped for good, see the message.
    Broken,
    /// Being removed here and on the source.
    Deleting,
}

impl ConnectorState {
    /// As operators see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetupPending => "setup pending",
            Self::Validating => "validating",
            Self::Ready => "ready",
            Self::Broken => "broken",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Result<Self, CatalogError> {
        [Self::SetupPending, Self::Validating, Self::Ready, Self::Broken, Self::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(CatalogError::Damaged("connector state"))
    }
}

/// What is known of a connector when its row is made.
#[derive(Clone, Debug)]
pub struct NewConnector {
    /// Unique name.
    pub name: String,
    /// The source's URL, sealed.
    pub url: Vec<u8>,
    /// Selected schemas; empty means all that are not the system's.
    pub schemas: Vec<String>,
    /// Replica identity decisions, a JSON object.
    pub decisions: String,
    /// Chosen output plugin.
    pub plugin: String,
    /// Identity of the source cluster.
    pub system_identifier: String,
    /// Identity of the database in it.
    pub database_oid: u32,
    /// Name of the source database.
    pub database: String,
    /// The environment its traffic goes through; none means straight.
    pub environment: Option<String>,
    /// The endpoint inside that environment; none means the URL's own.
    pub private_link: Option<String>,
    /// Extensions that branches are made without.
    pub drop_extensions: Vec<String>,
}

/// A connector as stored.
#[derive(Clone, Debug)]
pub struct ConnectorRecord {
    /// Its number.
    pub id: ConnectorId,
    /// What it was made with.
    pub made: NewConnector,
    /// Where it stands.
    pub state: ConnectorState,
    /// Why it is not ready.
    pub message: Option<String>,
    /// Why deletion is refused, if it is; may be empty.
    pub locked: Option<String>,
    /// What the last finished setup could not carry as it is on the source.
    pub warnings: Vec<String>,
    /// When the row was made.
    pub created_at: SystemTime,
    /// What the last comparison with the source came to.
    pub verification: Option<Verification>,
}

/// What a comparison of trunk and source came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The source position it was made at.
    pub lsn: Lsn,
    /// When.
    pub at: SystemTime,
    /// Objects that differ.
    pub differences: u64,
}

const COLUMNS: &str = "id, name, state, url, schemas, decisions, plugin, system_identifier, \
                       database_oid, database, message, locked, created_at, environment, \
                       private_link, drop_extensions, warnings, verified_lsn, verified_at, \
                       differences";

impl Catalog {
    /// Stores a new connector in state `Validating`.
    pub fn insert_connector(&self, new: &NewConnector) -> Result<ConnectorId, CatalogError> {
        let connection = self.lock();
        let id = ConnectorId::draw();
        connection
            .execute(
                "INSERT INTO connector (id, name, state, url, schemas, decisions, plugin, \
                 system_identifier, database_oid, database, created_at, environment, \
                 private_link, drop_extensions) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                params![
                    id.0,
                    new.name,
                    ConnectorState::Validating.as_str(),
                    new.url,
                    list(&new.schemas),
                    new.decisions,
                    new.plugin,
                    new.system_identifier,
                    new.database_oid,
                    new.database,
                    to_micros(SystemTime::now()),
                    new.environment,
                    new.private_link,
                    list(&new.drop_extensions),
                ],
            )
            .map_err(|error| taken(error, || format!("connector \"{}\"", new.name)))?;
        Ok(id)
    }

    /// All connectors, oldest first.
    pub fn connectors(&self) -> Result<Vec<ConnectorRecord>, CatalogError> {
        let connection = self.lock();
        let sql = format!("SELECT {COLUMNS} FROM connector ORDER BY created_at, id");
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(read_connector(row)?);
        }
        Ok(records)
    }

    /// The connector of that name.
    pub fn connector(&self, name: &str) -> Result<Option<ConnectorRecord>, CatalogError> {
        Ok(self.connectors()?.into_iter().find(|record| record.made.name == name))
    }

    /// The name of the connector that follows this database, if one does.
    pub fn connector_of_source(
        &self,
        system_identifier: &str,
        database_oid: u32,
    ) -> Result<Option<String>, CatalogError> {
        let sql = "SELECT name FROM connector WHERE system_identifier = ?1 AND database_oid = ?2";
        let row = |row: &Row<'_>| row.get(0);
        Ok(self.lock().query_row(sql, params![system_identifier, database_oid], row).optional()?)
    }

    /// Moves a connector; `message` says why where the state alone does not.
    pub fn set_connector_state(
        &self,
        id: ConnectorId,
        state: ConnectorState,
        message: Option<&str>,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE connector SET state = ?2, message = ?3 WHERE id = ?1";
        self.lock().execute(sql, params![id.0, state.as_str(), message])?;
        Ok(())
    }

    /// Replaces the replica identity decisions.
    pub fn set_connector_decisions(
        &self,
        id: ConnectorId,
        decisions: &str,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE connector SET decisions = ?2 WHERE id = ?1";
        self.lock().execute(sql, params![id.0, decisions])?;
        Ok(())
    }

    /// Refuses deletion with a reason, or allows it again.
    pub fn set_connector_lock(
        &self,
        id: ConnectorId,
        reason: Option<&str>,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE connector SET locked = ?2 WHERE id = ?1";
        self.lock().execute(sql, params![id.0, reason])?;
        Ok(())
    }

    /// Replaces the extensions that branches are made without.
    pub fn set_drop_extensions(
        &self,
        id: ConnectorId,
        extensions: &[String],
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE connector SET drop_extensions = ?2 WHERE id = ?1";
        self.lock().execute(sql, params![id.0, list(extensions)])?;
        Ok(())
    }

    /// Replaces what setup could not carry.
    pub fn set_connector_warnings(
        &self,
        id: ConnectorId,
        warnings: &[String],
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE connector SET warnings = ?2 WHERE id = ?1";
        self.lock().execute(sql, params![id.0, list(warnings)])?;
        Ok(())
    }

    /// Replaces what the last comparison with the source came to.
    pub fn set_verification(
        &self,
        id: ConnectorId,
        verification: &Verification,
    ) -> Result<(), CatalogError> {
        let Verification { lsn, at, differences } = *verification;
        let sql = "UPDATE connector SET verified_lsn = ?2, verified_at = ?3, differences = ?4 \
                   WHERE id = ?1";
        self.lock().execute(sql, params![id.0, lsn.to_string(), to_micros(at), differences])?;
        Ok(())
    }

    /// Forgets a connector; its branches must be gone.
    pub fn delete_connector(&self, id: ConnectorId) -> Result<(), CatalogError> {
        self.lock().execute("DELETE FROM connector WHERE id = ?1", params![id.0])?;
        Ok(())
    }
}

fn read_connector(row: &Row<'_>) -> Result<ConnectorRecord, CatalogError> {
    Ok(ConnectorRecord {
        id: ConnectorId(row.get(0)?),
        state: ConnectorState::parse(&row.get::<_, String>(2)?)?,
        made: NewConnector {
            name: row.get(1)?,
            url: row.get(3)?,
            schemas: read_list(&row.get::<_, String>(4)?, "schema list")?,
            decisions: row.get(5)?,
            plugin: row.get(6)?,
            system_identifier: row.get(7)?,
            database_oid: row.get(8)?,
            database: row.get(9)?,
            environment: row.get(13)?,
            private_link: row.get(14)?,
            drop_extensions: read_list(&row.get::<_, String>(15)?, "extension list")?,
        },
        message: row.get(10)?,
        locked: row.get(11)?,
        created_at: from_micros(row.get(12)?),
        warnings: read_list(&row.get::<_, String>(16)?, "list of warnings")?,
        verification: read_verification(row)?,
    })
}

fn read_verification(row: &Row<'_>) -> Result<Option<Verification>, CatalogError> {
    let Some(lsn) = row.get::<_, Option<String>>(17)? else { return Ok(None) };
    Ok(Some(Verification {
        lsn: lsn.parse().map_err(|_| CatalogError::Damaged("position of a verification"))?,
        at: from_micros(row.get(18)?),
        differences: row.get(19)?,
    }))
}

/// Lists of texts are kept as JSON.
fn list(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("strings serialize")
}

fn read_list(json: &str, what: &'static str) -> Result<Vec<String>, CatalogError> {
    serde_json::from_str(json).map_err(|_| CatalogError::Damaged(what))
}
