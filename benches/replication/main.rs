//! What following a source costs, beside what Postgres brings itself: the first copy beside the
//! table sync of `CREATE SUBSCRIPTION` and beside `pg_dump` with `pg_restore`, the stream beside
//! the subscription's apply worker. `make bench-replication`; names of parts and `quick`
//! may be given.
//!
//! Both sides follow one source in one run, one after the other, the order changing each round, so
//! that the ratios mean something whatever the machine. Where others work on the machine too, the
//! ratio of processor seconds says more than that of time: waiting for a turn is not in it.

mod copy;
mod cost;
mod follow;
mod live;
mod stream;
#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

/// What a trunk has, for Postgres as well.
const SETTINGS: [(&str, &str); 8] = [
    ("fsync", "on"),
    ("shared_buffers", "128MB"),
    ("max_wal_size", "4GB"),
    ("wal_buffers", "16MB"),
    ("maintenance_work_mem", "256MB"),
    ("synchronous_commit", "on"),
    ("max_sync_workers_per_subscription", "4"),
    // How old a subscriber's state is can be read from it.
    ("track_commit_timestamp", "on"),
];

/// How much of everything.
struct Size {
    scale: u32,
    tables: u32,
    transactions: u32,
    rows: u32,
    live_seconds: u32,
}

const FULL: Size =
    Size { scale: 100, tables: 200, transactions: 100_000, rows: 1_000_000, live_seconds: 20 };
const QUICK: Size =
    Size { scale: 20, tables: 50, transactions: 20_000, rows: 200_000, live_seconds: 8 };

type Part = fn(&Size);

const PARTS: [(&str, Part); 4] = [
    ("copy", copy::pgbench),
    ("tables", copy::tables),
    ("stream", stream::run),
    ("live", live::run),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_given = |name: &str| words.iter().any(|word| word == name);
    let size = if is_given("quick") { QUICK } else { FULL };
    let is_any = PARTS.iter().any(|(name, _)| is_given(name));
    cost::head();
    for (name, part) in PARTS {
        if !is_any || is_given(name) {
            part(&size);
        }
    }
}
