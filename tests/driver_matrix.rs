//! What the users of each driver do, through the front door: encrypted and not, awake and asleep.

use std::process::Command;
use std::time::Duration;

use crate::support::cli::{bounded, run};
use crate::support::drivers::{node, psql, python};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

const PYTHON: [&str; 6] = ["psycopg", "psycopg2", "asyncpg", "pg8000", "sqlalchemy", "django"];
const NODE: [&str; 2] = ["pg", "postgres"];

fn scene() -> (Source, Server, String) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start_with("[branch]\nsuspend_after_s = 1");
    server.follow(&source);
    let url = server.branch("one");
    (source, server, url)
}

fn encrypted(server: &Server, url: &str) -> String {
    let ca = server.data_dir().join("tls/ca.crt");
    let url = url.replace("127.0.0.1", "localhost");
    format!("{url}?sslmode=verify-full&sslrootcert={}", ca.display())
}

fn asleep(server: &Server) {
    eventually(Duration::from_secs(30), "the branch sleeps", || {
        server.running_compute("one").is_none().then_some(())
    });
}

#[track_caller]
fn answers(server: &Server, mut script: Command, driver: &str, url: &str) {
    // Each begins with a wake.
    asleep(server);
    let said = run(script.args([driver, url]));
    assert_eq!(said.stdout.trim(), "ok", "{driver} {url}: {said:#?}");
}

#[test]
fn every_driver_does_what_it_does_with_any_postgres() {
    let (_source, server, plain) = scene();
    for url in [plain.clone(), encrypted(&server, &plain)] {
        for driver in PYTHON {
            answers(&server, python("matrix.py"), driver, &url);
        }
        for driver in NODE {
            answers(&server, node("matrix.js"), driver, &url);
        }
    }
    let left = "select count(*) from pg_class where relkind = 'r' and relname <> 'item' \
                and relnamespace = 'public'::regnamespace";
    assert_eq!(psql(&plain, left).ok(), "0", "the scripts clean up");
}

#[test]
fn the_tools_of_postgres_work_through_the_front_door() {
    let (_source, server, plain) = scene();
    let scratch = server.data_dir().with_file_name("dump");
    for url in [plain.clone(), encrypted(&server, &plain)] {
        let tool = |program: &str| {
            let mut command = bounded(program);
            command.env("PGOPTIONS", "-c client_min_messages=warning");
            command
        };
        run(tool("pgbench").args(["-i", "-s", "1", "-q", &url])).ok();
        for protocol in ["simple", "extended", "prepared"] {
            let arguments = ["-n", "-c", "4", "-t", "50", "-M", protocol, &url];
            run(tool("pgbench").args(arguments)).ok();
        }
        run(tool("pgbench").args(["-n", "-C", "-S", "-c", "4", "-t", "10", &url])).ok();
        run(tool("pg_dump")
            .args(["-Fd", "-j", "3", "-t", "pgbench_*", "-f"])
            .arg(&scratch)
            .arg(&url))
        .ok();
        psql(
            &url,
            "drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
        )
        .ok();
        run(tool("pg_restore").args(["-j", "3", "-d", &url]).arg(&scratch)).ok();
        assert_eq!(psql(&url, "select count(*) from pgbench_accounts").ok(), "100000");
        std::fs::remove_dir_all(&scratch).expect("remove the dump");
    }
}
