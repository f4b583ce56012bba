//! Who may log in to a branch is what the branch itself says, awake, asleep and after a crash.

use std::time::Duration;

use tokio_postgres::NoTls;

use crate::support::drivers::{psql, refused};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

fn asleep(server: &Server) {
    eventually(Duration::from_secs(30), "the branch sleeps", || {
        server.running_compute("one").is_none().then_some(())
    });
}

/// The branch's URL for another role.
fn login(url: &str, role: &str, password: &str) -> String {
    let (_, host) = url.rsplit_once('@').expect("a host");
    format!("postgresql://{role}.one:{password}@{host}")
}

/// SQL as the server itself, over the compute's own socket.
fn as_system(server: &Server, sql: &str) {
    let socket = server.info("one")["compute_socket"].as_str().expect("it runs").to_owned();
    psql(&format!("host={socket} user=ardent_system dbname=ardent_system"), sql).ok();
}

#[test]
fn a_role_altered_in_a_branch_is_honoured_awake_asleep_and_after_a_crash() {
    let source = Source::start();
    source.sql("create role app login; create table item (id bigint primary key)");
    let server = Server::start_with("[branch]\nsuspend_after_s = 1");
    server.follow(&source);
    let one = server.branch("one");
    let may = |password: &str| psql(&login(&one, "app", password), "select current_user").ok();
    let may_not = |password: &str| {
        let said = refused(&login(&one, "app", password));
        assert_eq!(said.sqlstate, "28P01", "{said:?}");
    };
    may_not("first");
    psql(&one, "set role app; alter role app password 'first'").ok();
    assert_eq!(may("first"), "app", "awake");
    asleep(&server);
    may_not("wrong");
    assert!(server.running_compute("one").is_none(), "a wrong password wakes nothing");
    assert_eq!(may("first"), "app", "asleep");

    psql(&one, "set role app; alter role app password 'second'").ok();
    may_not("first");
    server.compute_of("one").kill_and_wait();
    eventually(Duration::from_secs(30), "the log tells of the crash", || {
        server.log_text().contains("compute ended unasked").then_some(())
    });
    asleep(&server);
    may_not("first");
    assert_eq!(may("second"), "app", "what was changed before a crash counts");

    psql(&one, "select 1").ok();
    as_system(&server, "alter role app valid until '2001-01-01'");
    may_not("second");
    asleep(&server);
    may_not("second");
    psql(&one, "select 1").ok();
    as_system(&server, "alter role app valid until 'infinity' nologin");
    may_not("second");
    asleep(&server);
    may_not("second");
    assert!(server.running_compute("one").is_none(), "who may not log in wakes nothing");
}

#[test]
fn hundreds_of_clients_at_one_sleeping_branch_start_one_compute() {
    const CLIENTS: usize = 300;
    let source = Source::start();
    let settings = "[proxy]\nsessions_per_branch_max = 1000\n[branch]\nsuspend_after_s = 2";
    let server = Server::start_with(settings);
    server.follow(&source);
    let one = server.branch("one");
    asleep(&server);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let connect = |_: usize| {
        let one = one.clone();
        runtime.spawn(async move {
            let (client, connection) = tokio_postgres::connect(&one, NoTls).await?;
            tokio::spawn(connection);
            let row = client.query_one("select pg_postmaster_start_time()::text", &[]).await?;
            Ok::<String, tokio_postgres::Error>(row.get(0))
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(connect).collect();
    let mut starts = Vec::new();
    for client in clients {
        match runtime.block_on(client).expect("the client ends") {
            Ok(start) => starts.push(start),
            // The compute has room for a hundred.
            Err(error) => assert_eq!(error.code().expect("a SQLSTATE").code(), "53300", "{error}"),
        }
    }
    starts.dedup();
    assert_eq!(starts.len(), 1, "one start serves them all: {starts:?}");
}
