//! What must hold of pgbench's tables, and equality of two databases.

use std::collections::BTreeSet;

use super::drivers::Driver;
use super::source::Source;

/// Sums of accounts, tellers, branches and history, which are equal in any committed state.
#[track_caller]
pub(crate) fn assert_invariant(driver: Driver, url: &str) {
    let row = driver.rows(
        url,
        "select (select sum(abalance) from pgbench_accounts), \
         (select sum(tbalance) from pgbench_tellers), \
         (select sum(bbalance) from pgbench_branches), \
         (select sum(delta) from pgbench_history)",
    );
    let sums: Vec<&str> = row.split('|').collect();
    assert_eq!(sums.len(), 4, "{driver:?}: {row}");
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{driver:?} sees a torn state: {row}");
    assert!(!sums[0].is_empty(), "{driver:?}: no load had run: {row}");
}

/// Row count and content hash of every table outside the system's schemas, a line each. The hash
/// is a sum over rows, so a lost, doubled or changed row shows and the order does not matter.
#[track_caller]
fn fingerprint(url: &str) -> String {
    let tables = Driver::Psql.rows(
        url,
        "select format('select %L, count(*), sum(hashtextextended(t::text, 0)) from %s t', \
         c.oid::regclass, c.oid::regclass) from pg_class c \
         where relkind = 'r' and relnamespace::regnamespace::text !~ '^(pg_|information|ardent)' \
         order by c.oid::regclass::text collate \"C\"",
    );
    assert!(!tables.is_empty(), "no tables to compare");
    let union: Vec<&str> = tables.lines().collect();
    let rows = Driver::Psql.rows(url, &union.join(" union all "));
    // A parallel plan answers in any order.
    let mut lines: Vec<&str> = rows.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Every table of the branch holds exactly the rows of the source; else some that differ are shown.
#[track_caller]
pub(crate) fn assert_equal(branch: &str, source: &Source, what: &str) {
    let (ours, theirs) = (fingerprint(branch), fingerprint(&source.socket_url()));
    if ours == theirs {
        return;
    }
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
        (ours.lines().collect(), theirs.lines().collect());
    let differing: BTreeSet<&str> =
        ours.symmetric_difference(&theirs).map(|line| table(line)).collect();
    for name in &differing {
        let rows = format!("select t::text from {name} t order by 1");
        let [ours, theirs] = [branch.to_owned(), source.socket_url()].map(|url| {
            Driver::Psql.rows(&url, &rows).lines().map(shortened).collect::<BTreeSet<_>>()
        });
        for row in ours.difference(&theirs).take(3) {
            eprintln!("{name}, branch only: {row}");
        }
        for row in theirs.difference(&ours).take(3) {
            eprintln!("{name}, source only: {row}");
        }
    }
    panic!("{what}: the branch differs from the source in {differing:?}");
}

/// The name in a line of a fingerprint.
fn table(line: &str) -> &str {
    line.rsplitn(3, '|').last().unwrap_or_default()
}

fn shortened(row: &str) -> String {
    row.chars().take(1500).collect()
}
