//! Tables of the catalog and their version.

use rusqlite::Connection;

use super::CatalogError;

/// What each format adds to the one before. `user_version` is the number of steps a file has had;
/// a step that was released is never changed.
const STEPS: [&str; 4] = [TABLES, LIMITS, WAYS_AND_SETTINGS, VERIFICATION];

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
    created_at        INTEGER NOT NULL
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

const LIMITS: &str = "ALTER TABLE branch ADD COLUMN max_size INTEGER;";

const WAYS_AND_SETTINGS: &str = "
CREATE TABLE environment (
    name              TEXT PRIMARY KEY,
    address           TEXT NOT NULL,
    url               BLOB NOT NULL,
    key               BLOB,
    known_host        TEXT,
    created_at        INTEGER NOT NULL
) STRICT;
CREATE TABLE private_link (
    name              TEXT PRIMARY KEY,
    environment       TEXT NOT NULL REFERENCES environment(name),
    endpoint          TEXT NOT NULL,
    created_at        INTEGER NOT NULL
) STRICT;
ALTER TABLE connector ADD COLUMN environment TEXT REFERENCES environment(name);
ALTER TABLE connector ADD COLUMN private_link TEXT REFERENCES private_link(name);
ALTER TABLE connector ADD COLUMN drop_extensions TEXT NOT NULL DEFAULT '[]';
ALTER TABLE connector ADD COLUMN warnings TEXT NOT NULL DEFAULT '[]';
ALTER TABLE branch ADD COLUMN default_database TEXT;
ALTER TABLE branch ADD COLUMN failure TEXT;
CREATE TABLE setting (
    connector         INTEGER NOT NULL REFERENCES connector(id) ON DELETE CASCADE,
    key               TEXT NOT NULL,
    value             TEXT NOT NULL,
    PRIMARY KEY (connector, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE hook (
    connector         INTEGER NOT NULL REFERENCES connector(id) ON DELETE CASCADE,
    name              TEXT NOT NULL,
    position          INTEGER NOT NULL,
    sql               TEXT NOT NULL,
    database          TEXT,
    run_as            TEXT,
    PRIMARY KEY (connector, name)
) STRICT, WITHOUT ROWID;
";

const VERIFICATION: &str = "
ALTER TABLE connector ADD COLUMN verified_lsn TEXT;
ALTER TABLE connector ADD COLUMN verified_at INTEGER;
ALTER TABLE connector ADD COLUMN differences INTEGER;
";

/// Sets durability, brings the tables of an older file up to date, refuses a newer one.
pub(super) fn prepare(connection: &Connection) -> Result<(), CatalogError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let formats = (1_i64..).zip(STEPS);
    let newest = formats.clone().map(|(format, _)| format).max().unwrap_or_default();
    if !(0..=newest).contains(&found) {
        return Err(CatalogError::Format { found, expected: newest });
    }
    for (format, step) in formats.filter(|(format, _)| *format > found) {
        let script = format!("BEGIN; {step} PRAGMA user_version = {format}; COMMIT;");
        connection.execute_batch(&script)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_first_format_is_brought_up_to_date() {
        let old = Connection::open_in_memory().unwrap();
        old.execute_batch(&format!("{TABLES} PRAGMA user_version = 1;")).unwrap();
        old.execute_batch(
            "INSERT INTO connector (name, state, url, schemas, decisions, plugin, \
             system_identifier, database_oid, database, created_at) \
             VALUES ('a', 'ready', x'00', '[]', '{}', 'wal2json', '1', 1, 'd', 0)",
        )
        .unwrap();
        prepare(&old).unwrap();
        let dropped: String =
            old.query_row("SELECT drop_extensions FROM connector", [], |row| row.get(0)).unwrap();
        assert_eq!(dropped, "[]");
    }
}
