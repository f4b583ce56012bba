//! What a branch's log beside the store adds to a fork of it: the part since the last checkpoint is
//! copied, for parent and child write on in the same segment.

use super::median;
use super::support::drivers::psql;
use super::support::server::Server;
use super::support::source::Source;

const ROUNDS: u32 = 15;
/// Below what makes the server write a checkpoint first.
const MIB: u32 = 6;

pub(crate) fn run() {
    let source = Source::with(&[]);
    source.pgbench(1);
    let server = Server::start();
    server.follow(&source);
    let url = server.branch("parent");
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        without.push(fork(&server, &url, &format!("short{round}"), 0));
        with.push(fork(&server, &url, &format!("long{round}"), MIB));
    }
    let (without, with) = (median(&without), median(&with));
    let each = (with - without) / f64::from(MIB);
    println!("  {without:.2} ms with no log to copy, {with:.2} with {MIB} MiB: {each:.2} a MiB");
}

/// Milliseconds that a fork takes with that much log since the parent's last checkpoint.
fn fork(server: &Server, parent: &str, child: &str, mib: u32) -> f64 {
    psql(parent, "checkpoint").ok();
    let write = "select pg_logical_emit_message(false, 'log', repeat('x', 1 << 20))";
    (0..mib).for_each(|_| drop(psql(parent, write).ok()));
    server.ardent(&["branch", "create", child, "--from", "parent"]).ok();
    server.ardent(&["branch", "delete", child]).ok();
    let log = server.log_text();
    let created = log.lines().rfind(|line| line.contains("created branch"));
    let value = created.and_then(|line| line.split_once("fork_ms=")?.1.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).expect("fork_ms of the create in the log")
}
