//! The stream, beside the subscription's apply worker: a backlog, and large transactions.
//!
//! Both sides are stopped in their tracks while the source goes on. Once both walsenders wait for
//! their readers, too, the sides are let go one after the other.
//!
//! Once with each plugin: a subscription has pgoutput, and `auto` takes wal2json where it is there.

use std::path::PathBuf;

use rustix::process::Signal;

use super::cost::{Cost, Meter, ROUNDS, report, settle};
use super::follow::{apply_worker, follow, load_schema, mark, subscribe, trunk_url, until_marked};
use super::support::cli::{bounded, run as finish};
use super::support::processes;
use super::support::server::Server;
use super::support::source::Source;
use super::{SETTINGS, Size};

pub(super) fn run(size: &Size) {
    for plugin in ["pgoutput", "wal2json"] {
        run_with(plugin, size);
    }
}

fn run_with(plugin: &str, size: &Size) {
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
    follow(&server, &source, plugin);
    let pair = Pair { source: &source, subscriber: &subscriber, server: &server };
    let each = size.transactions / 4;
    pair.measure(&format!("{plugin}: backlog of {} transactions", size.transactions), |_| {
        let mut command = bounded(source.bin().join("pgbench"));
        command.env("PGOPTIONS", "-c synchronous_commit=off");
        command.args(["-n", "-c4", "-j2", "-t", &each.to_string()]).arg(source.socket_url());
        finish(&mut command).ok();
    });
    let rows = size.rows;
    pair.measure(&format!("{plugin}: {rows} inserts in one transaction"), |round| {
        let first = round * 10_000_000;
        source.sql(&format!(
            "insert into wide select g, g % 1000, md5(g::text), now(), g * 1.5
               from generate_series({first} + 1, {first} + {rows}) g"
        ));
    });
    pair.measure(&format!("{plugin}: {rows} updates in one transaction"), |round| {
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
            let worker = apply_worker(self.subscriber);
            processes::signal(worker, Signal::STOP);
            processes::signal(self.server.pid(), Signal::STOP);
            work(round);
            let look = mark(self.source);
            settle(self.source.directory());
            if round % 2 == 0 {
                ours.push(self.let_trunk_go(&look));
                theirs.push(self.let_subscriber_go(worker, &look));
            } else {
                theirs.push(self.let_subscriber_go(worker, &look));
                ours.push(self.let_trunk_go(&look));
            }
        }
        report(what, &ours, &theirs);
    }

    fn let_trunk_go(&self, look: &str) -> Cost {
        let directory: PathBuf = self.server.data_dir();
        let meter = Meter::begin(&[self.source.directory(), &directory]);
        processes::signal(self.server.pid(), Signal::CONT);
        until_marked(&trunk_url(self.server), look);
        meter.end()
    }

    fn let_subscriber_go(&self, worker: u32, look: &str) -> Cost {
        let meter = Meter::begin(&[self.source.directory(), self.subscriber.directory()]);
        processes::signal(worker, Signal::CONT);
        until_marked(&self.subscriber.socket_url(), look);
        meter.end()
    }
}
