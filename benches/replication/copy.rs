//! The first copy, beside the table sync of `CREATE SUBSCRIPTION`, and beside a dump and restore.

use std::time::Duration;

use super::cost::{Cost, Meter, alternate};
use super::follow::{follow, load_schema, subscribe};
use super::support::cli::{bounded, run};
use super::support::scratch::Scratch;
use super::support::server::Server;
use super::support::source::{Source, give_to_account};
use super::support::wait::eventually;
use super::{SETTINGS, Size};

const PATIENCE: Duration = Duration::from_secs(60);

/// The first copy of pgbench's tables with their indexes, beside a subscription's table sync.
pub(super) fn pgbench(size: &Size) {
    let source = Source::with(&SETTINGS);
    source.pgbench(size.scale);
    source.sql("create publication theirs for all tables");
    source.sql("checkpoint");
    let what = format!("copy pgbench -s {}", size.scale);
    alternate(&what, || first_copy(&source), || table_sync(&source));
}

fn first_copy(source: &Source) -> Cost {
    let server = Server::start();
    // A subscriber's `initdb` is over as well when its clock starts.
    eventually(PATIENCE, "the server has made what a trunk begins with", || {
        server.log_text().contains("data directory of a trunk is ready").then_some(())
    });
    let meter = Meter::begin(&[source.directory(), &server.data_dir()]);
    follow(&server, source, "wal2json");
    let taken = meter.end();
    server.ardent(&["connector", "delete", "prod", "--force"]).ok();
    taken
}

fn table_sync(source: &Source) -> Cost {
    let subscriber = Source::with(&SETTINGS);
    load_schema(source, &subscriber);
    let meter = Meter::begin(&[source.directory(), subscriber.directory()]);
    subscribe(&subscriber, source);
    let taken = meter.end();
    subscriber.sql("drop subscription theirs");
    taken
}

/// Many tables of many kinds, beside a dump and its restore.
pub(super) fn tables(size: &Size) {
    let source = Source::with(&SETTINGS);
    source.sql(&format!(
        "do $$ begin for n in 1..{} loop
           execute format('create table t%s (id bigint primary key, a int, b text, c timestamptz,
             d jsonb, e numeric, f text[])', n);
           execute format('insert into t%s select g, g %% 100, md5(g::text), now(),
             jsonb_build_object(''k'', g), g * 1.5, array[g::text, ''x'']
             from generate_series(1, %s) g', n, case when n % 20 = 0 then 100000 else 3000 end);
           execute format('create index on t%s (a); create index on t%s (b)', n, n);
         end loop; end $$",
        size.tables
    ));
    source.sql("checkpoint");
    let what = format!("copy {} tables, pg_dump and pg_restore -j2", size.tables);
    alternate(&what, || first_copy(&source), || dump_and_restore(&source));
}

fn dump_and_restore(source: &Source) -> Cost {
    let target = Source::with(&SETTINGS);
    let scratch = Scratch::new("dump");
    give_to_account(scratch.path());
    let dump = scratch.path().join("dump");
    let meter = Meter::begin(&[source.directory(), target.directory()]);
    let mut command = bounded(source.bin().join("pg_dump"));
    run(command.args(["-Fd", "-j2", "--file"]).arg(&dump).arg(source.socket_url())).ok();
    let mut command = bounded(source.bin().join("pg_restore"));
    run(command.args(["-j2", "--dbname", &target.socket_url()]).arg(&dump)).ok();
    // Less what the two programs took themselves.
    meter.end()
}
