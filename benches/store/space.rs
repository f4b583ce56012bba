//! What branches cost in bytes: on disk, and in the memory of the store.

use std::path::{Path, PathBuf};

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
    let run = |statements: &[&str]| {
        statements.iter().for_each(|statement| drop(psql(&url, statement).ok()));
    };
    run(&["vacuum pgbench_accounts", "checkpoint"]);
    let (before, since) = (own(), wal_position(&url));
    let update = "update pgbench_accounts set abalance = abalance + 1 where aid in \
                  (select (random() * 2000000)::int from generate_series(1, ";
    run(&[&format!("{update}{}))", SCALE * 1000), "checkpoint"]);
    let socket = server.info("fresh")["compute_socket"].as_str().map(PathBuf::from);
    let number = socket.as_deref().and_then(Path::file_name).expect("a number").to_owned();
    let changed = pages_since(&server.data_dir().join("mnt").join(number).join("base"), since) * 8;
    println!(
        "  1 % of rows at random       {:>8} KiB more, WAL that is left included; {changed} changed",
        own() - before
    );
}

/// In bytes since the beginning of all WAL.
fn wal_position(url: &str) -> i64 {
    psql(url, "select (pg_current_wal_lsn() - '0/0')::bigint").ok().parse().expect("a position")
}

/// How many pages of all relations were changed since then, as the position in each of them says:
/// bytes 0..8 of a page, two halves little-endian on every machine Ardent is built for.
fn pages_since(base: &Path, since: i64) -> u64 {
    let entries = |dir: &Path| std::fs::read_dir(dir).expect("a directory").flatten();
    let files = entries(base).flat_map(|database| entries(&database.path()).collect::<Vec<_>>());
    let half = |page: &[u8], at| u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes"));
    files
        .map(|file| {
            let bytes = std::fs::read(file.path()).expect("read a relation");
            let pages = bytes.chunks_exact(8192);
            let position = |page: &[u8]| i64::from(half(page, 0)) << 32 | i64::from(half(page, 4));
            pages.filter(|page| position(page) > since).count() as u64
        })
        .sum()
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
