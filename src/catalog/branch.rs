//! Branches in the catalog: trunks are branches of the store too and have a row.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};
use storage::BranchId;

use super::{Catalog, CatalogError, ConnectorId, from_micros, stored_number, taken, to_micros};
use crate::lsn::Lsn;

/// What a branch of the store is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchKind {
    /// The copy of a source that the applier writes.
    Trunk,
    /// A branch that a user asked for.
    User,
}

impl BranchKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Trunk => "trunk",
            Self::User => "user",
        }
    }

    fn parse(text: &str) -> Result<Self, CatalogError> {
        [Self::Trunk, Self::User]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(CatalogError::Damaged("branch kind"))
    }
}

/// Where a branch stands. Moves:
///
/// | from | to | who |
/// |---|---|---|
/// | (none) | `Creating` | CREATE, before the store is asked to fork |
/// | `Creating` | `Active` | CREATE, after the branch answered a query |
/// | `Creating` | `Failed` | CREATE, after a hook failed |
/// | `Creating`, `Active`, `Failed` | `Deleting` | DELETE, or a failed CREATE |
/// | `Deleting` | (none) | DELETE, after the store let go of it |
///
/// A server that starts finishes what stands in `Creating` (undone) and `Deleting` (done).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BranchState {
    /// Not yet proved to answer.
    Creating,
    /// Connectable; its compute may be suspended.
    Active,
    /// A hook failed, so nobody connects to it; see the failure.
    Failed,
    /// Going away.
    Deleting,
}

impl BranchState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Deleting => "deleting",
        }
    }

    fn parse(text: &str) -> Result<Self, CatalogError> {
        [Self::Creating, Self::Active, Self::Failed, Self::Deleting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(CatalogError::Damaged("branch state"))
    }
}

/// What is known of a branch when its row is made.
#[derive(Clone, Debug)]
pub struct NewBranch {
    /// What it is for.
    pub kind: BranchKind,
    /// The connector it belongs to.
    pub connector: ConnectorId,
    /// Unique within its connector.
    pub name: String,
    /// The name that routes to it; none for trunks.
    pub endpoint: Option<String>,
    /// The user branch it was cut from; none means the trunk.
    pub parent: Option<BranchId>,
    /// Major version of its Postgres.
    pub major: u32,
    /// Name of its database, that of the source.
    pub database: String,
    /// Role its URL logs in as.
    pub role: String,
    /// Password of that role, sealed.
    pub password: Option<Vec<u8>>,
    /// SCRAM verifier of that password.
    pub verifier: Option<String>,
    /// The database its URL names; none means the source's.
    pub default_database: Option<String>,
    /// The most bytes it may come to hold of its own.
    pub max_size_bytes: Option<u64>,
}

/// A branch as stored.
#[derive(Clone, Debug)]
pub struct BranchRecord {
    /// Its number in the store.
    pub number: BranchId,
    /// What it was made with.
    pub made: NewBranch,
    /// Where it stands.
    pub state: BranchState,
    /// The source position it equals.
    pub lsn: Option<Lsn>,
    /// When the source committed that position.
    pub commit_time: Option<SystemTime>,
    /// Whether freshness could not be proved at creation.
    pub stale: bool,
    /// Why a branch that failed did.
    pub failure: Option<String>,
    /// When it was asked for.
    pub created_at: SystemTime,
}

/// A role of a suspended branch, as its `pg_authid` had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleVerifier {
    /// Role name.
    pub role: String,
    /// SCRAM verifier; none without a password.
    pub verifier: Option<String>,
    /// End of the password's life.
    pub valid_until: Option<SystemTime>,
    /// LOGIN attribute.
    pub can_login: bool,
}

const COLUMNS: &str = "number, kind, state, connector, name, endpoint, parent, major, database, \
                       role, password, verifier, lsn, commit_time, stale, created_at, \
                       max_size, default_database, failure";

impl Catalog {
    /// Stores a new branch in state `Creating` and gives it its number.
    pub fn insert_branch(&self, new: &NewBranch) -> Result<BranchRecord, CatalogError> {
        let connection = self.lock();
        let created_at = SystemTime::now();
        connection
            .execute(
                "INSERT INTO branch (kind, state, connector, name, endpoint, parent, major, \
                 database, role, password, verifier, created_at, max_size, default_database) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                params![
                    new.kind.as_str(),
                    BranchState::Creating.as_str(),
                    new.connector.0,
                    new.name,
                    new.endpoint,
                    new.parent.map(BranchId::get),
                    new.major,
                    new.database,
                    new.role,
                    new.password,
                    new.verifier,
                    to_micros(created_at),
                    new.max_size_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                    new.default_database,
                ],
            )
            .map_err(|error| taken(error, || format!("branch \"{}\"", new.name)))?;
        let number = u32::try_from(connection.last_insert_rowid())
            .map_err(|_| CatalogError::Damaged("branch number"))?;
        Ok(BranchRecord {
            number: stored_number(number)?,
            made: new.clone(),
            state: BranchState::Creating,
            lsn: None,
            commit_time: None,
            stale: false,
            failure: None,
            created_at,
        })
    }

    /// All branches of every kind, oldest first.
    pub fn branches(&self) -> Result<Vec<BranchRecord>, CatalogError> {
        let connection = self.lock();
        let sql = format!("SELECT {COLUMNS} FROM branch ORDER BY number");
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(read_branch(row)?);
        }
        Ok(records)
    }

    /// Moves a branch.
    pub fn set_branch_state(
        &self,
        number: BranchId,
        state: BranchState,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE branch SET state = ?2 WHERE number = ?1";
        self.lock().execute(sql, params![number.get(), state.as_str()])?;
        Ok(())
    }

    /// Records what a new branch has become: its state, the source position it equals, and why it
    /// failed if it did.
    pub fn settle_branch(&self, record: &BranchRecord) -> Result<(), CatalogError> {
        let sql = "UPDATE branch SET state = ?2, lsn = ?3, commit_time = ?4, stale = ?5, \
                   failure = ?6 WHERE number = ?1";
        let BranchRecord { number, stale, failure, .. } = record;
        let lsn = record.lsn.map(|lsn| lsn.to_string());
        let commit_time = record.commit_time.map(to_micros);
        let state = record.state.as_str();
        self.lock().execute(sql, params![number.get(), state, lsn, commit_time, stale, failure])?;
        Ok(())
    }

    /// Gives a branch a new password.
    pub fn set_branch_password(
        &self,
        number: BranchId,
        password: &[u8],
        verifier: &str,
    ) -> Result<(), CatalogError> {
        let sql = "UPDATE branch SET password = ?2, verifier = ?3 WHERE number = ?1";
        self.lock().execute(sql, params![number.get(), password, verifier])?;
        Ok(())
    }

    /// Forgets a branch that the store no longer has.
    pub fn delete_branch(&self, number: BranchId) -> Result<(), CatalogError> {
        self.lock().execute("DELETE FROM branch WHERE number = ?1", params![number.get()])?;
        Ok(())
    }

    /// Replaces what is known of a branch's roles, as it is suspended.
    pub fn set_role_verifiers(
        &self,
        number: BranchId,
        roles: &[RoleVerifier],
    ) -> Result<(), CatalogError> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction
            .execute("DELETE FROM role_verifier WHERE branch = ?1", params![number.get()])?;
        for role in roles {
            let valid_until = role.valid_until.map(to_micros);
            transaction.execute(
                "INSERT INTO role_verifier VALUES (?1, ?2, ?3, ?4, ?5)",
                params![number.get(), role.role, role.verifier, valid_until, role.can_login],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// One role of a suspended branch.
    pub fn role_verifier(
        &self,
        number: BranchId,
        role: &str,
    ) -> Result<Option<RoleVerifier>, CatalogError> {
        let sql = "SELECT role, verifier, valid_until, can_login FROM role_verifier \
                   WHERE branch = ?1 AND role = ?2";
        let read = |row: &Row<'_>| {
            Ok(RoleVerifier {
                role: row.get(0)?,
                verifier: row.get(1)?,
                valid_until: row.get::<_, Option<i64>>(2)?.map(from_micros),
                can_login: row.get(3)?,
            })
        };
        Ok(self.lock().query_row(sql, params![number.get(), role], read).optional()?)
    }
}

fn read_branch(row: &Row<'_>) -> Result<BranchRecord, CatalogError> {
    let lsn: Option<String> = row.get(12)?;
    let lsn = lsn.map(|text| text.parse()).transpose();
    Ok(BranchRecord {
        number: stored_number(row.get(0)?)?,
        state: BranchState::parse(&row.get::<_, String>(2)?)?,
        made: NewBranch {
            kind: BranchKind::parse(&row.get::<_, String>(1)?)?,
            connector: ConnectorId(row.get(3)?),
            name: row.get(4)?,
            endpoint: row.get(5)?,
            parent: row.get::<_, Option<u32>>(6)?.map(stored_number).transpose()?,
            major: row.get(7)?,
            database: row.get(8)?,
            role: row.get(9)?,
            password: row.get(10)?,
            verifier: row.get(11)?,
            max_size_bytes: row.get::<_, Option<i64>>(16)?.map(i64::unsigned_abs),
            default_database: row.get(17)?,
        },
        lsn: lsn.map_err(|_| CatalogError::Damaged("branch position"))?,
        commit_time: row.get::<_, Option<i64>>(13)?.map(from_micros),
        stale: row.get(14)?,
        failure: row.get(18)?,
        created_at: from_micros(row.get(15)?),
    })
}
