//! Tables of the catalog and their version.

use rusqlite::Connection;

use super::CatalogError;

/// Written to `user_version`; raised with every change of the tables below.
const FORMAT: i64 = 2;

const TABLES: &str = "
CREATE TABLE connector (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT NOT NULL UNIQUE,
    state             TEXT NOT NULL,
    url               BLOB NOT NULL,
    schemas           TEXT NOT NULL,
    decisions         TEXT NOT NULL,
    plugin            TEXT NOT NULL,
    system_identifier TEXT NOT NULL,
    database_oid      INTEGER NOT NULL,
    database          TEXT NOT NULL,
    message           TEXT,
    locked            TEXT,
    created_at        INTEGER NOT NULL
) STRICT;
CREATE TABLE branch (
    number            INTEGER PRIMARY KEY AUTOINCREMENT,
    kind              TEXT NOT NULL,
    state             TEXT NOT NULL,
    connector         INTEGER NOT NULL REFERENCES connector(id),
    name              TEXT NOT NULL,
    endpoint          TEXT UNIQUE,
    parent            INTEGER,
    major             INTEGER NOT NULL,
    database          TEXT NOT NULL,
    role              TEXT NOT NULL,
    password          BLOB,
    verifier          TEXT,
    lsn               TEXT,
    commit_time       INTEGER,
    stale             INTEGER NOT NULL DEFAULT 0,
    created_at        INTEGER NOT NULL,
    max_size          INTEGER
) STRICT;
CREATE UNIQUE INDEX branch_name ON branch (connector, kind, name);
CREATE TABLE role_verifier (
    branch            INTEGER NOT NULL REFERENCES branch(number) ON DELETE CASCADE,
    role              TEXT NOT NULL,
    verifier          TEXT,
    valid_until       INTEGER,
    can_login         INTEGER NOT NULL,
    PRIMARY KEY (branch, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE admin_role (
    name              TEXT PRIMARY KEY,
    verifier          TEXT NOT NULL,
    level             TEXT NOT NULL,
    created_at        INTEGER NOT NULL
) STRICT;
CREATE TABLE selection (
    operator          TEXT PRIMARY KEY,
    connector         TEXT,
    branch            TEXT
) STRICT;
";

/// What a file of format 1 lacks.
const SINCE_1: &str = "ALTER TABLE branch ADD COLUMN max_size INTEGER;";

/// Sets durability, makes the tables of a new file, refuses a file of another format.
pub(super) fn prepare(connection: &Connection) -> Result<(), CatalogError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        FORMAT => Ok(()),
        0 => {
            let script = format!("BEGIN; {TABLES} PRAGMA user_version = {FORMAT}; COMMIT;");
            Ok(connection.execute_batch(&script)?)
        }
        1 => {
            let script = format!("BEGIN; {SINCE_1} PRAGMA user_version = {FORMAT}; COMMIT;");
            Ok(connection.execute_batch(&script)?)
        }
        found => Err(CatalogError::Format { found, expected: FORMAT }),
    }
}
