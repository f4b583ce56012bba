//! Faults: whatever ends, nothing is lost, doubled or skipped.

use std::time::{Duration, Instant};

use crate::replication::{
    Link, Phase, Replication, SetupProgress, SlotWal, Stage, drop_source_objects, drop_sql, setup,
};

use crate::source::{Plugin, TableName};

use super::support::{Chain, means, with_each_plugin};

with_each_plugin! {
    aborted_appliers_and_a_killed_trunk_lose_nothing
    a_restarted_source_is_followed_again
    an_idle_stream_moves_the_slot
}
use super::support::server::bin_dir;

/// How many transactions each life of the stream applies before its end.
const LIVES: [u64; 6] = [100, 3, 200, 30, 60, 10];

async fn aborted_appliers_and_a_killed_trunk_lose_nothing(plugin: Plugin) {
    let mut chain = Chain::prepare_with(plugin, "SELECT 1").await;
    assert!(chain.source.pgbench("app", &["-i", "-q", "-s", "1"]).wait().unwrap().success());
    chain.copy().await;
    let mut load = chain.source.pgbench("app", &["-c", "3", "-T", "12"]);
    for (round, transactions) in LIVES.into_iter().enumerate() {
        chain.follow();
        chain.until("at work", |status| status.transactions >= transactions).await;
        match round % 3 {
            // Dropped: both connections break wherever they are.
            0 => chain.replication = None,
            1 => chain.trunk.crash().await,
            _ => {
                let position = chain.stream().pause().await.unwrap();
                assert_eq!(chain.stream().status().phase, Phase::Paused);
                assert_eq!(chain.stream().status().applied_lsn, position.lsn);
                chain.trunk.crash().await;
                chain.stream().resume(chain.trunk.access()).await.unwrap();
                chain.catch_up().await;
            }
        }
    }
    chain.follow();
    assert!(load.wait().unwrap().success());
    chain.assert_equal().await;
    let sums = "SELECT (SELECT sum(abalance) FROM public.pgbench_accounts) || ' ' ||
                       (SELECT sum(delta) FROM public.pgbench_history)";
    let (trunk, source) =
        (chain.trunk.value("app", sums).await, chain.source.value("app", sums).await);
    assert_eq!(trunk, source);
}

/// Each transaction is a group of its own, whose commit does not wait for the disk.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_takes_of_the_trunk_comes_again() {
    let mut chain = Chain::prepare("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.copy().await;
    chain.trunk.run("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    chain.trunk.run("SELECT pg_reload_conf()").await;
    for first in (0..200_000).step_by(5_000) {
        let last = first + 5_000;
        chain
            .on_source(&format!("INSERT INTO t SELECT generate_series({first} + 1, {last})"))
            .await;
    }
    chain.follow();
    let status = chain.until("at work", |status| status.transactions >= 3).await;
    chain.trunk.crash().await;
    let kept = chain.trunk.value("app", "SELECT lsn::text FROM ardent.progress").await;
    assert!(status.confirmed_lsn <= status.applied_lsn);
    assert!(status.applied_lsn <= kept.parse().unwrap(), "told of more than {kept}");
    chain.assert_equal().await;
}

/// A trunk that keeps up with small transactions commits each by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_keeps_up_seldom_waits_for_its_disk() {
    let mut chain = Chain::prepare("SELECT 1").await;
    assert!(chain.source.pgbench("app", &["-i", "-q", "-s", "1"]).wait().unwrap().success());
    chain.copy().await;
    // Whoever waits for the disk writes, and nobody else does.
    chain.trunk.run("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    chain.trunk.run("SELECT pg_reload_conf()").await;
    chain.follow();
    chain.catch_up().await;
    let waits = "SELECT wal_write::text FROM pg_stat_wal";
    let before: u64 = chain.trunk.value("app", waits).await.parse().unwrap();
    let arguments = ["-n", "-c", "2", "-T", "5", "-R", "200"];
    assert!(chain.source.pgbench("app", &arguments).wait().unwrap().success());
    let transactions = chain.stream().status().transactions;
    // The last of them are durable long before an idle source says its next word.
    let end = chain.trunk.value("app", "SELECT lsn::text FROM ardent.progress").await;
    let (end, began) = (end.parse().unwrap(), Instant::now());
    chain.until("durable", |status| status.applied_lsn >= end).await;
    assert!(began.elapsed() < Duration::from_secs(5));
    chain.replication.take().unwrap().stop().await;
    let after: u64 = chain.trunk.value("app", waits).await.parse().unwrap();
    assert!(transactions > 500 && after - before < transactions / 4, "{before} {after}");
    chain.follow();
    chain.assert_equal().await;
}

async fn a_restarted_source_is_followed_again(plugin: Plugin) {
    let mut chain = Chain::start_with(plugin, "CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("INSERT INTO t SELECT generate_series(1, 1000)").await;
    chain.catch_up().await;
    chain.source.crash().await;
    chain.on_source("INSERT INTO t SELECT generate_series(1001, 2000)").await;
    chain.until("streaming", |status| status.phase == Phase::Streaming).await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_had_the_trunk_refuses_to_pause_and_goes_on() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    let second = Replication::start(chain.link(), chain.trunk.access());
    let first = chain.replication.replace(second);
    chain.until("busy", |status| matches!(status.phase, Phase::Retrying { .. })).await;
    assert!(chain.stream().pause().await.is_err());
    drop(first);
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.assert_equal().await;
}

/// As after a start of the server that finds the source gone: branches can be cut all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_source_knows_where_the_trunk_stands() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    let before = chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    chain.source.stop();
    chain.follow();
    chain.until("without", |status| matches!(status.phase, Phase::Retrying { .. })).await;
    assert!(chain.stream().pause().await.unwrap().lsn >= before.lsn);
    chain.source.start_again().await;
    chain.stream().resume(chain.trunk.access()).await.unwrap();
    chain.on_source("INSERT INTO t VALUES (2)").await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_or_missing_slot_stops_the_stream() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    // The walsender of the stream may live a moment longer; this waits for it.
    drop_source_objects(&chain.source.link().source, "c1").await.unwrap();
    chain.follow();
    let reason = chain.until_stopped().await;
    assert!(reason.contains("slot is gone"), "{reason}");
    assert!(chain.stream().barrier().await.is_err());
    chain.on_source("SELECT pg_create_logical_replication_slot('ardent_c1', 'wal2json')").await;
    chain.stream().resume(chain.trunk.access()).await.unwrap();
    let reason = chain.until("refused", |status| match &status.phase {
        Phase::Stopped { reason } => reason.contains("changes between were missed"),
        _ => false,
    });
    reason.await;
}

async fn an_idle_stream_moves_the_slot(plugin: Plugin) {
    let chain = Chain::start_with(plugin, "CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots";
    let before = chain.source.value("app", confirmed).await;
    // Log of another database, which the stream never sees.
    chain.source.run("CREATE TABLE noise AS SELECT g FROM generate_series(1, 10000) g").await;
    let end = chain.source.value("app", "SELECT pg_current_wal_lsn()::text").await;
    let end = end.parse().unwrap();
    chain.until("past the noise", |status| status.confirmed_lsn >= end).await;
    let after = chain.source.value("app", confirmed).await;
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_applied_is_left_and_the_rest_goes_on() {
    let mut chain = Chain::start(
        "CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE bad (id int PRIMARY KEY);
         CREATE TABLE changed (id int PRIMARY KEY); CREATE TABLE keyless (id int);
         INSERT INTO keyless VALUES (1)",
    )
    .await;
    chain.trunk.run_in("app", "INSERT INTO public.bad VALUES (5)").await;
    chain.on_source("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await;
    chain
        .on_source(
            "BEGIN; INSERT INTO good SELECT generate_series(1, 10);
             INSERT INTO bad SELECT generate_series(1, 10);
             UPDATE keyless SET id = 2; COMMIT;
             ALTER TABLE changed ADD extra int; INSERT INTO changed VALUES (1, 1);
             INSERT INTO good VALUES (11)",
        )
        .await;
    chain.catch_up().await;
    let status = chain.stream().status();
    let mut names: Vec<String> =
        status.quarantined.iter().map(|entry| entry.table.to_string()).collect();
    names.sort();
    assert_eq!(names, ["public.bad", "public.keyless"], "{status:?}");
    assert_eq!(chain.trunk.value("app", "SELECT count(*)::text FROM public.good").await, "11");
    // Known again after a restart.
    chain.replication = None;
    chain.follow();
    chain.catch_up().await;
    assert_eq!(chain.stream().status().quarantined.len(), 2);
    for name in ["bad", "keyless"] {
        let table = TableName { schema: "public".into(), name: name.into() };
        assert!(chain.stream().release(table).await.unwrap());
    }
    chain.on_source("INSERT INTO bad VALUES (11); DELETE FROM bad WHERE id = 2").await;
    chain.catch_up().await;
    chain.settle().await;
    chain.on_source("UPDATE bad SET id = 100 WHERE id = 5; INSERT INTO keyless VALUES (3)").await;
    chain.assert_equal().await;
    let nowhere = TableName { schema: "public".into(), name: "good".into() };
    assert!(!chain.stream().release(nowhere).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_setup_is_not_repeated_and_deletion_leaves_nothing() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    let (link, trunk) = (chain.source.link(), chain.trunk.access());
    let looks_only = |progress: &SetupProgress| assert_eq!(progress.stage, Stage::Slot);
    setup(&link, &trunk, means(&bin_dir()), &looks_only).await.unwrap();
    chain.replication.take().unwrap().stop().await;
    for _ in 0..2 {
        drop_source_objects(&link.source, "c1").await.unwrap();
        let left = "SELECT count(*)::text FROM pg_replication_slots";
        assert_eq!(chain.source.value("app", left).await, "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_runs_instead_leaves_what_another_connector_needs() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    let free = "SELECT bool_or(active)::text FROM pg_replication_slots";
    chain.source.until("app", free, "false").await;
    let other = "pg_create_logical_replication_slot('ardent_conn_abc123', 'pgoutput')";
    chain.on_source(&format!("SELECT {other}")).await;
    chain.on_source(&drop_sql("c1")).await;
    let left = "SELECT string_agg(slot_name, ' ') || (SELECT count(*) FROM pg_event_trigger)
                  FROM pg_replication_slots";
    assert_eq!(chain.source.value("app", left).await, "ardent_conn_abc1233");
    chain.on_source(&drop_sql("conn_abc123")).await;
    let left = "SELECT ((SELECT count(*) FROM pg_replication_slots)
                  + (SELECT count(*) FROM pg_event_trigger))::text";
    assert_eq!(chain.source.value("app", left).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_stands_in_the_publication_that_its_identity_asks_for() {
    let schema = "CREATE TABLE t (id int); CREATE TABLE u (id int PRIMARY KEY)";
    let chain = Chain::start_with(Plugin::Pgoutput, schema).await;
    let named = "SELECT string_agg(tablename || ' ' || pubname, ', ' ORDER BY 1)
                   FROM (SELECT tablename, pubname FROM pg_publication_tables ORDER BY 1) AS x";
    let settled = async |expected: &str| {
        chain.catch_up().await;
        chain.settle().await;
        chain.source.until("app", named, expected).await;
        chain.assert_equal().await;
    };
    settled("t ardent_c1_inserts, u ardent_c1").await;
    // Updates that were never published come with the copy.
    chain.on_source("INSERT INTO t VALUES (1); UPDATE t SET id = 2").await;
    chain.on_source("ALTER TABLE t ADD PRIMARY KEY (id); UPDATE t SET id = 3").await;
    settled("t ardent_c1, u ardent_c1").await;
    chain
        .on_source("ALTER TABLE u RENAME TO v; INSERT INTO v VALUES (1); UPDATE v SET id = 2")
        .await;
    settled("t ardent_c1, v ardent_c1").await;
    // Its updates fail until the next look.
    chain.on_source("ALTER TABLE v DROP CONSTRAINT u_pkey; INSERT INTO v VALUES (3)").await;
    settled("t ardent_c1, v ardent_c1_inserts").await;
    chain
        .on_source("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    settled("t ardent_c1, v ardent_c1_inserts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_drops_the_publications() {
    let mut chain = Chain::start_with(
        Plugin::Pgoutput,
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE keyless (id int)",
    )
    .await;
    chain.on_source("INSERT INTO keyless VALUES (1); UPDATE keyless SET id = 2").await;
    chain.catch_up().await;
    assert_eq!(chain.trunk.value("app", "SELECT id::text FROM public.keyless").await, "1");
    chain.replication.take().unwrap().stop().await;
    let left = "SELECT (SELECT count(*) FROM pg_publication) || ' ' ||
                       (SELECT count(*) FROM pg_replication_slots)";
    assert_eq!(chain.source.value("app", left).await, "2 1");
    for _ in 0..2 {
        drop_source_objects(&chain.link().source, "c1").await.unwrap();
        assert_eq!(chain.source.value("app", left).await, "0 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_holds_too_much_goes_before_the_source_does() {
    let mut chain =
        Chain::prepare("CREATE TABLE t (id int PRIMARY KEY); SELECT lo_create(0)").await;
    chain.copy().await;
    assert_eq!(chain.warnings, ["1 large objects are not carried over"]);
    let limits = SlotWal { alarm_bytes: 1 << 20, drop_bytes: 0 };
    let link = Link { slot_wal: limits, ..chain.link() };
    let open = chain.source.session("app").await;
    open.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
    let noise = "CREATE TABLE noise AS SELECT repeat('x', 500) FROM generate_series(1, 10000)";
    chain.source.run(noise).await;
    chain.replication = Some(Replication::start(link.clone(), chain.trunk.access()));
    chain
        .until("alarmed", |status| {
            status.warnings.iter().any(|text| text.contains("more than 1048576 bytes"))
                && status
                    .oldest_transaction
                    .as_ref()
                    .is_some_and(|open| open.holder.contains("postgres"))
        })
        .await;
    chain.replication.take().unwrap().stop().await;
    let limits = SlotWal { drop_bytes: 1 << 20, ..limits };
    let link = Link { slot_wal: limits, ..link };
    chain.replication = Some(Replication::start(link, chain.trunk.access()));
    let reason = chain.until_stopped().await;
    assert!(reason.contains("slot is gone"), "{reason}");
    let left = "SELECT count(*)::text FROM pg_replication_slots";
    assert_eq!(chain.source.value("app", left).await, "0");
}
