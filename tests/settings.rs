//! Settings of a connector, and what they do to its new branches.

use crate::support::drivers::psql;
use crate::support::server::Server;
use crate::support::source::Source;

const SCHEMA: &str = "
    create role app nologin; grant create on schema public to app;
    create table customer (id bigint primary key, email text);
    alter table customer owner to app;
    insert into customer values (1, 'alice@example.com');
    create extension hstore;";

#[test]
fn settings_read_as_documented() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    let listed = server.ardent(&["settings", "list"]).ok();
    let expected = "Connector: prod\n\
        \x20 default_db          (not set)   Database that URLs of new branches name\n\
        \x20 branch_sql          (not set)   SQL to run on every new branch after creation\n";
    assert!(listed.starts_with(expected), "{listed}");
    let set = server.ardent(&["settings", "set", "default_db", "scratch"]).ok();
    assert_eq!(set, "✓ Set default_db → scratch");
    let listed = server.ardent(&["settings", "list"]).ok();
    assert!(listed.contains("  default_db          scratch\n"), "{listed}");
    let set = server.ardent(&["settings", "set", "suspend_after", "900s"]).ok();
    assert_eq!(set, "✓ Set suspend_after → 15min");
    assert_eq!(server.ardent(&["settings", "remove", "default_db"]).ok(), "✓ Removed default_db");
    server.ardent(&["settings", "set", "suspend_after", "soon"]).failed(2);
    let typo = server.ardent(&["settings", "set", "branch_sq", "x"]).failed(2);
    assert!(typo.contains("Did you mean \"branch_sql\"?"), "{typo}");
}

#[test]
fn hooks_run_once_in_order_as_the_role_and_in_the_database_they_name() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    let hook = |name: &str, order: &str, sql: &str, more: &[&str]| {
        let set = ["settings", "set", "branch_sql", sql, "--hook", name, "--order", order];
        server.ardent(&[set.as_slice(), more].concat()).ok()
    };
    hook("log", "9", "insert into ran select 'log', current_user from ran limit 1", &[]);
    let mask =
        "create table ran (hook text, who text); insert into ran values ('mask', current_user);
                grant all on ran to public; update customer set email = 'x'";
    hook("mask", "1", mask, &["--run-as", "app"]);
    hook("database", "0", "create database scratch", &[]);
    hook("other", "5", "create table here (a int)", &["--database", "scratch"]);
    server.ardent(&["settings", "set", "default_db", "scratch"]).ok();
    let url = server.branch("b1");
    assert!(url.ends_with("/scratch"), "{url}");
    assert_eq!(psql(&url, "select count(*) from here").ok(), "0");
    let url = url.replace("/scratch", "/postgres");
    let ran = psql(&url, "select hook || ' ' || who from ran order by hook desc").ok();
    assert_eq!(ran, "mask app\nlog branch_owner");
    assert_eq!(psql(&url, "select email from customer").ok(), "x");
    assert_eq!(source.sql("select email from customer"), "alice@example.com");
    let parts = server.ardent(&["settings", "list"]).ok();
    assert!(parts.contains("branch_sql mask"), "{parts}");
    server.ardent(&["settings", "remove", "branch_sql"]).ok();
    server.ardent(&["settings", "remove", "default_db"]).ok();
    let url = server.branch("b2");
    assert_eq!(psql(&url, "select email from customer").ok(), "alice@example.com");
}

#[test]
fn a_branch_whose_hook_failed_is_never_connectable() {
    let source = Source::start();
    source.sql(SCHEMA);
    let mut server = Server::start();
    server.follow(&source);
    let template = server.branch("template");
    server.ardent(&["settings", "set", "branch_sql", "select 1/0", "--hook", "mask"]).ok();
    let failed = server.ardent(&["branch", "create", "b1"]).failed(1);
    assert!(failed.contains("hook \"mask\" failed on branch \"b1\": division by zero"), "{failed}");
    for _restarted in [false, true] {
        let info = server.info("b1");
        assert_eq!(info["status"], "failed");
        assert!(info["url"].is_null(), "{info}");
        assert!(info["warnings"].as_str().is_some_and(|said| said.contains("division")), "{info}");
        let guessed = template.replace(".template", ".b1");
        psql(&guessed, "select 1").failed(2);
        psql(&template, "select 1").ok();
        server.ardent(&["branch", "create", "b2", "--from", "b1"]).failed(1);
        server.ardent(&["branch", "rotate-password", "b1"]).failed(1);
        server.kill();
        server.start_again();
    }
    server.ardent(&["settings", "remove", "branch_sql", "--hook", "mask"]).ok();
    let url = server.branch("b1");
    assert_eq!(psql(&url, "select count(*) from customer").ok(), "1", "created again");
    server.ardent(&["branch", "delete", "b1"]).ok();
}

#[test]
fn dropped_extensions_are_not_in_new_branches() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    let extensions = "select count(*) from pg_extension where extname = 'hstore'";
    assert_eq!(psql(&server.branch("with"), extensions).ok(), "1");
    let update = ["connector", "update", "prod", "--drop-extensions", "hstore,pgmq"];
    let said = server.ardent(&update).ok();
    assert_eq!(said, "✓ Connector updated\n  Dropped extensions: hstore,pgmq");
    assert_eq!(psql(&server.branch("without"), extensions).ok(), "0");
    let said = server.ardent(&["connector", "update", "prod", "--drop-extensions", ""]).ok();
    assert_eq!(said, "✓ Connector updated\n  Dropped extensions: (none)");
    assert_eq!(psql(&server.branch("again"), extensions).ok(), "1");
}

#[test]
fn a_database_made_in_a_branch_sorts_as_those_of_the_source() {
    let source = Source::start();
    let server = Server::start();
    server.follow(&source);
    let branch = server.branch("b");
    psql(&branch, "create database other").ok();
    let sql = "select distinct encoding, datlocprovider, datcollate, datctype, datcollversion \
               from pg_database";
    assert_eq!(psql(&branch, sql).ok(), source.sql(sql));
}
