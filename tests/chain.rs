//! The main job: follow a source under load, cut branches, use them through every driver, leave.

use crate::support::drivers::Driver;
use crate::support::pgbench::{assert_equal, assert_invariant};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::workload::Pgbench;

#[test]
fn twenty_branches_of_a_loaded_source_hold_its_last_commit_in_every_driver() {
    let source = Source::start();
    source.pgbench(10);
    source.sql("create table marker (id bigint primary key, note text)");
    let load = Pgbench::start(&source);
    let server = Server::start();
    server.follow(&source);

    let mut urls = Vec::new();
    for number in 1..=20 {
        source.sql(&format!("insert into marker values ({number}, 'source')"));
        let url = server.branch(&format!("b{number}"));
        for driver in Driver::ALL {
            let expected = number.to_string();
            let last = driver.rows(&url, "select max(id) from marker where note = 'source'");
            assert_eq!(last, expected, "{driver:?} in b{number}: the row committed before create");
            assert_invariant(driver, &url);
            write_and_read_back(driver, &url);
        }
        urls.push(url);
    }
    load.stop();

    let written = "select count(*) from marker where id < 0";
    assert_eq!(source.sql(written), "0", "a branch wrote into the source");
    for (index, url) in urls.iter().enumerate() {
        assert_eq!(Driver::Psql.rows(url, written), "3", "b{}: writes of others", index + 1);
        let rows = Driver::Psql.rows(url, "select count(*) from marker where id > 0");
        assert_eq!(rows, (index + 1).to_string(), "b{}: later source rows", index + 1);
    }
    leave(&server, &source, urls.len());
}

#[test]
fn a_branch_equals_the_source_table_by_table() {
    let source = Source::start();
    source.pgbench(1);
    let load = Pgbench::start(&source);
    let server = Server::start();
    server.follow(&source);
    load.stop();
    let url = server.branch("equal");
    assert_equal(&url, &source, "at rest");
}

/// Each driver writes one row of its own; the ids are negative so that they stand apart.
fn write_and_read_back(driver: Driver, url: &str) {
    let id = match driver {
        Driver::Psql => -1,
        Driver::Psycopg => -2,
        Driver::NodePostgres => -3,
    };
    driver.rows(url, &format!("insert into marker values ({id}, 'branch')"));
    let back = driver.rows(url, &format!("select note from marker where id = {id}"));
    assert_eq!(back, "branch", "{driver:?} reads what it wrote");
    let update = "update pgbench_branches set filler = 'branch' where bid = 1 returning bid";
    assert_eq!(driver.rows(url, update), "1", "{driver:?} updates a replicated table");
}

/// Deletes every branch, then the connector; the source must look as before.
fn leave(server: &Server, source: &Source, branches: usize) {
    let refused = server.ardent(&["connector", "delete", "prod"]).failed(1);
    assert!(refused.contains("b1"), "a connector with branches is not deleted: {refused}");
    for number in 1..=branches {
        let said = server.ardent(&["branch", "delete", &format!("b{number}")]).ok();
        assert!(said.contains("✓ Branch deleted"), "{said}");
    }
    let said = server.ardent(&["connector", "delete", "prod"]).ok();
    assert!(said.contains("✓ Connector deleted"), "{said}");
    assert_eq!(source.traces(), "", "left on the source");
}
