//! A source of a newer major: its trunk and branches run the same one, and what is new in it is
//! carried.

use std::time::Duration;

use crate::support::drivers::psql;
use crate::support::newer::NewerPostgres;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

const TABLES: &str = "
    create table copied (id uuid primary key default uuidv7(), n int constraint n_given not null,
                         twice int generated always as (n * 2));
    insert into copied (n) select generate_series(1, 1000);
    create table item (id int generated always as identity primary key, tags text[], d daterange);
    create table whole (n int, twice int generated always as (n * 2) stored);
    alter table whole replica identity full; insert into whole values (1), (2), (3)";

/// Virtual columns, named NOT NULL, constraints that are not enforced, temporal keys.
const CHANGES: [&str; 8] = [
    "create extension btree_gist",
    "create table later (like copied including all)",
    "alter table later add column thrice int generated always as (n * 3) virtual",
    "alter table item add column size int constraint size_known not null default 1",
    "alter table item add constraint small check (size < 10) not enforced",
    "create table room (id int, d daterange, primary key (id, d without overlaps))",
    "create view doubled as select id, twice from copied",
    "alter table copied rename constraint n_given to n_is_there",
];

const CONSTRAINTS: &str = "select conrelid::regclass, conname, pg_get_constraintdef(oid)
    from pg_constraint where connamespace = 'public'::regnamespace order by 1, 2";

#[test]
fn a_newer_major_is_followed_with_what_is_new_in_it() {
    let newer = NewerPostgres::install();
    let source = Source::of(newer.bin());
    source.sql(TABLES);
    let server = Server::start_with(&format!("bin_dirs = [{:?}]", newer.bin()));
    server.follow(&source);
    let first = server.branch("first");
    let version = "show server_version_num";
    assert_eq!(
        psql(&first, version).ok(),
        source.sql(version),
        "the branch runs the same Postgres"
    );
    assert_eq!(psql(&first, "select count(*), sum(twice) from copied").ok(), "1000|1001000");

    for change in CHANGES {
        source.sql(change);
    }
    source.sql("insert into later (n) select generate_series(1, 50)");
    source.sql("insert into room values (1, '[2026-01-01, 2026-01-03)')");
    source.sql("insert into item (tags) values ('{a,b}')");
    source.sql("update copied set n = n + 1 where n = 1000");
    // Refused on the source if a publication lacked a column of the identity.
    source.sql("update whole set n = n + 10 where n > 1; delete from whole where n = 12");
    // A branch waits for all that was committed; tables made since the start are copied behind it.
    server.branch("during");
    eventually(Duration::from_secs(60), "every table is followed", || {
        let listed = server.ardent(&["connector", "quarantine", "list", "prod"]).ok();
        (!listed.contains("public.")).then_some(())
    });
    let said = server.ardent(&["connector", "verify", "prod", "--format", "json"]).ok();
    assert!(said.contains(" 0 different, 0 not carried, 0 not compared"), "{said}");
    assert!(said.contains("public.copied.n_is_there"), "names of NOT NULL are compared: {said}");
    let second = server.branch("second");
    assert_eq!(psql(&second, CONSTRAINTS).ok(), source.sql(CONSTRAINTS));
    for table in ["copied", "later", "room", "item", "whole", "doubled"] {
        let rows = format!("select * from {table} order by 1");
        assert_eq!(psql(&second, &rows).ok(), source.sql(&rows), "{table}");
    }
    server.ardent(&["connector", "delete", "prod", "--force"]).ok();
    assert_eq!(source.traces(), "");
}
