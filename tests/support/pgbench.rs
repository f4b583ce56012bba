//! What must hold of pgbench's tables, and equality of two databases.

use super::drivers::Driver;

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
pub(crate) fn fingerprint(url: &str) -> String {
    let tables = Driver::Psql.rows(
        url,
        "select format('select %L, count(*), sum(hashtextextended(t::text, 0)) from %s t', \
         c.oid::regclass, c.oid::regclass) from pg_class c \
         where relkind = 'r' and relnamespace::regnamespace::text !~ '^(pg_|information|ardent)' \
         order by c.oid::regclass::text collate \"C\"",
    );
    assert!(!tables.is_empty(), "no tables to compare");
    let union: Vec<&str> = tables.lines().collect();
    Driver::Psql.rows(url, &union.join(" union all "))
}
