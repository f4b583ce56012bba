//! What following a source costs, beside what Postgres brings itself: the first copy beside the
//! table sync of `CREATE SUBSCRIPTION` and beside `pg_dump` with `pg_restore`, the stream beside
//! the subscription's apply worker.
//!
//! Both sides follow one source in one run, one after the other, the order changing each round, so
//! that the ratios mean something whatever the machine. Names of parts, `quick` and `pgoutput` may
//! be given.

#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::cli::{bounded, run};
use support::drivers::psql;
use support::processes;
use support::scratch::Scratch;
use support::server::Server;
use support::source::{Source, give_to_account};

/// An odd number, for the median.
const ROUNDS: usize = 3;
/// Longest wait for either side to have everything.
const PATIENCE: Duration = Duration::from_secs(900);
/// Reading often enough to be exact, seldom enough not to be part of the load.
const LOOK: Duration = Duration::from_millis(20);
/// What a trunk has, for Postgres as well.
const SETTINGS: [(&str, &str); 7] = [
    ("fsync", "on"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "4GB"),
    ("wal_buffers", "16MB"),
    ("maintenance_work_mem", "256MB"),
    ("synchronous_commit", "on"),
    ("max_sync_workers_per_subscription", "4"),
];

type Part = fn(&Size);

/// How much of everything.
struct Size {
    scale: u32,
    tables: u32,
    transactions: u32,
    rows: u32,
}

const FULL: Size = Size { scale: 100, tables: 200, transactions: 100_000, rows: 1_000_000 };
const QUICK: Size = Size { scale: 20, tables: 50, transactions: 20_000, rows: 200_000 };

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let size = if words.iter().any(|word| word == "quick") { QUICK } else { FULL };
    let parts: [(&str, Part); 3] = [("copy", copy), ("tables", tables), ("stream", stream)];
    let named: Vec<_> = parts.iter().filter(|(name, _)| words.iter().any(|w| w == name)).collect();
    println!("seconds, medians of {ROUNDS}; ours, Postgres' own, ratio");
    for (_, part) in if named.is_empty() { parts.iter().collect() } else { named } {
        part(&size);
    }
}

/// Both sides by turns; `round` says whose turn is first.
fn alternate(what: &str, mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            own.push(ours());
            other.push(theirs());
        } else {
            other.push(theirs());
            own.push(ours());
        }
    }
    report(what, own, other);
}

fn report(what: &str, ours: Vec<f64>, theirs: Vec<f64>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what:42} {ours:8.2} {theirs:8.2} {:6.2}", ours / theirs);
}

/// The first copy of pgbench's tables with their indexes, beside a subscription's table sync.
fn copy(size: &Size) {
    let source = Source::with(&SETTINGS);
    source.pgbench(size.scale);
    source.sql("create publication theirs for all tables");
    source.sql("checkpoint");
    let what = format!("copy pgbench -s {}", size.scale);
    alternate(&what, || first_copy(&source), || table_sync(&source));
}

fn first_copy(source: &Source) -> f64 {
    let server = Server::start();
    let begun = Instant::now();
    follow(&server, source);
    let taken = begun.elapsed().as_secs_f64();
    server.ardent(&["connector", "delete", "prod", "--force"]).ok();
    taken
}

/// With pgoutput where that word is given, as a subscription has it.
fn follow(server: &Server, source: &Source) {
    let plugin = std::env::args().find(|word| word == "pgoutput");
    let plugin = plugin.as_deref().unwrap_or("wal2json");
    let url = source.url();
    let create = ["connector", "create", "postgresql", &url, "--name", "prod", "--plugin", plugin];
    server.ardent(&create).ok();
}

fn table_sync(source: &Source) -> f64 {
    let subscriber = Source::with(&SETTINGS);
    load_schema(source, &subscriber);
    let begun = Instant::now();
    subscribe(&subscriber, source);
    let taken = begun.elapsed().as_secs_f64();
    subscriber.sql("drop subscription theirs");
    taken
}

fn load_schema(source: &Source, subscriber: &Source) {
    let (from, to) = (source.socket_url(), subscriber.socket_url());
    let dump = run(bounded(source.bin().join("pg_dump")).args(["--schema-only", &from])).ok();
    let scratch = Scratch::new("schema");
    let file = scratch.path().join("schema.sql");
    std::fs::write(&file, dump).expect("write the schema");
    run(bounded("psql").args(["--quiet", "--dbname", &to, "--file"]).arg(file)).ok();
}

/// Returns once every table is in sync.
fn subscribe(subscriber: &Source, source: &Source) {
    let url = source.url().replace('\'', "''");
    subscriber.sql(&format!("create subscription theirs connection '{url}' publication theirs"));
    until(|| {
        let left = "select count(*) from pg_subscription_rel where srsubstate <> 'r'";
        subscriber.sql(left) == "0"
    });
}

/// Many tables of many kinds, beside a dump and its restore.
fn tables(size: &Size) {
    let source = Source::with(&SETTINGS);
    source.sql(&format!(
        "do $$ begin for n in 1..{} loop
           execute format('create table t%s (id bigint primary key, a int, b text, c timestamptz,
             d jsonb, e numeric, f text[])', n);
           execute format('insert into t%s select g, g %% 100, md5(g::text), now(),
             jsonb_build_object(''k'', g), g * 1.5, array[g::text, ''x'']
             from generate_series(1, %s) g', n, case when n %% 20 = 0 then 100000 else 3000 end);
           execute format('create index on t%s (a); create index on t%s (b)', n, n);
         end loop; end $$",
        size.tables
    ));
    source.sql("checkpoint");
    let what = format!("copy {} tables, pg_dump and pg_restore -j2", size.tables);
    alternate(&what, || first_copy(&source), || dump_and_restore(&source));
}

fn dump_and_restore(source: &Source) -> f64 {
    let target = Source::with(&SETTINGS);
    let scratch = Scratch::new("dump");
    give_to_account(scratch.path());
    let dump = scratch.path().join("dump");
    let begun = Instant::now();
    let mut command = bounded(source.bin().join("pg_dump"));
    run(command.args(["-Fd", "-j2", "--file"]).arg(&dump).arg(source.socket_url())).ok();
    let mut command = bounded(source.bin().join("pg_restore"));
    run(command.args(["-j2", "--dbname", &target.socket_url()]).arg(&dump)).ok();
    begun.elapsed().as_secs_f64()
}

/// Both sides stopped in their tracks while the source goes on, then let go one after the other.
fn stream(size: &Size) {
    let source = Source::with(&SETTINGS);
    source.pgbench(10);
    source
        .sql("create table wide (id bigint primary key, a int, b text, c timestamptz, d numeric)");
    source.sql("create table marker (id bigint primary key)");
    source.sql("create publication theirs for all tables");
    let subscriber = Source::with(&SETTINGS);
    load_schema(&source, &subscriber);
    subscribe(&subscriber, &source);
    let server = Server::start();
    follow(&server, &source);
    let pair = Pair { source: &source, subscriber: &subscriber, server: &server };
    let each = size.transactions / 4;
    let pgbench = format!("backlog of {} TPC-B transactions", size.transactions);
    pair.measure(&pgbench, |_| {
        let mut command = bounded(source.bin().join("pgbench"));
        command.env("PGOPTIONS", "-c synchronous_commit=off");
        command.args(["-n", "-c4", "-j2", "-t", &each.to_string()]).arg(source.socket_url());
        run(&mut command).ok();
    });
    let rows = size.rows;
    pair.measure(&format!("{rows} inserts in one transaction"), |round| {
        let first = round * 10_000_000;
        source.sql(&format!(
            "insert into wide select g, g % 1000, md5(g::text), now(), g * 1.5
               from generate_series({first} + 1, {first} + {rows}) g"
        ));
    });
    pair.measure(&format!("{rows} updates in one transaction"), |round| {
        let first = round * 10_000_000;
        source.sql(&format!(
            "update wide set a = a + 1 where id > {first} and id <= {first} + {rows}"
        ));
    });
    subscriber.sql("drop subscription theirs");
}

struct Pair<'a> {
    source: &'a Source,
    subscriber: &'a Source,
    server: &'a Server,
}

impl Pair<'_> {
    fn measure(&self, what: &str, work: impl Fn(usize)) {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let worker = self.apply_worker();
            processes::signal(worker, Signal::STOP);
            processes::signal(self.server.pid(), Signal::STOP);
            work(round);
            let marker =
                "insert into marker select coalesce(max(id), 0) + 1 from marker returning id";
            let marker = self.source.sql(marker);
            let trunk = self.trunk_url();
            let subscriber = self.subscriber.socket_url();
            let go = |pid, url: &str, into: &mut Vec<f64>| {
                let begun = Instant::now();
                processes::signal(pid, Signal::CONT);
                let look = format!("select count(*) from public.marker where id = {marker}");
                until(|| psql(url, &look).stdout.trim() == "1");
                into.push(begun.elapsed().as_secs_f64());
            };
            if round % 2 == 0 {
                go(self.server.pid(), &trunk, &mut ours);
                go(worker, &subscriber, &mut theirs);
            } else {
                go(worker, &subscriber, &mut theirs);
                go(self.server.pid(), &trunk, &mut ours);
            }
        }
        report(what, ours, theirs);
    }

    fn apply_worker(&self) -> u32 {
        let pid = "select pid from pg_stat_subscription where relid is null";
        self.subscriber.sql(pid).parse().expect("a pid")
    }

    /// The trunk came first, so its number is 1.
    fn trunk_url(&self) -> String {
        let run: PathBuf = self.server.data_dir().join("run");
        format!("postgresql:///postgres?host={}/1&user=ardent_apply", run.display())
    }
}

fn until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "it never came to an end");
        std::thread::sleep(LOOK);
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
