//! What a branch costs in time, from the statement to the first answer of the branch, beside the
//! ordinary ways to copy a database: `cp -a` of the data directory, `CREATE DATABASE ... TEMPLATE`.
//!
//! All of it in one run on one machine, so that the ratios mean something whatever the machine.

#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::cli::{bounded, run};
use support::drivers::psql;
use support::processes;
use support::scratch::Scratch;
use support::server::Server;
use support::source::{Source, free_port, give_to_account, postmaster};
use support::wait::eventually;
use support::workload::Pgbench;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// pgbench scale and what it amounts to on disk.
const SIZES: [(u32, &str); 2] = [(7, "100 MB"), (68, "1 GB")];
const CREATES: usize = 15;
const COPIES: usize = 3;
/// The steps that the server logs with a new branch, in order.
const STEPS: [(&str, &str); 4] = [
    ("freshness wait", "freshness_ms="),
    ("quiesce", "quiesce_ms="),
    ("fork", "fork_ms="),
    ("start", "start_ms="),
];

fn main() {
    println!("medians in ms; every line ends with the first answer to `select 1`");
    for (scale, size) in SIZES {
        let source = Source::with(&[("fsync", "on")]);
        source.pgbench(scale);
        source.sql("checkpoint");
        println!("\n{size}: {} in the source", size_of(&source));
        branches(&source);
        template(&source);
        copies(source);
    }
}

fn size_of(source: &Source) -> String {
    source.sql("select pg_size_pretty(pg_database_size(current_database()))")
}

/// One create after another on one admin connection, under a write load on the source.
fn branches(source: &Source) {
    let server = Server::start();
    server.follow(source);
    let load = Pgbench::start(source);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let totals = runtime.block_on(async {
        let admin = connect(&server.console_url()).await;
        let mut totals = Vec::new();
        for number in 0..CREATES {
            totals.push(create(&admin, number).await);
        }
        totals
    });
    load.stop();
    let worst = totals.iter().map(|(_, total)| *total).fold(0.0, f64::max);
    let total = median(totals.iter().map(|(_, total)| *total).collect());
    println!("  ardent branch create     {total:9.1}   worst of {CREATES}: {worst:.1}");
    let log = server.log_text();
    for (name, field) in STEPS {
        println!("    {name:<22} {:9.1}", median(logged(&log, field)));
    }
    let first_query = median(totals.iter().map(|(query, _)| *query).collect());
    println!("    {:<22} {first_query:9.1}", "first query");
}

/// What the server logged as `field` of every branch that it created.
fn logged(log: &str, field: &str) -> Vec<f64> {
    let created = log.lines().filter(|line| line.contains("created branch"));
    let values = created.filter_map(|line| line.split_once(field)?.1.split_whitespace().next());
    let values: Vec<f64> = values.filter_map(|value| value.parse().ok()).collect();
    assert_eq!(values.len(), CREATES, "{field} of every create in the log");
    values
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// Milliseconds of the first query with its connection, and of everything from the statement on.
async fn create(admin: &Client, number: usize) -> (f64, f64) {
    let started = Instant::now();
    let messages =
        admin.simple_query(&format!("ARDENT BRANCH CREATE b{number}")).await.expect("create");
    let created = Instant::now();
    let branch = connect(first_row(&messages).get("url").expect("the branch's url")).await;
    branch.simple_query("select 1").await.expect("select 1");
    (milliseconds(created.elapsed()), milliseconds(started.elapsed()))
}

fn first_row(messages: &[SimpleQueryMessage]) -> &SimpleQueryRow {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.expect("a row")
}

/// `CREATE DATABASE ... TEMPLATE` on the source itself, which no one may be connected to meanwhile.
fn template(source: &Source) {
    let samples = (0..COPIES).map(|number| {
        let started = Instant::now();
        let copy = format!("copy{number}");
        let elsewhere = source.socket_url().replace("/postgres?", "/template1?");
        psql(&elsewhere, &format!("create database {copy} template postgres")).ok();
        psql(&source.socket_url().replace("/postgres?", &format!("/{copy}?")), "select 1").ok();
        let taken = milliseconds(started.elapsed());
        psql(&elsewhere, &format!("drop database {copy}")).ok();
        taken
    });
    println!("  CREATE DATABASE TEMPLATE {:9.1}", median(samples.collect()));
}

/// `cp -a` of the stopped source's data directory, then a start of Postgres on the copy.
fn copies(mut source: Source) {
    let data = source.sql("show data_directory");
    source.stop();
    let samples = (0..COPIES).map(|_| {
        let (scratch, port) = (Scratch::new("copy"), free_port());
        give_to_account(scratch.path());
        let started = Instant::now();
        run(bounded("cp").args(["-a", &data]).arg(scratch.path())).ok();
        let mut copy = postmaster(source.bin(), scratch.path(), port);
        let socket = scratch.path().display();
        let url = format!("postgresql:///postgres?host={socket}&port={port}&user=postgres");
        eventually(Duration::from_secs(60), "the copy answers", || {
            (psql(&url, "select 1").code == 0).then_some(())
        });
        let taken = milliseconds(started.elapsed());
        processes::signal(copy.id(), rustix::process::Signal::INT);
        processes::wait_for(&mut copy, Duration::from_secs(20));
        taken
    });
    println!("  cp -a and start          {:9.1}", median(samples.collect()));
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
