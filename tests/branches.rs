//! The life of a branch after it was cut: children, passwords, locks, sleep.

use std::time::Duration;

use crate::support::drivers::{psql, refused};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

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
