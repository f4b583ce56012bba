//! A source at work while it is followed: how old the follower's state is at a steady rate, and
//! what being followed costs the source at its full rate.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use super::cost::{by_turns, median, quantile};
use super::follow::{follow, load_schema, subscribe, trunk_url};
use super::support::cli::{bounded, run as finish};
use super::support::server::Server;
use super::support::source::Source;
use super::{SETTINGS, Size};

const RATE: u32 = 2_000;
/// Between two looks at a follower: each is one small query, beside thousands of writes.
const LOOK: Duration = Duration::from_millis(5);
/// The source commits more than once a millisecond, so its last commit is as good as now.
const TRUNK_AGE: &str =
    "select extract(epoch from clock_timestamp() - commit_time)::float8 from ardent.progress";
const SUBSCRIBER_AGE: &str = "select extract(epoch from clock_timestamp() - timestamp)::float8
       from pg_last_committed_xact()";

pub(super) fn run(size: &Size) {
    for plugin in ["pgoutput", "wal2json"] {
        follow_with(plugin, size.live_seconds);
    }
}

/// Each side has a source of its own, so that neither pays for the other.
fn follow_with(plugin: &str, seconds: u32) {
    let ours = source();
    let server = Server::start();
    follow(&server, &ours, plugin);
    let theirs = source();
    let subscriber = Source::with(&SETTINGS);
    load_schema(&theirs, &subscriber);
    subscribe(&subscriber, &theirs);
    let (own, other) = by_turns(
        || ages(&ours, &trunk_url(&server), TRUNK_AGE, seconds),
        || ages(&theirs, &subscriber.socket_url(), SUBSCRIBER_AGE, seconds),
    );
    for percent in [50, 99] {
        let middle =
            |of: &[Vec<f64>]| median(of.iter().map(|ages| quantile(ages.clone(), percent)));
        let (own, other) = (middle(&own), middle(&other));
        let what = format!("{plugin}: lag in ms at {RATE} TPS, p{percent}");
        println!("{what:42} {:8.1} {:8.1}", own * 1e3, other * 1e3);
    }
    let (own, other) = by_turns(|| full_rate(&ours, seconds), || full_rate(&theirs, seconds));
    let (own, other) = (median(own.into_iter()), median(other.into_iter()));
    let what = format!("{plugin}: TPS of the source while followed");
    println!("{what:42} {own:8.0} {other:8.0} {:7.2}", own / other);
    subscriber.sql("drop subscription theirs");
}

fn source() -> Source {
    let source = Source::with(&SETTINGS);
    source.pgbench(10);
    source.sql("create publication theirs for all tables");
    source
}

/// Ages of a follower's state in seconds while the source commits at [`RATE`].
fn ages(source: &Source, url: &str, sql: &str, seconds: u32) -> Vec<f64> {
    let mut load = bounded(source.bin().join("pgbench"));
    let (rate, time) = (RATE.to_string(), seconds.to_string());
    load.env("PGOPTIONS", "-c synchronous_commit=off");
    load.args(["-n", "-c4", "-j1", "-R", &rate, "-T", &time]).arg(source.socket_url());
    std::thread::scope(|scope| {
        let load = scope.spawn(|| finish(&mut load).ok());
        // The first second is the load's own start.
        std::thread::sleep(Duration::from_secs(1));
        let found = sample(url, sql, Duration::from_secs(u64::from(seconds.saturating_sub(2))));
        load.join().expect("the load runs");
        found
    })
}

fn sample(url: &str, sql: &str, time: Duration) -> Vec<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
        tokio::spawn(connection);
        let statement = client.prepare(sql).await.expect("prepare");
        let begun = Instant::now();
        let mut found = Vec::new();
        while begun.elapsed() < time {
            let row = client.query_one(&statement, &[]).await.expect("look");
            found.push(row.get::<_, f64>(0));
            tokio::time::sleep(LOOK).await;
        }
        found
    })
}

/// Transactions per second of a source that commits as fast as it can.
fn full_rate(source: &Source, seconds: u32) -> f64 {
    let mut load = bounded(source.bin().join("pgbench"));
    load.args(["-n", "-c4", "-j1", "-T", &seconds.to_string()]).arg(source.socket_url());
    let said = finish(&mut load).ok();
    let line = said.lines().find_map(|line| line.strip_prefix("tps = ")).unwrap_or_default();
    line.split(' ').next().unwrap_or_default().parse().unwrap_or(f64::NAN)
}
