//! Settings that the source's sessions begin with, carried to the trunk: those of the database, of
//! roles, and of the server where they decide what a value means or looks like.
//!
//! Only what any session may set for itself, and of that only how statements behave, how values
//! look and how queries are planned: never what would load a library, name a place on disk, take
//! memory that this host may not have, or change who one is. The server's own roles keep Postgres'
//! defaults whatever the database says.

use std::collections::BTreeMap;

use proxy::client::{Session, quote_identifier};

use super::error::{Error, at_source, at_trunk};
use super::link::{APPLY_ROLE, Link, SYSTEM_ROLE};

const SOURCE_OPTIONS: &str = "-c statement_timeout=30s -c lock_timeout=10s -c search_path=";

/// For whom a setting is; neither part is for every session of the database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    role: Option<String>,
    /// In the database that is followed only.
    is_of_database: bool,
}

/// Values by place and name.
pub(super) type Settings = BTreeMap<(Place, String), String>;

/// Reads the source's, over a session that pins none of them.
pub(super) async fn read(link: &Link) -> Result<Settings, Error> {
    let target = link.source.target().with_options(SOURCE_OPTIONS);
    let session = Session::open(&target).await.map_err(at_source)?;
    let stored = stored(&session).await;
    let server = session.query(SERVER_SQL, &[]).await;
    session.close().await;
    let mut settings = Settings::new();
    for row in server.map_err(at_source)? {
        let place = Place { role: None, is_of_database: true };
        let (name, value) = (row.try_get(0).map_err(at_source)?, row.try_get(1));
        settings.insert((place, name), value.map_err(at_source)?);
    }
    settings.extend(stored.map_err(at_source)?);
    Ok(settings)
}

/// Makes the trunk's equal, as far as they are carried. Roles come first.
pub(super) async fn mirror(
    system: &Session,
    database: &str,
    wanted: &Settings,
) -> Result<Vec<String>, Error> {
    let carried = carried(system).await.map_err(at_trunk)?;
    let roles = system.query(ROLES_SQL, &[]).await.map_err(at_trunk)?;
    let roles: Result<Vec<String>, _> = roles.iter().map(|row| row.try_get(0)).collect();
    let roles = roles.map_err(at_trunk)?;
    let is_ours = |place: &Place| place.role.as_ref().is_some_and(|role| !roles.contains(role));
    let mut wanted = wanted.clone();
    wanted.retain(|(place, name), _| !is_ours(place) && is_carried(&carried, name));
    let present = stored(system).await.map_err(at_trunk)?;
    let mut warnings = Vec::new();
    for (place, name) in present.keys().filter(|key| !is_ours(&key.0)) {
        if !wanted.contains_key(&(place.clone(), name.clone())) {
            let sql = format!("{} RESET {}", place.alter(database), quoted(name));
            system.batch_execute(&sql).await.map_err(at_trunk)?;
        }
    }
    for (key, value) in wanted.iter().filter(|(key, value)| present.get(key) != Some(value)) {
        let (place, name) = key;
        if let Some(default) = carried.get(name).filter(|_| place.role.is_none()) {
            shield(system, database, name, default).await?;
        }
        let sql = format!("{} SET {} FROM CURRENT", place.alter(database), quoted(name));
        if let Err(said) = set(system, name, value, &sql).await? {
            warnings.push(format!("setting {name} is not carried over: {said}"));
        }
    }
    Ok(warnings)
}

/// A setting of the database is one of our own sessions too, unless their role says otherwise.
async fn shield(system: &Session, database: &str, name: &str, default: &str) -> Result<(), Error> {
    for role in [APPLY_ROLE, SYSTEM_ROLE] {
        let place = Place { role: Some(role.to_owned()), is_of_database: true };
        let sql = format!("{} SET {} FROM CURRENT", place.alter(database), quoted(name));
        if let Err(said) = set(system, name, default, &sql).await? {
            tracing::warn!(role, name, said, "setting is not kept from a role of ours");
        }
    }
    Ok(())
}

/// Sets a value for one transaction and has `sql` store it: so a list stays a list.
async fn set(
    system: &Session,
    name: &str,
    value: &str,
    sql: &str,
) -> Result<Result<(), String>, Error> {
    system.batch_execute("BEGIN").await.map_err(at_trunk)?;
    let assign = "SELECT pg_catalog.set_config($1, $2, true)";
    let outcome = match system.query(assign, &[&name, &value]).await {
        Ok(_) => system.batch_execute(sql).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => system.batch_execute("COMMIT").await.map(Ok).map_err(at_trunk),
        Err(error) => {
            let Some(db) = error.as_db_error() else { return Err(at_trunk(error)) };
            let said = db.message().to_owned();
            system.batch_execute("ROLLBACK").await.map_err(at_trunk)?;
            Ok(Err(said))
        }
    }
}

impl Place {
    fn alter(&self, database: &str) -> String {
        let database = quote_identifier(database);
        match &self.role {
            None => format!("ALTER DATABASE {database}"),
            Some(role) if self.is_of_database => {
                format!("ALTER ROLE {} IN DATABASE {database}", quote_identifier(role))
            }
            Some(role) => format!("ALTER ROLE {}", quote_identifier(role)),
        }
    }
}

/// Parts of a name of an extension's or application's own setting are quoted one by one.
fn quoted(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<String>>().join(".")
}

/// One that Postgres does not know is an application's own, and a text to it.
fn is_carried(carried: &BTreeMap<String, String>, name: &str) -> bool {
    name.contains('.') || carried.contains_key(&name.to_lowercase()) || carried.contains_key(name)
}

/// What may be carried, with Postgres' defaults.
async fn carried(system: &Session) -> Result<BTreeMap<String, String>, tokio_postgres::Error> {
    let rows = system.query(CARRIED_SQL, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

async fn stored(session: &Session) -> Result<Settings, tokio_postgres::Error> {
    let mut settings = Settings::new();
    for row in session.query(STORED_SQL, &[]).await? {
        let place = Place { role: row.try_get(0)?, is_of_database: row.try_get(1)? };
        settings.insert((place, row.try_get(2)?), row.try_get(3)?);
    }
    Ok(settings)
}

// What ALTER ROLE ALL says holds for the trunk's one database too; the database's own goes before.
const STORED_SQL: &str = "\
SELECT r.rolname::text, s.setdatabase <> 0 OR s.setrole = 0,
       pg_catalog.split_part(x.entry, '=', 1),
       pg_catalog.substr(x.entry, pg_catalog.strpos(x.entry, '=') + 1)
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
 CROSS JOIN pg_catalog.unnest(s.setconfig) AS x(entry)
 WHERE s.setdatabase = 0 OR s.setdatabase = (
         SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
 ORDER BY s.setdatabase";

// As the server's files have them, unless the database or the role of our session says otherwise.
const SERVER_SQL: &str = "\
SELECT name, setting FROM pg_catalog.pg_settings
 WHERE name IN ('TimeZone', 'DateStyle', 'IntervalStyle', 'default_text_search_config',
                'default_transaction_isolation', 'lc_monetary')
   AND source NOT IN ('client', 'session', 'database', 'user', 'database user')";

const CARRIED_SQL: &str = "\
SELECT name, coalesce(boot_val, '') FROM pg_catalog.pg_settings
 WHERE context = 'user'
   AND (category = 'Client Connection Defaults / Statement Behavior'
        OR category = 'Client Connection Defaults / Locale and Formatting'
        OR category LIKE 'Query Tuning / %'
        OR category LIKE 'Version and Platform Compatibility / %')
   AND name NOT IN ('role', 'session_authorization', 'client_encoding', 'default_tablespace',
                    'temp_tablespaces', 'default_table_access_method', 'transaction_isolation',
                    'transaction_read_only', 'transaction_deferrable')";

const ROLES_SQL: &str = "\
SELECT rolname::text FROM pg_catalog.pg_roles
 WHERE rolname !~ '^(ardent|pg)_' AND rolname <> 'branch_owner'";
