//! The life of a branch after it was cut: children, passwords, locks, sleep.

use std::time::Duration;

use crate::support::drivers::{Driver, psql, refused};
use crate::support::pgbench::assert_invariant;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;
use crate::support::workload::Pgbench;

#[test]
fn a_child_of_a_running_branch_holds_what_its_parent_held() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start();
    server.follow(&source);
    let parent = server.branch("parent");
    psql(&parent, "insert into item values (2); alter role branch_owner password 'own'").ok();
    let child = server.ardent(&["branch", "create", "child", "--from", "parent", "--print-url"]);
    let child = child.ok();
    assert_eq!(psql(&child, "select count(*) from item").ok(), "2", "the parent's commit");
    let passwords = "select count(*) from pg_authid where rolpassword is not null";
    assert_eq!(psql(&parent, passwords).ok(), "1");
    assert_eq!(psql(&child, passwords).ok(), "0", "passwords of the parent's roles");
    psql(&child, "insert into item values (3)").ok();
    psql(&parent, "insert into item values (4), (5)").ok();
    assert_eq!(psql(&child, "select max(id) from item").ok(), "3");
    assert_eq!(psql(&parent, "select count(*) from item where id = 3").ok(), "0");
    assert_eq!(server.info("child")["parent"], "parent");

    server.ardent(&["branch", "delete", "parent"]).ok();
    assert_eq!(psql(&child, "select count(*) from item").ok(), "3", "the parent is gone");
}

/// Its pages and its log are copied one after the other, while both change.
#[test]
fn children_of_a_busy_branch_hold_one_moment_of_it_each() {
    let source = Source::start();
    source.pgbench(2);
    let server = Server::start();
    server.follow(&source);
    let parent = server.branch("busy");
    psql(&parent, "create table marker (id bigint primary key)").ok();
    let load = Pgbench::on_branch(&source, &parent);
    for number in 1..=3 {
        // Log that a checkpoint removes goes while forks are made.
        let switched = "select pg_switch_wal(); checkpoint";
        psql(&superuser(&server, "busy"), &format!("insert into marker values ({number})")).ok();
        let checkpoint = std::thread::spawn({
            let url = superuser(&server, "busy");
            move || psql(&url, switched).ok()
        });
        let name = format!("b{number}");
        server.ardent(&["branch", "create", &name, "--from", "busy"]).ok();
        checkpoint.join().expect("a checkpoint");
        let child = superuser(&server, &name);
        assert_eq!(psql(&child, "select max(id) from marker").ok(), number.to_string());
        assert_invariant(Driver::Psql, &child);
        let indexes = "create extension amcheck; \
                       select count(bt_index_check(c.oid, true)) > 100 from pg_class c \
                       join pg_am a on a.oid = c.relam \
                       where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p'";
        assert!(psql(&child, indexes).ok().ends_with('t'));
    }
    load.stop();
    server.assert_store_is_sound();
}

/// The compute's own socket, past the front door.
fn superuser(server: &Server, branch: &str) -> String {
    let socket = server.info(branch)["compute_socket"].as_str().expect("a socket").to_owned();
    superuser_at(&socket)
}

fn superuser_at(socket: &str) -> String {
    format!("postgresql:///postgres?host={socket}&user=ardent_system")
}

/// What the trunk logs between two cuts, the next branch has to recover.
#[test]
fn a_trunk_runs_on_when_it_is_cut_and_keeps_its_log_short_for_the_next() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    let trunk = superuser_at(&server.data_dir().join("run/1").display().to_string());
    let started = psql(&trunk, "select pg_postmaster_start_time()").ok();
    let log =
        "select pg_current_wal_insert_lsn() - redo_lsn > 1000000 from pg_control_checkpoint()";
    source.sql("insert into item select generate_series(1, 20000)");
    let branch = server.branch("one");
    assert_eq!(psql(&branch, "select count(*) from item").ok(), "20000");
    source.sql("insert into item select generate_series(20001, 40000)");
    // Sooner than Postgres' own next checkpoint, unless that is due by chance.
    eventually(Duration::from_secs(15), "the log is short again", || {
        let has_all = psql(&trunk, "select count(*) from item").ok() == "40000";
        (has_all && psql(&trunk, log).ok() == "f").then_some(())
    });
    assert_eq!(psql(&trunk, "select pg_postmaster_start_time()").ok(), started);
}

/// A branch that reached its limit is told so, goes on, and is as it was after a restart.
#[test]
fn a_branch_holds_no_more_of_its_own_than_it_may() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let mut server = Server::start();
    server.follow(&source);
    let create = ["branch", "create", "small", "--max-size", "60MB", "--print-url"];
    let url = server.ardent(&create).ok();
    assert_eq!(server.ardent(&create).ok(), url, "the same request again");
    server.ardent(&["branch", "create", "small"]).failed(1);
    assert_eq!(server.info("small")["max_size_bytes"], 60 << 20);
    psql(&url, "create table filler (text text); insert into item values (1)").ok();
    psql(&url, "alter table filler alter text set storage plain").ok();
    server.kill();
    server.start_again();
    let piece = "insert into filler select repeat('x', 7000) from generate_series(1, 500)";
    let refused = (0..100).map(|_| psql(&url, piece)).find(|said| said.code != 0);
    let refused = refused.expect("an end of the space").stderr;
    assert!(refused.contains("Disk quota exceeded"), "{refused}");
    psql(&url, "update item set id = id + 1; truncate filler").ok();
    psql(&url, piece).ok();
    server.branch("unlimited");
    assert!(server.info("unlimited")["max_size_bytes"].is_null());
}

#[test]
fn a_rotated_password_is_the_only_one_that_counts() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    let old = server.branch("b1");
    let said = server.ardent(&["branch", "rotate-password", "b1"]).ok();
    let new = said.lines().last().unwrap_or_default();
    assert_eq!(refused(&old).sqlstate, "28P01");
    assert_eq!(psql(new, "select 1").ok(), "1");
    assert_eq!(server.ardent(&["branch", "info", "b1", "--print-url"]).ok(), new);
}

#[test]
fn a_locked_connector_is_not_deleted() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let mut server = Server::start();
    server.follow(&source);
    server.ardent(&["connector", "lock", "prod", "--reason", "it is production"]).ok();
    server.kill();
    server.start_again();
    let refused = server.ardent(&["connector", "delete", "prod", "--force"]).failed(1);
    assert!(refused.contains("it is production") && refused.contains("unlock"), "{refused}");
    server.ardent(&["connector", "unlock", "prod"]).ok();
    server.ardent(&["connector", "delete", "prod"]).ok();
    assert_eq!(source.traces(), "", "left on the source");
}

#[test]
fn an_idle_branch_sleeps_and_a_connection_wakes_it() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start_with("[branch]\nsuspend_after_s = 1\n");
    server.follow(&source);
    let url = server.branch("b1");
    psql(&url, "insert into item values (1)").ok();
    let asleep = || server.running_compute("b1").is_none().then_some(());
    eventually(Duration::from_secs(60), "the branch sleeps", asleep);
    let wrong = url.replace("branch_owner.b1:", "branch_owner.b1:x");
    assert_eq!(refused(&wrong).sqlstate, "28P01");
    assert!(server.running_compute("b1").is_none(), "a wrong password woke the branch");
    assert_eq!(psql(&url, "select count(*) from item").ok(), "1", "woken by a connection");
}
