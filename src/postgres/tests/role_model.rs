//! What the roles of a compute may do, and above all what they may not.

use std::time::SystemTime;

use super::super::{
    Session, forget_passwords, grant_mirrored_roles, is_reserved_role, prepare_database, verifiers,
};
use super::{Site, login};

/// Runs a statement and returns the SQLSTATE it was refused with, or `00000`.
async fn outcome(client: &tokio_postgres::Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(_) => "00000".to_owned(),
        Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

const DONE: &str = "00000";
const REFUSED: &str = "42501";

#[tokio::test]
async fn branch_owner_is_an_owner_and_no_superuser() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let owner = login(compute.socket_dir(), "branch_owner", "app").await;
    let cases = [
        ("CREATE TABLE t (x int)", DONE),
        ("COPY (SELECT 1) TO PROGRAM 'id'", REFUSED),
        ("COPY t FROM PROGRAM 'id'", REFUSED),
        ("COPY t FROM '/etc/passwd'", REFUSED),
        ("COPY t TO '/tmp/out'", REFUSED),
        ("SELECT pg_read_file('postgresql.conf')", REFUSED),
        ("SELECT pg_ls_dir('/')", REFUSED),
        ("SELECT lo_import('/etc/passwd')", REFUSED),
        ("UPDATE pg_authid SET rolsuper = true", REFUSED),
        ("ALTER SYSTEM SET fsync = off", REFUSED),
        ("ALTER ROLE branch_owner SUPERUSER", REFUSED),
        ("SET ROLE ardent_system", REFUSED),
        ("SET ROLE ardent_apply", REFUSED),
        ("GRANT pg_execute_server_program TO branch_owner", REFUSED),
        ("CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false)", REFUSED),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'abort'", REFUSED),
        ("CREATE SCHEMA s", DONE),
        ("CREATE EXTENSION IF NOT EXISTS plpgsql", DONE),
        ("CREATE DATABASE other", DONE),
        ("ALTER DATABASE app SET work_mem = '8MB'", DONE),
        ("SELECT pg_stat_reset()", REFUSED),
    ];
    for (sql, expected) in cases {
        assert_eq!(outcome(&owner, sql).await, expected, "{sql}");
    }
    Session::check_login(compute.socket_dir(), "branch_owner", "app").await.unwrap();
    for (role, database, reason) in [
        ("branch_owner", "ardent_system", "permission denied for database"),
        ("nobody", "app", "role \"nobody\" does not exist"),
        ("pg_monitor", "app", "reserved"),
        ("ardent_system", "app", "reserved"),
    ] {
        let error = Session::check_login(compute.socket_dir(), role, database).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn mirrored_roles_belong_to_the_owner_and_lose_what_reaches_the_host() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let system = Session::connect(compute.socket_dir(), "app").await.unwrap();
    let setup = r#"
        CREATE ROLE "Odd ""name" LOGIN;
        CREATE ROLE wild SUPERUSER REPLICATION CREATEROLE LOGIN;
        GRANT pg_execute_server_program, pg_read_server_files TO wild;
        CREATE SCHEMA billing AUTHORIZATION "Odd ""name";
        CREATE TABLE billing.invoice (id int PRIMARY KEY);
        ALTER TABLE billing.invoice OWNER TO "Odd ""name";
        ALTER TABLE billing.invoice ENABLE ROW LEVEL SECURITY;
        INSERT INTO billing.invoice VALUES (1)"#;
    system.client().batch_execute(setup).await.unwrap();
    for _ in 0..2 {
        grant_mirrored_roles(&system).await.unwrap();
        prepare_database(&system, "app").await.unwrap();
    }

    for role in ["branch_owner", "ardent_apply"] {
        let client = login(compute.socket_dir(), role, "app").await;
        for (sql, expected) in [
            ("SELECT id FROM billing.invoice", DONE),
            ("INSERT INTO billing.invoice VALUES (2)", DONE),
            ("TRUNCATE billing.invoice", DONE),
            ("ALTER TABLE billing.invoice ADD IF NOT EXISTS note text", DONE),
            ("SET ROLE \"Odd \"\"name\"", DONE),
            ("RESET ROLE", DONE),
            ("CREATE TABLE IF NOT EXISTS public.own (x int)", DONE),
            ("COPY billing.invoice FROM PROGRAM 'id'", REFUSED),
        ] {
            assert_eq!(outcome(&client, sql).await, expected, "{role}: {sql}");
        }
    }
    let wild = login(compute.socket_dir(), "wild", "app").await;
    assert_eq!(outcome(&wild, "COPY pg_class TO PROGRAM 'id'").await, REFUSED);
    assert_eq!(outcome(&wild, "SELECT pg_read_file('PG_VERSION')").await, REFUSED);
    assert_eq!(outcome(&wild, "CREATE ROLE more SUPERUSER").await, REFUSED);
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn apply_fires_no_triggers_of_the_source() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let apply = login(compute.socket_dir(), "ardent_apply", "app").await;
    let role = "SELECT current_setting('session_replication_role')";
    assert_eq!(apply.query_one(role, &[]).await.unwrap().get::<_, String>(0), "replica");
    let replica_only = "CREATE SCHEMA ardent; CREATE TABLE ardent.progress (lsn pg_lsn)";
    assert_eq!(outcome(&apply, replica_only).await, DONE);
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn verifiers_are_read_and_forgotten() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let system = Session::system(compute.socket_dir()).await.unwrap();
    let setup = "CREATE ROLE app LOGIN PASSWORD 'x' VALID UNTIL '2030-01-01 00:00:00+00';
                 CREATE ROLE forever LOGIN PASSWORD 'x' VALID UNTIL 'infinity';
                 CREATE ROLE past LOGIN VALID UNTIL '-infinity';
                 CREATE ROLE crowd NOLOGIN";
    system.client().batch_execute(setup).await.unwrap();
    let read = verifiers(&system).await.unwrap();
    let role = |name: &str| read.iter().find(|verifier| verifier.role == name).unwrap();
    let stored = role("app").verifier.as_ref().unwrap().reveal().to_owned();
    assert!(stored.starts_with("SCRAM-SHA-256$4096:"), "{stored}");
    assert!(!format!("{read:?}").contains("SCRAM-SHA-256"));
    assert!(role("app").valid_until.unwrap() > SystemTime::UNIX_EPOCH);
    assert_eq!(role("forever").valid_until, None);
    assert_eq!(role("past").valid_until, Some(SystemTime::UNIX_EPOCH));
    assert!(role("app").can_login && !role("crowd").can_login);
    assert!(role("branch_owner").verifier.is_none());
    assert!(read.iter().all(|verifier| !verifier.role.starts_with("ardent_")));

    forget_passwords(&system).await.unwrap();
    let after = verifiers(&system).await.unwrap();
    assert!(after.iter().all(|verifier| verifier.verifier.is_none()));
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn a_source_database_may_be_named_postgres() {
    let site = Site::with_database("postgres").await;
    let compute = site.start().await;
    let owner = login(compute.socket_dir(), "branch_owner", "postgres").await;
    assert_eq!(outcome(&owner, "CREATE TABLE t (); CREATE SCHEMA s").await, DONE);
    compute.stop().await.unwrap();
}

#[test]
fn reserves_its_names() {
    for name in ["ardent_system", "ardent_x", "branch_owner", "pg_monitor"] {
        assert!(is_reserved_role(name));
    }
    for name in ["app", "ardent", "postgres", "branch_owner2"] {
        assert!(!is_reserved_role(name));
    }
}
