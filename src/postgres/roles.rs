//! The role model: which roles a trunk has, and with it every branch cut from it.
//!
//! Everything is done once, in the template and on the trunk. A branch inherits it with its
//! pages, so its birth runs no SQL: its password is checked at the front door.
//!
//! ```text
//! ardent_system   bootstrap superuser, the server alone
//! ardent_apply    loads, applies, replays; not superuser    member of branch_owner
//! branch_owner    the role of a branch's URL                member of every mirrored role
//! <mirrored>      the source's roles, less what would reach the host
//! ```

use std::time::{Duration, SystemTime};

use postgres_protocol::escape::escape_identifier;

use super::error::PostgresError;
use super::session::Session;
use crate::secret::Secret;

/// Bootstrap superuser of every compute.
pub const SYSTEM_ROLE: &str = "ardent_system";
/// Loads and applies the source's data.
pub const APPLY_ROLE: &str = "ardent_apply";
/// Owns a branch's database.
pub const OWNER_ROLE: &str = "branch_owner";
/// A database that only the server may connect to, so that no client can plant code for it.
pub const SYSTEM_DATABASE: &str = "ardent_system";

/// What a role authenticates with.
#[derive(Clone, Debug)]
pub struct RoleVerifier {
    /// Name of the role.
    pub role: String,
    /// `SCRAM-SHA-256$...` as stored; `None`: the role has no password.
    pub verifier: Option<Secret>,
    /// The password does not count after this time.
    pub valid_until: Option<SystemTime>,
    /// LOGIN.
    pub can_login: bool,
}

/// True for names that a source's role must not have: ours and those of Postgres.
pub fn is_reserved_role(name: &str) -> bool {
    name == OWNER_ROLE || name.starts_with("ardent_") || name.starts_with("pg_")
}

/// Makes `branch_owner` the owner of the database the session is in. To be run after the schema
/// was loaded too, since that may set owners; runs any number of times.
pub async fn prepare_database(session: &Session, database: &str) -> Result<(), PostgresError> {
    let own = format!("ALTER DATABASE {} OWNER TO branch_owner", escape_identifier(database));
    run(session, &format!("{own};\n{OWN_PUBLIC_SCHEMA}"), "prepare database of trunk").await
}

/// Makes `branch_owner`, and through it `ardent_apply`, a member of every mirrored role, and takes
/// from these what must not exist in a compute. Runs any number of times, after roles changed.
pub async fn grant_mirrored_roles(session: &Session) -> Result<(), PostgresError> {
    run(session, GRANT_MIRRORED_ROLES, "grant mirrored roles").await
}

/// Removes every password: a branch of a branch starts with none of its parent's.
pub async fn forget_passwords(session: &Session) -> Result<(), PostgresError> {
    run(session, FORGET_PASSWORDS, "remove passwords of branch").await
}

/// Reads what the front door authenticates roles with.
pub async fn verifiers(session: &Session) -> Result<Vec<RoleVerifier>, PostgresError> {
    let rows = session
        .client()
        .query(VERIFIERS, &[])
        .await
        .map_err(PostgresError::query("read verifiers of compute"))?;
    let read = |row: &tokio_postgres::Row| RoleVerifier {
        role: row.get(0),
        verifier: row.get::<_, Option<String>>(1).map(Secret::new),
        valid_until: row.get::<_, Option<f64>>(2).map(from_epoch),
        can_login: row.get(3),
    };
    Ok(rows.iter().map(read).collect())
}

/// Statements that make the roles and the server's own database of a fresh template.
pub(super) fn template_statements(major: u32) -> Vec<&'static str> {
    let mut statements = vec![
        "CREATE ROLE branch_owner LOGIN BYPASSRLS CREATEDB",
        "CREATE ROLE ardent_apply LOGIN BYPASSRLS",
        // A role's setting is applied by the server itself, so no right to SET it is needed.
        "ALTER ROLE ardent_apply SET session_replication_role = replica",
        // Owner of the database and member of all mirrored roles, through branch_owner.
        "GRANT branch_owner TO ardent_apply",
        "GRANT pg_monitor, pg_signal_backend TO branch_owner",
        "CREATE DATABASE ardent_system",
        "REVOKE ALL ON DATABASE ardent_system FROM PUBLIC",
    ];
    if major >= 14 {
        statements.push("GRANT pg_read_all_data, pg_write_all_data TO branch_owner");
    }
    if major >= 15 {
        statements.push("GRANT pg_checkpoint TO branch_owner");
    }
    // Up to 15 CREATEROLE may grant itself the roles that lead into the host.
    if major >= 16 {
        statements.push("ALTER ROLE branch_owner CREATEROLE");
    }
    statements
}

/// From 15 on `public` belongs to whoever owns the database; before, and on a source upgraded
/// from before, to the bootstrap superuser, whose oid is always 10.
const OWN_PUBLIC_SCHEMA: &str = "DO $$ BEGIN \
     IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public' AND nspowner = 10) \
     THEN ALTER SCHEMA public OWNER TO branch_owner; END IF; END $$";

const GRANT_MIRRORED_ROLES: &str = r"
DO $$
DECLARE
    mirrored record;
    host_role text;
    tame text := CASE WHEN current_setting('server_version_num')::int < 160000
                 THEN 'NOSUPERUSER NOREPLICATION NOCREATEROLE' ELSE 'NOSUPERUSER NOREPLICATION' END;
BEGIN
    FOR mirrored IN
        SELECT oid, rolname, rolsuper OR rolreplication
               OR (rolcreaterole AND tame LIKE '%NOCREATEROLE') AS wild
          FROM pg_catalog.pg_roles
         WHERE rolname <> 'branch_owner' AND rolname !~ '^(ardent|pg)_'
    LOOP
        IF mirrored.wild THEN
            EXECUTE format('ALTER ROLE %I %s', mirrored.rolname, tame);
        END IF;
        FOR host_role IN
            SELECT r.rolname FROM pg_catalog.pg_auth_members m
              JOIN pg_catalog.pg_roles r ON r.oid = m.roleid
             WHERE m.member = mirrored.oid AND r.rolname IN ('pg_execute_server_program',
                                  'pg_read_server_files', 'pg_write_server_files')
        LOOP
            EXECUTE format('REVOKE %I FROM %I CASCADE', host_role, mirrored.rolname);
        END LOOP;
        -- With ADMIN: from 16 on that lets branch_owner alter and drop the role, as an owner would.
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members
                        WHERE roleid = mirrored.oid AND member = 'branch_owner'::regrole
                          AND admin_option) THEN
            EXECUTE format('GRANT %I TO branch_owner WITH ADMIN OPTION', mirrored.rolname);
        END IF;
    END LOOP;
END $$";

const FORGET_PASSWORDS: &str = "
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT rolname FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL LOOP
        EXECUTE format('ALTER ROLE %I PASSWORD NULL', name);
    END LOOP;
END $$";

/// An infinite time has no epoch: never is NULL, and long ago is 1970.
const VERIFIERS: &str = "
SELECT rolname::text, rolpassword,
       CASE WHEN rolvaliduntil = 'infinity' THEN NULL
            WHEN rolvaliduntil = '-infinity' THEN 0
            ELSE extract(epoch FROM rolvaliduntil)::float8 END,
       rolcanlogin
  FROM pg_catalog.pg_authid
 WHERE rolname !~ '^(ardent|pg)_'";

async fn run(session: &Session, sql: &str, action: &'static str) -> Result<(), PostgresError> {
    session.client().batch_execute(sql).await.map_err(PostgresError::query(action))
}

fn from_epoch(seconds: f64) -> SystemTime {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
