//! Operators in the catalog: admin roles, and what each operator has selected.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};

use super::{Catalog, CatalogError, from_micros, taken, to_micros};

/// An admin role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminRole {
    /// Unique name.
    pub name: String,
    /// SCRAM verifier of its password.
    pub verifier: String,
    /// What it may do, in the admin SQL's word for it.
    pub level: String,
    /// When it was made.
    pub created_at: SystemTime,
}

/// What an operator works on when a statement names nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Name of the current connector.
    pub connector: Option<String>,
    /// Name of the current branch.
    pub branch: Option<String>,
}

impl Catalog {
    /// Stores a new admin role.
    pub fn insert_admin_role(&self, role: &AdminRole) -> Result<(), CatalogError> {
        let sql = "INSERT INTO admin_role VALUES (?1, ?2, ?3, ?4)";
        let created_at = to_micros(role.created_at);
        self.lock()
            .execute(sql, params![role.name, role.verifier, role.level, created_at])
            .map_err(|error| taken(error, || format!("role \"{}\"", role.name)))?;
        Ok(())
    }

    /// All admin roles by name.
    pub fn admin_roles(&self) -> Result<Vec<AdminRole>, CatalogError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT name, verifier, level, created_at FROM admin_role ORDER BY name")?;
        let mut rows = statement.query([])?;
        let mut roles = Vec::new();
        while let Some(row) = rows.next()? {
            roles.push(AdminRole {
                name: row.get(0)?,
                verifier: row.get(1)?,
                level: row.get(2)?,
                created_at: from_micros(row.get(3)?),
            });
        }
        Ok(roles)
    }

    /// Forgets an admin role; says whether there was one.
    pub fn delete_admin_role(&self, name: &str) -> Result<bool, CatalogError> {
        Ok(self.lock().execute("DELETE FROM admin_role WHERE name = ?1", params![name])? > 0)
    }

    /// What this operator has selected.
    pub fn selection(&self, operator: &str) -> Result<Selection, CatalogError> {
        let sql = "SELECT connector, branch FROM selection WHERE operator = ?1";
        let read = |row: &Row<'_>| Ok(Selection { connector: row.get(0)?, branch: row.get(1)? });
        Ok(self.lock().query_row(sql, params![operator], read).optional()?.unwrap_or_default())
    }

    /// Remembers what this operator has selected.
    pub fn set_selection(&self, operator: &str, selection: &Selection) -> Result<(), CatalogError> {
        let sql = "INSERT OR REPLACE INTO selection VALUES (?1, ?2, ?3)";
        self.lock().execute(sql, params![operator, selection.connector, selection.branch])?;
        Ok(())
    }
}
