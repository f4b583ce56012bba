//! The source's roles in the trunk, and the privileges restoring needs for a while.
//!
//! Must never: make a superuser, a role that may replicate, or a member of a role that reaches
//! files or programs of the host.

use proxy::client::{Session, quote_identifier};

use crate::source::{self, Facts, RoleFacts};

use super::super::error::{Error, at_trunk};
use super::super::link::APPLY_ROLE;

/// Exists while a schema is restored. An object's new owner must have CREATE on its schema, which
/// on the source it may have lost since; every mirrored role has it through this one meanwhile.
const RESTORE_ROLE: &str = "ardent_restore";
/// Roles that providers make for themselves.
const PROVIDER_PREFIXES: [&str; 8] =
    ["rds", "cloudsql", "alloydb", "azure", "supabase_", "neon_", "pscale_", "crunchy_"];
/// Postgres' own roles whose membership is harmless in a branch.
const HARMLESS_BUILTINS: [&str; 10] = [
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_monitor",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_stat_scan_tables",
    "pg_signal_backend",
    "pg_checkpoint",
    "pg_maintain",
    "pg_use_reserved_connections",
];
/// From 16 on CREATEROLE no longer reaches roles one was not given.
const VERSION_SAFE_CREATEROLE: i32 = 160_000;

/// True for names the server keeps for itself in trunks and branches.
fn is_reserved(name: &str) -> bool {
    name.starts_with("ardent_") || name == "branch_owner"
}

fn is_mirrored(name: &str) -> bool {
    !is_reserved(name)
        && !name.starts_with("pg_")
        && !PROVIDER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Makes every role of the source that is not reserved, and makes the applying role a member.
/// They inherit for now: [`end_restore`] takes it from those that do not.
pub(super) async fn mirror(system: &Session, facts: &Facts) -> Result<Vec<String>, Error> {
    mirror_with(system, facts, |_| true).await
}

/// The same for a trunk that is in use.
pub(in super::super) async fn mirror_again(
    system: &Session,
    facts: &Facts,
) -> Result<Vec<String>, Error> {
    let mut warnings = mirror_with(system, facts, |role| role.inherit).await?;
    warnings.extend(remove_absent(system, facts).await?);
    system.batch_execute(GRANT_TO_OWNER_SQL).await.map_err(at_trunk)?;
    Ok(warnings)
}

/// Takes away memberships and roles that the source has no more. A role that still owns something
/// stays: no event tells who has got it.
async fn remove_absent(system: &Session, facts: &Facts) -> Result<Vec<String>, Error> {
    let present = source::read_facts(system).await?;
    let mut sql = String::new();
    for (member, role, admin) in &present.memberships {
        let is_known = is_mirrored(role) || HARMLESS_BUILTINS.contains(&role.as_str());
        let held = facts.memberships.iter().find(|held| held.0 == *member && held.1 == *role);
        let option = match held {
            _ if !is_mirrored(member) || !is_known => continue,
            None => "",
            Some((_, _, false)) if *admin => "ADMIN OPTION FOR ",
            Some(_) => continue,
        };
        let (role, member) = (quote_identifier(role), quote_identifier(member));
        sql.push_str(&format!("REVOKE {option}{role} FROM {member};"));
    }
    system.batch_execute(&sql).await.map_err(at_trunk)?;
    let mut warnings = Vec::new();
    let is_absent = |role: &&RoleFacts| {
        is_mirrored(&role.name) && !facts.roles.iter().any(|other| other.name == role.name)
    };
    for role in present.roles.iter().filter(is_absent) {
        let row = system.query_one(OWNS_SQL, &[&role.name]).await.map_err(at_trunk)?;
        if row.try_get(0).map_err(at_trunk)? {
            warnings.push(format!("role {} is gone from the source and owns objects", role.name));
            continue;
        }
        let name = quote_identifier(&role.name);
        // What it owns is nothing, so these are privileges.
        let sql = format!("DROP OWNED BY {name}; DROP ROLE {name}");
        system.batch_execute(&sql).await.map_err(at_trunk)?;
    }
    Ok(warnings)
}

async fn mirror_with(
    system: &Session,
    facts: &Facts,
    inherits: impl Fn(&RoleFacts) -> bool,
) -> Result<Vec<String>, Error> {
    let row = system
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .map_err(at_trunk)?;
    let version: i32 = row.try_get(0).map_err(at_trunk)?;
    let present = system
        .query("SELECT rolname::text FROM pg_catalog.pg_roles", &[])
        .await
        .map_err(at_trunk)?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<Vec<String>, _>>()
        .map_err(at_trunk)?;
    let mut sql = String::new();
    let mut warnings = Vec::new();
    for role in &facts.roles {
        if is_reserved(&role.name) {
            warnings.push(format!("role {} is not carried over: the name is reserved", role.name));
        }
        if !is_mirrored(&role.name) {
            continue;
        }
        let name = quote_identifier(&role.name);
        let verb = if present.contains(&role.name) { "ALTER" } else { "CREATE" };
        sql.push_str(&format!(
            "{verb} ROLE {name} WITH {};",
            attributes(role, version, inherits(role))
        ));
        sql.push_str(&format!("GRANT {name} TO {APPLY_ROLE};"));
    }
    for (member, role, admin) in &facts.memberships {
        let known = is_mirrored(role) || HARMLESS_BUILTINS.contains(&role.as_str());
        let is_role = |name: &String| facts.roles.iter().any(|role| role.name == *name);
        if known && is_mirrored(member) && (is_role(role) || role.starts_with("pg_")) {
            let option = if *admin { " WITH ADMIN OPTION" } else { "" };
            let (role, member) = (quote_identifier(role), quote_identifier(member));
            sql.push_str(&format!("GRANT {role} TO {member}{option};"));
        }
    }
    system.batch_execute(&sql).await.map_err(at_trunk)?;
    Ok(warnings)
}

fn attributes(role: &RoleFacts, version: i32, inherits: bool) -> String {
    let option = |has: bool, name: &str| if has { name.to_owned() } else { format!("NO{name}") };
    [
        "NOSUPERUSER NOREPLICATION".to_owned(),
        option(inherits, "INHERIT"),
        option(role.create_role && version >= VERSION_SAFE_CREATEROLE, "CREATEROLE"),
        option(role.create_db, "CREATEDB"),
        option(role.login, "LOGIN"),
        option(role.bypass_rls, "BYPASSRLS"),
    ]
    .join(" ")
}

/// Lets every mirrored role own objects in every schema.
pub(super) async fn begin_restore(system: &Session, database: &str) -> Result<(), Error> {
    let exists = format!("SELECT FROM pg_catalog.pg_roles WHERE rolname = '{RESTORE_ROLE}'");
    if system.query_opt(&exists, &[]).await.map_err(at_trunk)?.is_none() {
        let sql = format!("CREATE ROLE {RESTORE_ROLE} NOLOGIN");
        system.batch_execute(&sql).await.map_err(at_trunk)?;
    }
    let members = system
        .query(
            "SELECT r.rolname::text FROM pg_catalog.pg_auth_members a
               JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
               JOIN pg_catalog.pg_roles m ON m.oid = a.member
              WHERE m.rolname = $1 AND r.rolname <> $2",
            &[&APPLY_ROLE, &RESTORE_ROLE],
        )
        .await
        .map_err(at_trunk)?;
    let mut sql = format!(
        "GRANT {RESTORE_ROLE} TO {APPLY_ROLE};
         GRANT CREATE ON DATABASE {} TO {RESTORE_ROLE};
         ALTER DEFAULT PRIVILEGES FOR ROLE {APPLY_ROLE} GRANT CREATE ON SCHEMAS TO {RESTORE_ROLE};",
        quote_identifier(database)
    );
    for row in members {
        let member: String = row.try_get(0).map_err(at_trunk)?;
        sql.push_str(&format!("GRANT {RESTORE_ROLE} TO {};", quote_identifier(&member)));
    }
    let schemas = system
        .query(
            "SELECT nspname::text FROM pg_catalog.pg_namespace
              WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'ardent')",
            &[],
        )
        .await
        .map_err(at_trunk)?;
    for row in schemas {
        let schema: String = row.try_get(0).map_err(at_trunk)?;
        let schema = quote_identifier(&schema);
        sql.push_str(&format!("GRANT CREATE ON SCHEMA {schema} TO {RESTORE_ROLE};"));
    }
    system.batch_execute(&sql).await.map_err(at_trunk)
}

/// Takes back what [`begin_restore`] gave.
pub(super) async fn end_restore(system: &Session, facts: &Facts) -> Result<(), Error> {
    let mut sql = format!("DROP OWNED BY {RESTORE_ROLE}; DROP ROLE {RESTORE_ROLE};");
    for role in facts.roles.iter().filter(|role| !role.inherit && is_mirrored(&role.name)) {
        sql.push_str(&format!("ALTER ROLE {} NOINHERIT;", quote_identifier(&role.name)));
    }
    system.batch_execute(&sql).await.map_err(at_trunk)
}

const OWNS_SQL: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
                WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
                  AND d.deptype = 'o' AND r.rolname = $1)";

/// `branch_owner` is a member of every mirrored role, with ADMIN, as the role model has it.
const GRANT_TO_OWNER_SQL: &str = "DO $$
DECLARE role text;
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'branch_owner') THEN
    FOR role IN SELECT rolname FROM pg_catalog.pg_roles r
                 WHERE rolname <> 'branch_owner' AND rolname !~ '^(ardent|pg)_'
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                                    WHERE m.roleid = r.oid AND m.admin_option
                                      AND m.member = 'branch_owner'::pg_catalog.regrole) LOOP
      EXECUTE pg_catalog.format('GRANT %I TO branch_owner WITH ADMIN OPTION', role);
    END LOOP;
  END IF;
END $$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_mirrors_power() {
        let role = RoleFacts {
            name: "admin".into(),
            inherit: true,
            create_role: true,
            create_db: true,
            login: true,
            bypass_rls: true,
        };
        let attributes = attributes(&role, 150_000, true);
        assert!(attributes.contains("NOSUPERUSER") && attributes.contains("NOREPLICATION"));
        assert!(attributes.contains("NOCREATEROLE"), "it reaches server files before 16");
        for name in ["ardent_system", "branch_owner", "pg_read_server_files", "rdsadmin"] {
            assert!(!is_mirrored(name), "{name}");
        }
        assert!(is_mirrored("postgres") && !HARMLESS_BUILTINS.contains(&"pg_write_server_files"));
    }
}
