//! Sessions that were handed off to their backends, and what becomes of server and branch around
//! them. What such a session itself does is tested with the drivers and in the crate `proxy`.

use std::time::Duration;

use crate::support::drivers::{Driver, psql};
use crate::support::server::Server;
use crate::support::session::OpenSession;
use crate::support::source::Source;
use crate::support::wait::eventually;

const SETTINGS: &str = "[proxy]\nhandoff = true\n[branch]\nsuspend_after_s = 1";

fn scene() -> (Source, Server, String) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start_with(SETTINGS);
    server.follow(&source);
    let url = branch(&server, "one");
    (source, server, url)
}

/// Cuts a branch. Only sessions in plaintext are handed off, and libpq prefers others.
fn branch(server: &Server, name: &str) -> String {
    format!("{}?sslmode=disable", server.branch(name))
}

/// A session that is not ours to relay any more.
fn handed_off(server: &Server, url: &str) -> OpenSession {
    let session = OpenSession::start(url);
    let shown = psql(&server.console_url(), "ardent show sessions").ok();
    assert!(shown.contains("|handed off|"), "{shown}");
    session
}

fn asleep(server: &Server, branch: &str) {
    eventually(Duration::from_secs(30), "the branch sleeps", || {
        server.running_compute(branch).is_none().then_some(())
    });
}

#[test]
fn a_session_outlives_the_server_and_keeps_its_branch_awake() {
    let (_source, mut server, one) = scene();
    let mut session = handed_off(&server, &one);
    let compute = server.compute_of("one");
    let two = branch(&server, "two");
    asleep(&server, "two");
    assert_eq!(session.ask("select count(*) from item"), "1", "one does not sleep");

    server.kill();
    assert_eq!(session.ask("select 'without a server'"), "without a server");
    server.start_again();
    assert_eq!(server.compute_of("one").pid, compute.pid, "the compute was found again");
    assert_eq!(Driver::Psql.rows(&two, "select count(*) from item"), "1");
    asleep(&server, "two");
    assert_eq!(session.ask("select 'no lease holds it awake'"), "no lease holds it awake");

    // The server that gave the key is dead; another one carries out the cancel.
    session.begin("select pg_sleep(600)");
    eventually(Duration::from_secs(10), "it sleeps", || {
        let sleeps =
            "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'";
        (psql(&one, sleeps).stdout.trim() == "1").then_some(())
    });
    let said = session.interrupt();
    assert!(said.contains("canceling statement due to user request"), "{said}");
    asleep(&server, "one");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");
}

#[test]
fn a_server_that_is_taken_over_need_not_wait_for_them() {
    let (_source, mut server, one) = scene();
    let session = handed_off(&server, &one);
    let old = server.take_over();
    assert!(old.has_ended_well());
    session.end();
}

#[test]
fn a_stop_and_a_delete_end_them() {
    let (_source, mut server, one) = scene();
    let compute = server.compute_of("one");
    let session = handed_off(&server, &one);
    server.ardent(&["branch", "delete", "one"]).ok();
    assert!(!server.leftovers().iter().any(|line| line.starts_with(&format!("{} ", compute.pid))));
    session.has_lost_its_server();

    let two = branch(&server, "two");
    let session = handed_off(&server, &two);
    assert!(server.interrupt().success());
    let said = session.has_lost_its_server();
    assert!(said.contains("terminating connection due to administrator command"), "{said}");
}

#[test]
fn a_client_that_dies_leaves_no_backend() {
    let (_source, server, one) = scene();
    let mut session = handed_off(&server, &one);
    session.begin("select pg_sleep(600)");
    let sleeping = || {
        let sleeps =
            "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'";
        psql(&one, sleeps).stdout.trim().to_owned()
    };
    eventually(Duration::from_secs(10), "it sleeps", || (sleeping() == "1").then_some(()));
    session.kill();
    eventually(Duration::from_secs(10), "it is gone", || (sleeping() == "0").then_some(()));
}

#[test]
fn computes_without_the_library_are_relayed_to() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let mut server = Server::start();
    server.follow(&source);
    let one = branch(&server, "one");
    let session = OpenSession::start(&one);
    let compute = server.compute_of("one");
    server.kill();
    drop(session);
    server.reconfigure(SETTINGS);
    server.start_again();
    assert_eq!(server.compute_of("one").pid, compute.pid, "started before `handoff` was on");
    let session = OpenSession::start(&one);
    let shown = psql(&server.console_url(), "ardent show sessions").ok();
    assert!(shown.contains("|idle|") && !shown.contains("handed off"), "{shown}");
    session.end();
    asleep(&server, "one");
    handed_off(&server, &one).end();
}
