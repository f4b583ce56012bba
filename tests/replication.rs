//! What reaches the trunk and so a new branch: all common types and changes, sequences, and what
//! happens to a change that cannot be applied.

use crate::support::drivers::psql;
use crate::support::pgbench::assert_equal;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;
use crate::support::workload::Pgbench;
use std::time::Duration;

const SCHEMA: &str = include_str!("fixtures/types.sql");
const CHANGES: &str = include_str!("fixtures/changes.sql");

#[test]
fn every_common_type_and_change_arrives_as_it_was_committed() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    server.follow(&source);
    let copied = server.branch("copied");
    assert_equal(&copied, &source, "the first copy");

    source.sql(CHANGES);
    let streamed = server.branch("streamed");
    assert_equal(&streamed, &source, "the stream");
}

#[test]
fn pgoutput_carries_them_as_well_and_leaves_nothing_behind() {
    let source = Source::start();
    source.sql(SCHEMA);
    let server = Server::start();
    let url = source.url();
    let create = ["connector", "create", "postgresql", &url, "--name", "prod"];
    server.ardent(&[&create[..], &["--plugin", "pgoutput"]].concat()).ok();
    source.sql(CHANGES);
    source.sql("insert into plain (id, exact, single, double) values (-2, 'NaN', 'NaN', 'NaN')");
    let streamed = server.branch("streamed");
    assert_equal(&streamed, &source, "the stream");
    let status = server.ardent(&["connector", "status", "prod", "--format", "json"]).ok();
    assert!(status.contains(r#""plugin":"pgoutput""#), "{status}");
    server.ardent(&["connector", "delete", "prod", "--force"]).ok();
    assert_eq!(source.traces(), "");
}

#[test]
fn triggers_that_always_fire_do_so_in_a_branch_and_not_in_the_trunk() {
    let source = Source::start();
    source.sql(
        "create table noted (id int primary key, who text);
         create function note() returns trigger language plpgsql as
           $$ begin new.who := new.who || '!'; return new; end $$;
         create trigger always before insert on noted for each row execute function note();
         alter table noted enable always trigger always;
         create trigger replica before insert on noted for each row execute function note();
         alter table noted enable replica trigger replica",
    );
    let server = Server::start();
    server.follow(&source);
    source.sql("insert into noted values (1, 'source')");
    let url = server.branch("firing");
    assert_eq!(psql(&url, "select who from noted").ok(), "source!", "fired twice");
    psql(&url, "insert into noted values (2, 'branch')").ok();
    assert_eq!(psql(&url, "select who from noted where id = 2").ok(), "branch!");
    let modes =
        "select string_agg(format('%s %s', tgname, tgenabled), ',' order by tgname) from pg_trigger
                  where not tgisinternal";
    assert_eq!(psql(&url, modes).ok(), source.sql(modes));
    let again = server.branch("again");
    assert_eq!(psql(&again, modes).ok(), source.sql(modes));
}

#[test]
fn sequences_and_identity_columns_go_on_in_a_branch_where_the_source_stood() {
    let source = Source::start();
    source.sql(
        "create table ticket (id bigint generated always as identity primary key, note text); \
         create sequence loose increment 5 start 100; select nextval('loose'); \
         insert into ticket (note) select 'copied' from generate_series(1, 10)",
    );
    let server = Server::start();
    server.follow(&source);
    source.sql(
        "insert into ticket (note) select 'streamed' from generate_series(1, 10); \
         select nextval('loose'); select nextval('loose')",
    );
    let url = server.branch("numbers");
    let id = psql(&url, "insert into ticket (note) values ('branch') returning id").ok();
    assert!(id.parse::<i64>().expect("an id") >= 21, "{id} collides with a row of the source");
    let next = psql(&url, "select nextval('loose')").ok();
    assert!(next.parse::<i64>().expect("a number") >= 115, "{next} was given out on the source");
    assert_eq!(psql(&url, "select count(*) from ticket").ok(), "21");
}

#[test]
fn a_rolled_back_transaction_never_arrives_and_a_large_one_arrives_whole() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key, body text)");
    let server = Server::start();
    server.follow(&source);
    source.sql("begin; insert into entry values (1, 'gone'); rollback");
    source.sql(
        "begin; insert into entry values (2, 'kept'); savepoint s; \
                insert into entry values (3, 'gone'); rollback to s; commit",
    );
    source.sql("insert into entry select g, repeat('x', 50) from generate_series(10, 200009) g");
    let url = server.branch("whole");
    let row =
        psql(&url, "select count(*), count(*) filter (where id < 10), min(id) from entry").ok();
    assert_eq!(row, "200001|1|2");
}

#[test]
fn the_stream_survives_a_restart_of_the_source() {
    let mut source = Source::start();
    source.sql("create table entry (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    source.sql("insert into entry select generate_series(1, 100)");
    source.restart();
    source.sql("insert into entry select generate_series(101, 200)");
    let url = eventually(Duration::from_secs(60), "a branch can be cut again", || {
        let said = server.ardent(&["branch", "create", "again", "--print-url"]);
        (said.code == 0).then_some(said.stdout.trim_end().to_owned())
    });
    assert_eq!(psql(&url, "select count(*), sum(id) from entry").ok(), "200|20100");
}

#[test]
fn a_table_the_trunk_lacks_is_quarantined_by_name_and_the_stream_goes_on() {
    let source = Source::start();
    source.sql("create table known (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    source.sql("create table late (id bigint primary key); insert into late values (1)");
    source.sql("insert into known values (1)");
    let url = server.branch("after");
    assert_eq!(psql(&url, "select count(*) from known").ok(), "1");
    let info = server.ardent(&["connector", "status", "prod"]).ok();
    let late_arrived = psql(&url, "select count(*) from late").code == 0;
    assert!(late_arrived || info.contains("public.late"), "nobody says that it is missing: {info}");
}

#[test]
fn an_idle_source_can_recycle_its_wal() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    source.sql("insert into entry values (1)");
    server.branch("first");
    // Traffic of another database writes WAL but no change of ours.
    source.sql("create database elsewhere");
    let target = source.sql("select pg_current_wal_lsn()");
    eventually(
        Duration::from_secs(60),
        "the slot's confirmed position advances while idle",
        || {
            let behind = format!(
                "select count(*) from pg_replication_slots where confirmed_flush_lsn < '{target}'"
            );
            (source.sql(&behind) == "0").then_some(())
        },
    );
}

#[test]
fn verify_finds_a_loaded_trunk_equal_and_leaves_no_branch() {
    let source = Source::start();
    source.sql(SCHEMA);
    source.pgbench(1);
    let server = Server::start();
    server.follow(&source);
    let load = Pgbench::start(&source);
    for round in 0..2 {
        let said = server.ardent(&["connector", "verify", "prod"]);
        assert_eq!(said.code, 0, "{said:#?}");
        assert!(said.stdout.contains(" 0 different, 0 not carried, 0 not compared"), "{said:#?}");
        server.branch(&format!("beside-{round}"));
    }
    drop(load);
    let said = server.ardent(&["connector", "verify", "--format", "json", "--sample", "10"]).ok();
    assert!(said.contains(r#""object":"public.pgbench_accounts""#), "{said}");
    let listed = server.ardent(&["branch", "list"]).ok();
    assert!(!listed.contains("verify"), "{listed}");
    let left: Vec<_> = std::fs::read_dir(server.data_dir().join("mnt")).unwrap().collect();
    assert_eq!(left.len(), 3, "the trunk and two branches: {left:?}");
}

#[test]
fn what_verify_saw_is_remembered_until_it_sees_better() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key); insert into entry values (1)");
    let mut server = Server::start();
    server.follow(&source);
    let trunk = format!(
        "host={} user=ardent_system dbname=postgres",
        server.data_dir().join("run/1").display()
    );
    let verify = |server: &Server, more: &[&str]| {
        server.ardent(&[&["connector", "verify", "prod"], more].concat());
        server.ardent(&["connector", "status", "prod"]).ok()
    };
    assert!(verify(&server, &[]).contains(", 0 different"));
    eventually(Duration::from_secs(60), "the trunk runs again", || {
        (psql(&trunk, "insert into entry values (2)").code == 0).then_some(())
    });
    let said = verify(&server, &["--tables", "public.entry"]);
    assert!(said.contains("1 object differed from the source at "), "{said}");
    assert!(said.contains("degraded"), "{said}");
    let branch = server.branch("beside");
    assert!(server.ardent(&["branch", "info", "beside"]).ok().contains("1 object differed"));
    assert_eq!(psql(&branch, "select count(*) from entry").ok(), "2");

    server.kill();
    server.start_again();
    let status = || server.ardent(&["connector", "status", "prod"]).ok();
    assert!(status().contains("1 object differed from the source at "), "{}", status());
    eventually(Duration::from_secs(60), "the trunk is mended", || {
        (psql(&trunk, "delete from entry where id = 2").code == 0).then_some(())
    });
    // A sample cannot know that all is well.
    assert!(verify(&server, &["--sample", "1"]).contains("1 object differed"));
    let said = verify(&server, &[]);
    assert!(said.contains(", 0 different"), "{said}");
    assert!(said.contains("Ready"), "{said}");
}
