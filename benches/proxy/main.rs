//! What the front door costs, beside a direct connection and beside pgbouncer, all before the same
//! branch's Postgres: throughput, COPY, connecting, memory of idle sessions; then waking, and
//! creating under load. `make bench-proxy`; names of sections as arguments run these alone.
//!
//! The sides take turns in one run and ratios are those within a round, so that they mean something
//! whatever the machine. Direct is TCP on loopback with Postgres' own SCRAM and TLS.

mod measure;
mod processors;
mod sides;
#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use measure::{Measured, by_turns, median, milliseconds, quantile};
use processors::OneProcessor;
use sides::{Side, Sides};
use support::cli::{bounded, run};
use support::drivers::psql;
use support::server::Server;
use support::source::Source;
use support::wait::eventually;
use support::workload::Pgbench;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const SCALE: u32 = 5;
/// Of which the first does not count: a backend that has just begun takes a fault for each page of
/// the shared buffers, and the pooler keeps its backends from round to round.
const ROUND_SECONDS: &str = "3";
/// With many clients much depends on where the kernel lets each of them run: it takes more rounds.
const CROWDS: [(&str, usize); 2] = [("1", 11), ("16", 21)];
const ONE_PROCESSOR_ROUNDS: usize = 5;
const COPY_ROUNDS: usize = 7;
const CONNECTS: usize = 200;
const SLEEPERS: usize = 20;
const WAKES: usize = 200;
const CREATES: usize = 200;
const CREATE_EVERY: Duration = Duration::from_secs(1);
const SOURCE_TRANSACTIONS_A_SECOND: u32 = 500;
const IDLE_SESSIONS: [u32; 2] = [100, 400];
const SESSIONS_A_BRANCH: u32 = 80;

type Section = (&'static str, fn(&Source));

const SECTIONS: [Section; 4] =
    [("relay", relay), ("handoff", handoff), ("wake", waking), ("create", creating)];

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let source = Source::with(&[("fsync", "on")]);
    source.pgbench(SCALE);
    println!("medians; ratios are to the direct connection, CPU is that of what stands between");
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("\n== {name}");
            run(&source);
        }
    }
}

fn server(source: &Source, proxy: &str, suspend_after_s: u32) -> Server {
    // The file begins with the section of computes.
    let server = Server::start_with(&format!(
        "listen_tcp = true\n[proxy]\nsessions_per_branch_max = 95\n{proxy}\n\
         [branch]\nsuspend_after_s = {suspend_after_s}",
    ));
    server.follow(source);
    server
}

fn relay(source: &Source) {
    let server = server(source, "", 3600);
    let sides = Sides::relayed(&server);
    let runtime = Runtime::new().expect("start a runtime");
    side_by_side(&sides, &runtime);
    drop(sides);
    runtime.block_on(memory(&server));
}

fn handoff(source: &Source) {
    let server = server(source, "handoff = true", 3600);
    let sides = Sides::handed_off(&server);
    side_by_side(&sides, &Runtime::new().expect("start a runtime"));
}

fn side_by_side(sides: &Sides, runtime: &Runtime) {
    for (clients, rounds) in CROWDS {
        println!("\npgbench -S -M prepared -c {clients}, transactions a second");
        by_turns(&sides.all, rounds, |url| throughput(clients, url));
    }
    println!("\nthe same with -c 1, all on one processor");
    let one = OneProcessor::of(&sides.processes);
    by_turns(&sides.all, ONE_PROCESSOR_ROUNDS, |url| throughput("1", url));
    drop(one);
    copy_out(&sides.all);
    runtime.block_on(connecting(&sides.all[..2]));
}

fn throughput(clients: &str, url: &str) -> Measured {
    let mut command = bounded("pgbench");
    command.args(["-n", "-S", "-M", "prepared", "-j", "1", "-P", "1", "-c", clients]);
    let ran = run(command.args(["-T", ROUND_SECONDS, url]));
    let seconds = ran.stderr.lines().filter_map(|line| {
        let (_, number) = line.strip_prefix("progress: ")?.split_once(" s, ")?;
        number.split_whitespace().next()?.parse::<f64>().ok()
    });
    let steady: Vec<f64> = seconds.skip(1).collect();
    let said = ran.ok();
    // Nobody came through in time: no line says so.
    let all = said.lines().find_map(|line| {
        line.strip_prefix("number of transactions actually processed: ")?.parse().ok()
    });
    Measured {
        value: steady.iter().sum::<f64>()
            / f64::from(u32::try_from(steady.len().max(1)).unwrap_or(1)),
        transactions: all.filter(|all| *all > 0.0),
    }
}

fn copy_out(sides: &[Side]) {
    println!("\nCOPY out of 1,000,000 rows, MB/s");
    by_turns(sides, COPY_ROUNDS, |url| {
        let copy = "copy (select g, repeat('x', 90) from generate_series(1, 1000000) g) to stdout";
        let mut command = bounded("psql");
        command.args(["-XAtqc", copy, url]).stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().expect("run psql").success());
        // 6 digits, a tab, 90 bytes, a line feed: about 98 MB.
        Measured { value: 98.0 / begun.elapsed().as_secs_f64(), transactions: None }
    });
}

/// Connect, SCRAM, one query: both sides authenticate alike.
async fn connecting(sides: &[Side]) {
    println!("\nconnect and one query, awake, ms");
    let mut samples = vec![Vec::new(); sides.len()];
    for _ in 0..CONNECTS {
        for (side, samples) in sides.iter().zip(&mut samples) {
            samples.push(first_answer(&side.url).await);
        }
    }
    let direct = median(samples[0].clone());
    for (side, samples) in sides.iter().zip(samples) {
        let value = median(samples);
        println!("  {:<12} {value:10.2}   {:.2} x", side.name, value / direct);
    }
}

/// Milliseconds from connecting to the answer of a first query.
async fn first_answer(url: &str) -> f64 {
    let begun = Instant::now();
    connect(url).await.simple_query("select 1").await.expect("select 1");
    milliseconds(begun.elapsed())
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// What the server's resident memory grows by with each idle session.
async fn memory(server: &Server) {
    let [few, many] = IDLE_SESSIONS;
    let branches = many.div_ceil(SESSIONS_A_BRANCH);
    let urls: Vec<String> = (0..branches).map(|n| server.branch(&format!("idle{n}"))).collect();
    let mut sessions = Vec::new();
    let mut resident = Vec::new();
    for number in 0..many {
        let url = &urls[usize::try_from(number / SESSIONS_A_BRANCH).expect("a small number")];
        sessions.push(connect(url).await);
        if [few, many].contains(&(number + 1)) {
            resident.push(resident_kib(server.pid()));
        }
    }
    let per_session = (resident[1] - resident[0]) / f64::from(many - few);
    println!("\nresident memory an idle session, {few} to {many}: {per_session:.1} KiB");
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// From connecting to a suspended branch to the answer of its first query.
fn waking(source: &Source) {
    let server = server(source, "", 1);
    let urls: Vec<String> = (0..SLEEPERS).map(|n| server.branch(&format!("s{n}"))).collect();
    let runtime = Runtime::new().expect("start a runtime");
    let mut samples = Vec::new();
    while samples.len() < WAKES {
        let asleep = || {
            let shown = psql(&server.console_url(), "ardent show computes").ok();
            // What is left is the trunk.
            (shown.lines().count() == 1).then_some(())
        };
        eventually(Duration::from_secs(60), "all branches sleep", asleep);
        for url in &urls {
            samples.push(runtime.block_on(first_answer(url)));
        }
    }
    told("wake seen by the client", samples);
}

/// From BRANCH CREATE to the answer of the branch's first query, while the source is written to.
fn creating(source: &Source) {
    let server = server(source, "", 5);
    let load = Pgbench::at_rate(source, SOURCE_TRANSACTIONS_A_SECOND);
    let samples = Runtime::new().expect("start a runtime").block_on(async {
        let admin = connect(&server.console_url()).await;
        let mut turns = tokio::time::interval(CREATE_EVERY);
        let mut samples = Vec::new();
        for number in 0..CREATES {
            turns.tick().await;
            samples.push(create(&admin, number).await);
        }
        samples
    });
    load.stop();
    told("create to first query", samples);
}

async fn create(admin: &Client, number: usize) -> f64 {
    let begun = Instant::now();
    let statement = format!("ARDENT BRANCH CREATE c{number}");
    let messages = admin.simple_query(&statement).await.expect("create");
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    first_answer(row.and_then(|row| row.get("url")).expect("the branch's url")).await;
    milliseconds(begun.elapsed())
}

fn told(what: &str, samples: Vec<f64>) {
    let count = samples.len();
    let [half, most] = [50, 99].map(|percent| quantile(samples.clone(), percent));
    println!("\n{what} over {count}, ms: p50 {half:.1}, p99 {most:.1}");
}
