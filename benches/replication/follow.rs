//! Both ways to follow a source: a connector's trunk, and a subscription.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use super::support::cli::{bounded, run};
use super::support::scratch::Scratch;
use super::support::server::Server;
use super::support::source::Source;

/// Longest wait for either side to have everything.
const PATIENCE: Duration = Duration::from_secs(900);
/// Reading often enough to be exact, seldom enough not to be part of the load.
const LOOK: Duration = Duration::from_millis(20);

/// Returns once the first copy is whole.
pub(super) fn follow(server: &Server, source: &Source, plugin: &str) {
    let url = source.url();
    let create = ["connector", "create", "postgresql", &url, "--name", "prod", "--plugin", plugin];
    server.ardent(&create).ok();
}

/// The trunk came first, so its number is 1.
pub(super) fn trunk_url(server: &Server) -> String {
    let run = server.data_dir().join("run");
    format!("postgresql:///postgres?host={}/1&user=ardent_apply", run.display())
}

pub(super) fn load_schema(source: &Source, subscriber: &Source) {
    let (from, to) = (source.socket_url(), subscriber.socket_url());
    let dump = run(bounded(source.bin().join("pg_dump")).args(["--schema-only", &from])).ok();
    let scratch = Scratch::new("schema");
    let file = scratch.path().join("schema.sql");
    std::fs::write(&file, dump).expect("write the schema");
    run(bounded("psql").args(["--quiet", "--dbname", &to, "--file"]).arg(file)).ok();
}

/// Returns once every table is in sync.
pub(super) fn subscribe(subscriber: &Source, source: &Source) {
    let url = source.url().replace('\'', "''");
    subscriber.sql(&format!("create subscription theirs connection '{url}' publication theirs"));
    until(|| {
        let left = "select count(*) from pg_subscription_rel where srsubstate <> 'r'";
        subscriber.sql(left) == "0"
    });
}

pub(super) fn apply_worker(subscriber: &Source) -> u32 {
    let pid = "select pid from pg_stat_subscription where relid is null";
    subscriber.sql(pid).parse().expect("a pid")
}

/// Puts a mark on the source; returns the query that says whether a follower has it.
pub(super) fn mark(source: &Source) -> String {
    let sql = "insert into marker select coalesce(max(id), 0) + 1 from marker returning id";
    format!("select count(*) from public.marker where id = {}", source.sql(sql))
}

/// Looks over one connection: a program for each look would take more than either side.
pub(super) fn until_marked(url: &str, look: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(url, NoTls)).expect("connect");
    let _connection = runtime.spawn(connection);
    until(|| {
        let row = runtime.block_on(client.query_one(look, &[])).expect("look");
        row.get::<_, i64>(0) == 1
    });
}

fn until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "it never came to an end");
        std::thread::sleep(LOOK);
    }
}
