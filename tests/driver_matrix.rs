//! What the users of each driver do, through the front door: encrypted and not, awake and asleep.

use std::process::Command;
use std::time::Duration;

use crate::support::cli::{bounded, run};
use crate::support::drivers::{java, node, psql, python};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;
use crate::{sqlx, tokio_postgres};

type Script = fn() -> Command;

/// The drivers that each script knows.
const SCRIPTS: [(Script, &[&str]); 3] = [
    (
        || python("matrix.py"),
        &["psycopg", "psycopg2", "asyncpg", "pg8000", "sqlalchemy", "alembic", "django"],
    ),
    (|| node("matrix.js"), &["pg", "postgres", "prisma"]),
    (|| java("matrix.java"), &["jdbc"]),
];
const HANDED_OFF: &str = "[proxy]\nhandoff = true";

fn scene(more: &str) -> (Source, Server, String) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start_with(&format!("[branch]\nsuspend_after_s = 1\n{more}"));
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
    let (_source, server, plain) = scene("");
    for url in [plain.clone(), encrypted(&server, &plain)] {
        every_driver(&server, &url);
    }
    let left = "select count(*) from pg_class where relkind = 'r' and relname <> 'item' \
                and relnamespace = 'public'::regnamespace";
    assert_eq!(psql(&plain, left).ok(), "0", "the scripts clean up");
}

#[test]
fn every_driver_does_it_when_its_session_is_handed_off() {
    let (_source, server, url) = scene(HANDED_OFF);
    every_driver(&server, &format!("{url}?sslmode=disable"));
    let shown = psql(&server.console_url(), "ardent show metrics").ok();
    let counted = shown.lines().find_map(|line| {
        line.strip_prefix("ardent_proxy_handed_off_total||")?.split('|').next()?.parse().ok()
    });
    let scripted: usize = SCRIPTS.iter().map(|(_, drivers)| drivers.len()).sum();
    assert!(counted.is_some_and(|count: usize| count > scripted), "{shown}");
}

fn every_driver(server: &Server, url: &str) {
    for (script, drivers) in SCRIPTS {
        for driver in drivers {
            answers(server, script(), driver, url);
        }
    }
    for does_it in [sqlx::does_it, tokio_postgres::does_it] {
        asleep(server);
        does_it(url);
    }
}

#[test]
fn the_tools_of_postgres_work_through_the_front_door() {
    let (_source, server, plain) = scene("");
    every_tool(&server, &[plain.clone(), encrypted(&server, &plain)]);
    let (_source, server, url) = scene(HANDED_OFF);
    every_tool(&server, &[format!("{url}?sslmode=disable")]);
}

fn every_tool(server: &Server, urls: &[String]) {
    let scratch = server.data_dir().with_file_name("dump");
    for url in urls {
        let tool = |program: &str| {
            let mut command = bounded(program);
            command.env("PGOPTIONS", "-c client_min_messages=warning");
            command
        };
        run(tool("pgbench").args(["-i", "-s", "1", "-q", url])).ok();
        for protocol in ["simple", "extended", "prepared"] {
            let arguments = ["-n", "-c", "4", "-t", "50", "-M", protocol, url];
            run(tool("pgbench").args(arguments)).ok();
        }
        run(tool("pgbench").args(["-n", "-C", "-S", "-c", "4", "-t", "10", url])).ok();
        run(tool("pg_dump")
            .args(["-Fd", "-j", "3", "-t", "pgbench_*", "-f"])
            .arg(&scratch)
            .arg(url))
        .ok();
        psql(
            url,
            "drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers",
        )
        .ok();
        run(tool("pg_restore").args(["-j", "3", "-d", url]).arg(&scratch)).ok();
        assert_eq!(psql(url, "select count(*) from pgbench_accounts").ok(), "100000");
        std::fs::remove_dir_all(&scratch).expect("remove the dump");
    }
}
