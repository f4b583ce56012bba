//! Crowds at the limits, and computes that die under clients: who is refused is told so, and
//! whoever comes next is served.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_postgres::NoTls;

use crate::support::drivers::{Driver, psql, refused};
use crate::support::server::Server;
use crate::support::session::OpenSession;
use crate::support::source::Source;
use crate::support::wait::eventually;

const CLIENTS: usize = 1000;
/// What a process needs besides the crowd.
const DESCRIPTORS_TO_SPARE: u64 = 1000;

fn followed(settings: &str) -> (Source, Server) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start_with(settings);
    server.follow(&source);
    (source, server)
}

/// Room for our ends of the crowd; the server sees to its own.
fn raise_descriptor_limit() {
    let needed = u64::try_from(CLIENTS).expect("a small number") + DESCRIPTORS_TO_SPARE;
    let maximum = getrlimit(Resource::Nofile).maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("raise the limit");
}

#[test]
fn a_thousand_clients_of_a_sleeping_branch_start_one_compute() {
    raise_descriptor_limit();
    let limits = "[branch]\nsuspend_after_s = 1\n[proxy]\npreauth_max = 2000\n\
                  connections_per_address_max = 2000\nsessions_per_branch_max = 2000";
    let (_source, server) = followed(limits);
    let one = server.branch("one");
    let starts = || {
        let shown = psql(&server.console_url(), "ardent show metrics").ok();
        let line =
            shown.lines().find_map(|line| line.strip_prefix("ardent_compute_starts_total||"));
        line.and_then(|rest| rest.split('|').next()?.parse::<u32>().ok()).expect("a count")
    };
    eventually(Duration::from_secs(30), "the branch sleeps", || {
        server.running_compute("one").is_none().then_some(())
    });
    let before = starts();
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let client = async || {
        let (client, connection) = tokio_postgres::connect(&one, NoTls).await?;
        let connection = tokio::spawn(connection);
        client.simple_query("select count(*) from item").await?;
        drop(client);
        connection.await.expect("the connection ends")
    };
    let clients = (0..CLIENTS).map(|_| client());
    let ended = runtime.block_on(futures_util::future::join_all(clients));
    let refusals: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(refusals.len() < CLIENTS, "somebody is served");
    for error in &refusals {
        // A Postgres of a branch holds 100 sessions; it says so itself.
        assert_eq!(error.code().map(|code| code.code()), Some("53300"), "{error:?}");
    }
    assert_eq!(starts() - before, 1, "of one compute");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");
}

#[test]
fn whoever_meets_a_compute_that_is_killed_is_told_so_and_the_next_is_served() {
    let (_source, mut server) = followed("");
    let one = server.branch("one");
    // In a query.
    let mut open = OpenSession::start(&one);
    open.begin("select pg_sleep(600)");
    eventually(Duration::from_secs(10), "it sleeps", || {
        let sleeps =
            "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'";
        (psql(&one, sleeps).stdout.trim() == "1").then_some(())
    });
    server.compute_of("one").kill_and_wait();
    open.has_lost_its_server();
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");

    // Between logging in and the first query: a crowd of short sessions.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let one = one.clone();
            std::thread::spawn(move || psql(&one, "select count(*) from item"))
        })
        .collect();
    server.compute_of("one").kill_and_wait();
    for client in clients {
        let said = client.join().expect("psql ends");
        assert!(said.code == 0 && said.stdout == "1\n" || said.code == 2, "{said:?}");
    }
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");

    // While waking.
    assert!(server.interrupt().success());
    server.start_again();
    let waker = std::thread::spawn({
        let one = one.clone();
        move || psql(&one, "select count(*) from item")
    });
    let compute =
        eventually(Duration::from_secs(20), "it starts", || server.running_compute("one"));
    compute.kill_and_wait();
    let said = waker.join().expect("psql ends");
    assert!(said.code == 0 && said.stdout == "1\n" || said.code == 2, "{said:?}");
    eventually(Duration::from_secs(20), "the next is served", || {
        (psql(&one, "select count(*) from item").code == 0).then_some(())
    });
    assert_eq!(refused(&one.replace("branch_owner.", "nobody.")).sqlstate, "28P01");
}
