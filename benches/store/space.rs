//! What branches cost in bytes: on disk, and in the memory of the store.

use super::shape::{Store, fill};
use super::support::drivers::psql;
use super::support::server::Server;
use super::support::source::Source;

const SCALE: u32 = 20;
const AWAKE: u32 = 100;

pub(crate) fn run() {
    let source = Source::with(&[]);
    source.pgbench(SCALE);
    let server = Server::start();
    server.follow(&source);
    let url = server.branch("fresh");
    let own = || server.info("fresh")["unique_bytes"].as_i64().unwrap_or(-1) / 1024;
    println!("  after its first query       {:>8} KiB", own());
    psql(&url, "vacuum pgbench_accounts; checkpoint").ok();
    let before = own();
    let rows = i64::from(SCALE) * 1000;
    let update = "update pgbench_accounts set abalance = abalance + 1 where aid in \
                  (select (random() * 2000000)::int from generate_series(1, ";
    let written = "select count(distinct (ctid::text::point)[0]) from pgbench_accounts where xmin \
                   = (select xmin from pgbench_accounts order by age(xmin) limit 1)";
    psql(&url, &format!("{update}{rows})); checkpoint")).ok();
    let pages = psql(&url, written).ok();
    println!(
        "  1 % of rows at random       {:>8} KiB more, {pages} heap pages hold new rows",
        own() - before
    );
}

pub(crate) fn memory() {
    let mut store = Store::start();
    store.create(1);
    fill(&store.dir(1), 1024);
    let before = resident_kib(&store);
    for branch in 2..2 + AWAKE {
        store.fork(1, branch);
        std::fs::write(store.dir(branch).join("mark"), [1; 8192]).expect("write");
    }
    println!("  store, 1 GiB in one branch  {before:>8} KiB resident");
    println!("  and {AWAKE} branches of it     {:>8} KiB resident", resident_kib(&store));
}

fn resident_kib(store: &Store) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", store.pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
}
