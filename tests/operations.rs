//! What an operator does to a server that runs: encryption, reload, monitoring, takeover.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::drivers::{Driver, psql};
use crate::support::processes;
use crate::support::server::Server;
use crate::support::session::{Load, OpenSession};
use crate::support::source::{Source, free_port};
use crate::support::wait::eventually;

fn followed() -> (Source, Server) {
    followed_by(Server::start())
}

fn followed_by(server: Server) -> (Source, Server) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    server.follow(&source);
    (source, server)
}

/// The same branch by another name of the host, encrypted and verified.
fn verified(server: &Server, url: &str, host: &str) -> String {
    let ca = server.data_dir().join("tls/ca.crt");
    let url = url.replace("127.0.0.1", host);
    format!("{url}?sslmode=verify-full&channel_binding=require&sslrootcert={}", ca.display())
}

#[test]
fn encryption_needs_no_preparation() {
    let (_source, server) = followed_by(Server::listening_on(&["127.0.0.1", "[::1]"]));
    let one = server.branch("one");
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let url = verified(&server, &one, host);
        let cipher = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        assert_eq!(psql(&url, "select count(*) from item").ok(), "1", "{host}");
        assert_eq!(psql(&url, cipher).ok(), "", "the compute sees a unix socket");
    }
    let shown = psql(&server.console_url(), "ardent show config").ok();
    let ca = format!("tls_ca_file|{}|generated", server.data_dir().join("tls/ca.crt").display());
    assert!(shown.contains(&ca), "{shown}");
}

#[test]
fn a_reload_drops_nobody_and_refuses_what_is_broken() {
    let (_source, server) = followed();
    let one = server.branch("one");
    let open = OpenSession::start(&one);
    server.reconfigure("[proxy]\nrequire_tls = true\nhost = \"elsewhere\"");
    processes::signal(server.pid(), Signal::HUP);
    let plain = format!("{one}?sslmode=disable");
    eventually(Duration::from_secs(10), "plaintext is refused", || {
        psql(&plain, "select 1").stderr.contains("connection requires TLS").then_some(())
    });
    assert_eq!(psql(&verified(&server, &one, "localhost"), "select 1").ok(), "1");
    eventually(Duration::from_secs(10), "the log names what needs a restart", || {
        server.log_text().contains("proxy.host").then_some(())
    });
    server.reconfigure("[proxy]\nrequire_tls = false\nnonsense = 1");
    processes::signal(server.pid(), Signal::HUP);
    eventually(Duration::from_secs(10), "the log says why", || {
        server.log_text().contains("unknown field `nonsense`").then_some(())
    });
    assert!(
        psql(&plain, "select 1").stderr.contains("connection requires TLS"),
        "the old configuration holds"
    );
    server.reconfigure("");
    processes::signal(server.pid(), Signal::HUP);
    eventually(Duration::from_secs(10), "plaintext passes again", || {
        (psql(&plain, "select 1").code == 0).then_some(())
    });
    open.end();
}

fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn monitoring_sees_what_goes_on_and_no_secret() {
    let port = free_port();
    let settings = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"");
    let (_source, server) = followed_by(Server::start_with(&settings));
    let one = server.branch("one");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");
    assert!(http(port, "/health").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(http(port, "/").starts_with("HTTP/1.1 404 "));
    let lines = [
        "ardent_branches 1",
        "ardent_connector_ready{connector=\"prod\"} 1",
        "ardent_computes{state=\"running\"} 2",
        "ardent_proxy_routed_total{source=\"user\"} 1",
        "ardent_proxy_authentications_total{result=\"ok\"} 1",
        "ardent_proxy_wake_duration_seconds_count 1",
        "# TYPE ardent_proxy_connect_duration_seconds histogram",
    ];
    // The trunk starts again once the branch is up.
    let text = eventually(Duration::from_secs(20), "every line is there", || {
        let text = http(port, "/metrics");
        lines.iter().all(|line| text.lines().any(|found| found == *line)).then_some(text)
    });
    assert!(!text.contains("branch_owner"), "{text}");
    let shown = psql(&server.console_url(), "ardent show metrics").ok();
    assert!(shown.contains("ardent_branches||1|gauge|Branches that exist."), "{shown}");
    assert_eq!(psql(&server.console_url(), "ardent show jobs").ok(), "");
}

#[test]
fn another_server_takes_over_and_nobody_is_refused() {
    let (_source, mut server) = followed();
    let one = server.branch("one");
    let compute = server.compute_of("one");
    let store = server.store();
    let (mut before, mut sleeper) = (OpenSession::start(&one), OpenSession::start(&one));
    let load = Load::start(&one);
    let old = server.take_over();
    assert_eq!(before.ask("select 'served by the old one'"), "served by the old one");
    assert_eq!(server.compute_of("one").pid, compute.pid, "the compute stays");
    assert_eq!(server.store().pid, store.pid, "the store stays");
    let fresh = server.branch("two");
    assert_eq!(Driver::Psql.rows(&fresh, "select count(*) from item"), "1");
    // A cancel of a session of the old server comes in by the new one.
    sleeper.begin("select pg_sleep(600)");
    eventually(Duration::from_secs(10), "it sleeps", || {
        let sleeps =
            "select count(*) from pg_stat_activity where query like 'select pg_sleep(600)%'";
        (psql(&one, sleeps).stdout.trim() == "1").then_some(())
    });
    let said = sleeper.interrupt();
    assert!(said.contains("canceling statement due to user request"), "{said}");
    before.end();
    let (served, refused) = load.end();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(served > 5, "{served} connections");
    assert!(old.has_ended_well(), "the old server ends with its last session");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1");
}

/// Open descriptors and resident kilobytes of the server.
fn held(server: &Server) -> (usize, u64) {
    let pid = server.pid();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let resident = line.split_whitespace().nth(1).and_then(|n| n.parse().ok());
    (descriptors.count(), resident.expect("a number"))
}

#[test]
fn a_crowd_leaves_no_descriptor_and_no_memory_behind() {
    const ROUNDS: usize = 12;
    const CLIENTS: usize = 25;
    const GROWTH_KIB: u64 = 6 * 1024;
    let (_source, server) = followed();
    let one = server.branch("one");
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let crowd = || {
        let clients = (0..CLIENTS).map(|_| tokio_postgres::connect(&one, tokio_postgres::NoTls));
        runtime.block_on(async {
            for connected in futures_util::future::join_all(clients).await {
                let (client, connection) = connected.expect("connect");
                let connection = tokio::spawn(connection);
                client.simple_query("select 1").await.expect("select 1");
                drop(client);
                connection.await.expect("it ends").expect("in order");
            }
        });
        let sessions = "select count(*) from pg_stat_activity where usename = 'branch_owner'";
        eventually(Duration::from_secs(20), "the crowd is gone", || {
            (psql(&one, sessions).stdout.trim() == "1").then_some(())
        });
    };
    crowd();
    let (descriptors, resident) = held(&server);
    (0..ROUNDS).for_each(|_| crowd());
    eventually(Duration::from_secs(20), "descriptors are given back", || {
        (held(&server).0 <= descriptors + 2).then_some(())
    });
    let grown = held(&server).1.saturating_sub(resident);
    assert!(grown <= GROWTH_KIB, "{grown} KiB more after {} sessions", ROUNDS * CLIENTS);
}
