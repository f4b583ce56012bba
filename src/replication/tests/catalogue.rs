//! Of the catalogue of failures in the replication notes, what no other test touches.

use crate::source::Plugin;

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    prepared_transactions_arrive_with_their_commit
    constraints_that_wait_for_the_commit_hold_nothing_up
    updates_pass_through_values_that_another_row_has
    keys_that_are_kept_out_of_line_find_their_row
    ids_outgrow_their_type
}

async fn prepared_transactions_arrive_with_their_commit(plugin: Plugin) {
    let chain = Chain::start_with(plugin, "CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'kept'").await;
    chain.on_source("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'gone'").await;
    chain.on_source("INSERT INTO t VALUES (3)").await;
    chain.assert_equal().await;
    let count = "SELECT count(*)::text FROM public.t";
    assert_eq!(chain.trunk.value("app", count).await, "1");
    chain.on_source("COMMIT PREPARED 'kept'").await;
    chain.on_source("ROLLBACK PREPARED 'gone'").await;
    chain.assert_equal().await;
    assert_eq!(chain.trunk.value("app", count).await, "2");
}

async fn constraints_that_wait_for_the_commit_hold_nothing_up(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED,
           EXCLUDE (u WITH =) DEFERRABLE);
         CREATE TABLE kid (id int PRIMARY KEY, t int REFERENCES t DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO t SELECT g, g FROM generate_series(1, 20) g",
    )
    .await;
    chain
        .on_source(
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE t SET u = 2 WHERE id = 1;
             UPDATE t SET u = 1 WHERE id = 2; INSERT INTO kid VALUES (1, 99);
             INSERT INTO t VALUES (99, 99); COMMIT; UPDATE t SET u = u + 1",
        )
        .await;
    chain.assert_equal().await;
}

/// What a batch would refuse, the source's own order does not.
async fn updates_pass_through_values_that_another_row_has(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE, b int UNIQUE, c int);
         CREATE UNIQUE INDEX part ON t (c) WHERE a > 0;
         INSERT INTO t SELECT g, g, g, g FROM generate_series(1, 50) g",
    )
    .await;
    chain
        .on_source(
            "BEGIN; UPDATE t SET a = -1 WHERE id = 1; UPDATE t SET a = 1 WHERE id = 2;
             UPDATE t SET a = 2 WHERE id = 1; UPDATE t SET b = b + 100; UPDATE t SET b = b - 99;
             DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (300, 3, 4, 3);
             UPDATE t SET id = id + 1000; UPDATE t SET id = -id WHERE id < 1300;
             UPDATE t SET id = 2051 + id WHERE id < 0;
             UPDATE t SET c = NULL, a = a + 1000; COMMIT",
        )
        .await;
    chain.assert_equal().await;
}

async fn keys_that_are_kept_out_of_line_find_their_row(plugin: Plugin) {
    // As long as an index takes, and as random as is not made shorter.
    let long = "(SELECT string_agg(md5(g::text || n), '') FROM generate_series(1, 80) n)";
    let chain = Chain::start_with(
        plugin,
        &format!(
            "CREATE TABLE t (id text PRIMARY KEY, n int, v text);
             ALTER TABLE t ALTER id SET STORAGE EXTERNAL, ALTER v SET STORAGE EXTERNAL;
             CREATE TABLE whole (id text, n int); ALTER TABLE whole REPLICA IDENTITY FULL;
             ALTER TABLE whole ALTER id SET STORAGE EXTERNAL;
             INSERT INTO t SELECT {long}, g, repeat('v', 3000) FROM generate_series(1, 20) g;
             INSERT INTO whole SELECT id, n FROM t"
        ),
    )
    .await;
    for table in ["t", "whole"] {
        chain
            .on_source(&format!(
                "BEGIN; UPDATE {table} SET n = n + 100 WHERE n < 10; DELETE FROM {table} WHERE n = 11;
                 UPDATE {table} SET id = 'x' || substr(id, 2) WHERE n = 12;
                 UPDATE {table} SET id = left(id, 10) WHERE n = 13; COMMIT"
            ))
            .await;
    }
    chain.assert_equal().await;
}

/// Amid a transaction that writes before and after.
async fn ids_outgrow_their_type(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('a'), ('b');
         CREATE TABLE kid (id int PRIMARY KEY, t int REFERENCES t); INSERT INTO kid VALUES (1, 1)",
    )
    .await;
    chain
        .on_source(
            "BEGIN; INSERT INTO t (v) VALUES ('c'); UPDATE t SET v = 'A' WHERE id = 1;
             ALTER TABLE t ALTER COLUMN id TYPE bigint; ALTER SEQUENCE t_id_seq AS bigint;
             ALTER TABLE kid ALTER COLUMN t TYPE bigint;
             INSERT INTO t VALUES (5000000000, 'd'); INSERT INTO kid VALUES (2, 5000000000);
             UPDATE t SET v = 'B' WHERE id = 2; COMMIT; DELETE FROM t WHERE v = 'c'",
        )
        .await;
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
    assert_eq!(chain.schema_difference(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_is_gone_stops_the_stream() {
    let mut chain = Chain::prepare("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.source.run("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'").await;
    chain.source.run("SELECT pg_reload_conf()").await;
    chain.copy().await;
    for _ in 0..4 {
        chain.source.run("CREATE TABLE noise (); DROP TABLE noise; SELECT pg_switch_wal()").await;
    }
    chain.source.run("CHECKPOINT").await;
    let state = "SELECT wal_status FROM pg_replication_slots";
    chain.source.until("app", state, "lost").await;
    chain.follow();
    let reason = chain.until_stopped().await;
    assert!(reason.contains("removed log"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_forbidden_later_stops_the_stream_until_it_is_allowed() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    chain.source.run("ALTER ROLE postgres SET output_plugin_libraries = 'pgoutput'").await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.follow();
    let reason = chain.until_stopped().await;
    assert!(reason.contains("wal2json"), "{reason}");
    chain.source.run("ALTER ROLE postgres RESET output_plugin_libraries").await;
    chain.stream().resume(chain.trunk.access()).await.unwrap();
    chain.until("streaming", |s| s.phase == crate::replication::Phase::Streaming).await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_is_followed_only_from_where_the_trunk_stands() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    let mut behind = chain.source.copy().await;
    // The trunk gets a commit that this standby never had.
    chain.follow();
    chain.on_source("INSERT INTO t VALUES (2)").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    let mut level = chain.source.copy().await;
    behind.promote().await;
    behind.run_in("app", "INSERT INTO t SELECT generate_series(100, 9000)").await;
    let primary = std::mem::replace(&mut chain.source, behind);
    chain.follow();
    let reason = chain.until_stopped().await;
    assert!(reason.contains("has lost commits"), "{reason}");
    chain.replication.take().unwrap().stop().await;
    level.promote().await;
    let _behind = std::mem::replace(&mut chain.source, level);
    chain.follow();
    chain.on_source("INSERT INTO t VALUES (3)").await;
    chain.assert_equal().await;
    chain.replication.take().unwrap().stop().await;
    chain.source = primary;
    chain.follow();
    let reason = chain.until_stopped().await;
    assert!(reason.contains("older timeline"), "{reason}");
}

/// However long the trunk takes for a round, and with all queues full.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_hears_of_a_follower_whose_trunk_is_stuck() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    chain.catch_up().await;
    let holder = chain.trunk.session("app").await;
    holder.batch_execute("BEGIN; LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let walsender = "SELECT active_pid::text FROM pg_replication_slots";
    let before = chain.source.value("app", walsender).await;
    let rows = "SELECT g, repeat('x', 10000) FROM generate_series(1, 2000) g";
    for first in ["0", "2000", "4000"] {
        chain
            .on_source(&format!("INSERT INTO t SELECT g + {first}, v FROM ({rows}) r (g, v)"))
            .await;
    }
    let written = chain.source.value("app", "SELECT clock_timestamp()::text").await;
    let stands = chain.stream().status().applied_lsn;
    let heard = format!(
        "SELECT (reply_time > '{written}'::timestamptz + interval '5 seconds')::text
           FROM pg_stat_replication"
    );
    chain.source.until("app", &heard, "true").await;
    let status = chain.stream().status();
    assert_eq!((status.applied_lsn, status.confirmed_lsn), (stands, stands));
    assert!(status.lag_bytes > 1 << 20, "{status:?}");
    let end = chain.source.value("app", "SELECT pg_current_wal_lsn()::text").await;
    assert!(status.received_lsn < end.parse().unwrap(), "the queue is not full: {status:?}");
    holder.batch_execute("COMMIT").await.unwrap();
    chain.assert_equal().await;
    assert_eq!(chain.source.value("app", walsender).await, before, "the stream began anew");
}

/// Such as a row that is too large to be printed: the server ends the stream with its words.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_cannot_decode_is_not_skipped() {
    let chain = Chain::start_with(Plugin::Pgoutput, "CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.catch_up().await;
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
    chain.on_source("DROP PUBLICATION ardent_c1").await;
    let before = chain.source.value("app", "SELECT pg_current_wal_lsn()::text").await;
    chain.on_source("INSERT INTO t VALUES (2)").await;
    let reason = chain.until_stopped().await;
    assert!(reason.contains("publication \"ardent_c1\" does not exist"), "{reason}");
    for _ in 0..3 {
        chain.stream().resume(chain.trunk.access()).await.unwrap();
        chain.until_stopped().await;
    }
    let is_kept = format!("SELECT (({confirmed})::pg_lsn <= '{before}')::text");
    assert_eq!(chain.source.value("app", &is_kept).await, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_empty_transactions_costs_the_trunk_nothing() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    let moved = "SELECT xmin::text FROM ardent.progress";
    let before = chain.trunk.value("app", moved).await;
    let session = chain.source.session("app").await;
    for _ in 0..1_000 {
        // Writes what no plugin prints.
        session.batch_execute("SELECT pg_catalog.lo_create(0)").await.unwrap();
    }
    chain.catch_up().await;
    let written = chain.trunk.value("app", "SELECT txid_current()::text").await;
    let writes = written.parse::<u64>().unwrap() - before.parse::<u64>().unwrap();
    assert!(writes <= 5, "{writes} transactions of the trunk");
}
