//! What a branch lets its users do: ownership and grants mean what they mean on the source, and
//! nobody gets out of the branch.

use crate::support::drivers::psql;
use crate::support::server::Server;
use crate::support::source::Source;

const SCHEMA: &str = "
    create role app login; create role reporting; grant reporting to app;
    create schema app authorization app;
    create table app.account (id bigint primary key, owner text, balance int);
    alter table app.account owner to app;
    grant usage on schema app to reporting; grant select on app.account to reporting;
    insert into app.account values (1, 'alice', 10), (2, 'bob', 20);
    alter table app.account enable row level security;
    create policy own on app.account to reporting using (owner = 'alice');
    create function app.who() returns text language sql security definer
      return current_user;
    alter function app.who() owner to app;
    create function app.balance_ok(int) returns boolean language plpgsql as
      $$ begin return $1 >= 0; end $$;
    alter table app.account add check (app.balance_ok(balance));";

#[test]
fn ownership_grants_and_row_security_are_those_of_the_source() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    source.sql("insert into app.account values (3, 'alice', 30)");
    let url = server.branch("roles");
    let said = |sql: &str| psql(&url, sql).ok();
    assert_eq!(said("select current_user"), "branch_owner");
    assert_eq!(said("select count(*) from app.account"), "3", "the owner sees every row");
    assert_eq!(said("set role reporting; select sum(balance) from app.account"), "40");
    assert_eq!(said("select app.who()"), "app");
    let owner = "select tableowner from pg_tables where tablename = 'account'";
    assert_eq!(said(owner), "app");
    said("alter table app.account add column note text; create table app.mine (id int)");
    said(
        "create schema fresh; create table fresh.t as select 1 as one; create index on fresh.t (one)",
    );
    let denied = psql(&url, "set role reporting; delete from app.account").failed(1);
    assert!(denied.contains("42501"), "{denied}");
    assert!(psql(&url, "insert into app.account values (4, 'x', -1)").failed(1).contains("23514"));
}

#[test]
fn nobody_gets_out_of_a_branch() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    let url = server.branch("closed");
    let superusers = "select count(*) from pg_roles where rolsuper and rolname <> 'ardent_system'";
    assert_eq!(psql(&url, superusers).ok(), "0");
    for sql in [
        "copy app.account to program 'id'",
        "copy app.account from program 'id'",
        "copy app.account to '/tmp/out'",
        "select pg_read_file('postgresql.conf')",
        "select pg_ls_dir('.')",
        "alter system set fsync = off",
        "set role ardent_system",
        "set role ardent_apply",
        "alter role branch_owner superuser",
        "grant pg_execute_server_program to branch_owner",
        "create subscription s connection 'host=127.0.0.1' publication p",
        "create function f() returns int language c as '/lib/x.so', 'f'",
        "select lo_import('/etc/passwd')",
        "set session_replication_role = replica",
    ] {
        let said = psql(&url, sql).failed(1);
        assert!(said.contains("42501"), "{sql}: {said}");
    }
    // pg_read_all_data shows pg_authid too; no password of the source or of ours is in it.
    assert_eq!(psql(&url, "select count(rolpassword) from pg_authid").ok(), "0");
}

#[test]
fn each_compute_runs_under_a_uid_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        // Started unprivileged, the whole server is one trust domain: there is nothing to see.
        return;
    }
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    server.branch("one");
    server.branch("two");
    let computes = [server.compute_of("one"), server.compute_of("two"), server.trunk_compute()];
    let uids: Vec<String> = computes.iter().map(|compute| field(compute.pid, "Uid:")).collect();
    assert!(uids.iter().all(|uid| uid != "0"), "{uids:?}");
    assert!(uids[0] != uids[1] && uids[1] != uids[2] && uids[0] != uids[2], "{uids:?}");
    for compute in computes {
        assert_eq!(field(compute.pid, "NoNewPrivs:"), "1", "{compute:?}");
    }
}

/// The first value of a line of /proc/PID/status.
fn field(pid: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}
