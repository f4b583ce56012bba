//! Trunks that other builds made.

use crate::source::TableName;

use crate::replication::{Phase, enable_triggers};

use super::support::Chain;

/// As the first builds that followed schema changes left it.
const OLDEST: &str = "\
DROP TABLE ardent.first_copy, ardent.copied;
ALTER TABLE ardent.quarantine DROP COLUMN copied_parts; COMMENT ON SCHEMA ardent IS NULL";
/// As the last builds that wrote no number did.
const UNNUMBERED: &str = "\
DROP TABLE ardent.first_copy, ardent.copied; COMMENT ON SCHEMA ardent IS NULL";
const FORMAT: &str = "SELECT obj_description('ardent'::regnamespace, 'pg_namespace')";

/// A chain that a stream has left, with the trunk's own tables changed since.
async fn left_as(trunk_sql: &str) -> Chain {
    let mut chain = Chain::start(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bad (id int PRIMARY KEY);
         INSERT INTO bad SELECT generate_series(1, 100);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER always BEFORE INSERT ON bad FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TABLE bad ENABLE ALWAYS TRIGGER always",
    )
    .await;
    chain.trunk.run_in("app", "INSERT INTO public.bad VALUES (101)").await;
    chain.on_source("INSERT INTO t VALUES (1); INSERT INTO bad VALUES (101)").await;
    chain.catch_up().await;
    assert_eq!(chain.stream().status().quarantined.len(), 1);
    chain.replication.take().unwrap().stop().await;
    chain.trunk.run_in("app", trunk_sql).await;
    chain.on_source("INSERT INTO t VALUES (2); ALTER TABLE t RENAME TO u").await;
    chain
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_of_an_older_build_is_brought_up_to_date_and_followed() {
    for left in [OLDEST, UNNUMBERED] {
        let mut chain = left_as(left).await;
        chain.follow();
        chain.catch_up().await;
        assert_eq!(chain.trunk.value("app", FORMAT).await, "Ardent: format 3");
        // The copy counts its parts in the newest column.
        let bad = TableName { schema: "public".into(), name: "bad".into() };
        assert!(chain.stream().release(bad).await.unwrap());
        chain.catch_up().await;
        chain.settle().await;
        chain.on_source("INSERT INTO u VALUES (3)").await;
        chain.assert_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_an_older_trunk_has_its_triggers() {
    let chain = left_as(OLDEST).await;
    let mode = "SELECT tgenabled::text FROM pg_trigger WHERE tgname = 'always'";
    assert_eq!(chain.trunk.value("app", mode).await, "D");
    enable_triggers(&chain.trunk.access()).await.unwrap();
    assert_eq!(chain.trunk.value("app", mode).await, "A");
}

/// As after a start of the server on an older one's data, with the source gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_trunk_can_be_cut_without_its_source() {
    let mut chain = left_as(OLDEST).await;
    chain.source.stop();
    chain.follow();
    chain.until("without", |status| matches!(status.phase, Phase::Retrying { .. })).await;
    chain.stream().pause().await.unwrap();
    assert_eq!(chain.trunk.value("app", FORMAT).await, "Ardent: format 3");
}

/// As while the older server that is being replaced still applies.
#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_is_being_fed_is_not_changed_until_it_is_left() {
    let mut chain = left_as(OLDEST).await;
    let feeding = chain.trunk.session("app").await;
    let lock = format!("SELECT pg_advisory_lock({})", crate::replication::applier::APPLIER_LOCK);
    feeding.batch_execute(&lock).await.unwrap();
    chain.follow();
    chain.until("busy", |status| matches!(status.phase, Phase::Retrying { .. })).await;
    let left = "SELECT count(*)::text FROM pg_attribute WHERE attname = 'copied_parts'";
    assert_eq!(chain.trunk.value("app", left).await, "0");
    feeding.close().await;
    chain.catch_up().await;
    assert_eq!(chain.trunk.value("app", "SELECT count(*)::text FROM public.u").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_this_build_does_not_know_is_refused() {
    for (left, said) in [
        ("COMMENT ON SCHEMA ardent IS 'Ardent: format 99'", "format 99 and this build knows"),
        ("DROP TABLE ardent.known; COMMENT ON SCHEMA ardent IS NULL", "delete the connector"),
        ("COMMENT ON SCHEMA ardent IS 'mine'", "format of the trunk is damaged"),
    ] {
        let mut chain = left_as(left).await;
        chain.follow();
        let reason = chain.until_stopped().await;
        assert!(reason.contains(said), "{reason}");
        assert_eq!(chain.trunk.value("app", "SELECT count(*)::text FROM public.t").await, "1");
    }
}
