//! Tables copied again while the stream goes on.

use crate::source::{Plugin, TableName};

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    rows_of_a_newer_shape_are_copied_once_the_stream_is_there
}

/// Rewrites, and changes that cannot be told from the text: the table is copied again.
#[tokio::test(flavor = "multi_thread")]
async fn rewritten_tables_are_copied_again_while_the_rest_goes_on() {
    let chain = Chain::start(
        "CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE o (id int PRIMARY KEY);
         CREATE TABLE ref (id int PRIMARY KEY, b int REFERENCES big);
         INSERT INTO big SELECT g, g::text FROM generate_series(1, 20000) g;
         INSERT INTO ref SELECT g, g FROM generate_series(1, 100) g;
         CREATE UNLOGGED TABLE un (id int PRIMARY KEY); INSERT INTO un VALUES (1)",
    )
    .await;
    for change in [
        "ALTER TABLE big ADD COLUMN r float8 DEFAULT random() NOT NULL",
        "ALTER TABLE big ADD COLUMN s serial, ADD COLUMN u uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE big ALTER COLUMN v TYPE int USING v::int * 2",
        "BEGIN; ALTER TABLE big ADD COLUMN w float8 DEFAULT random(); INSERT INTO big DEFAULT VALUES; \
         ROLLBACK",
        "ALTER TABLE un SET LOGGED; ALTER TABLE big ADD i int GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE big ALTER id TYPE bigint; ALTER TABLE big ADD g2 int GENERATED ALWAYS AS (s + 1) STORED",
    ] {
        let session = chain.source.session("app").await;
        session.batch_execute("SET search_path = public").await.unwrap();
        // The statement that fails on purpose ends its transaction.
        drop(session.batch_execute(change).await);
        session.close().await;
        for round in 0..20 {
            chain
                .on_source(&format!(
                    "INSERT INTO o SELECT coalesce(max(id), 0) + 1 FROM o;
                     UPDATE big SET v = v WHERE id % 50 = {round};
                     DELETE FROM big WHERE id = (SELECT max(id) FROM big);
                     INSERT INTO big (id) SELECT max(id) + 1 FROM big"
                ))
                .await;
        }
        chain.catch_up().await;
        chain.settle().await;
        chain.assert_equal().await;
    }
    assert_eq!(chain.schema_difference(), None);
}

/// As when branches are cut all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_after_a_pause_of_the_trunk() {
    let mut chain = Chain::start(
        "CREATE TABLE big (id int PRIMARY KEY, v text);
         INSERT INTO big SELECT g, repeat('x', 900) FROM generate_series(1, 250000) g",
    )
    .await;
    chain.on_source("ALTER TABLE big ADD COLUMN r float8 DEFAULT random()").await;
    let slots = "SELECT count(*)::text FROM pg_replication_slots";
    let parts = "SELECT coalesce(max(copied_parts), 0)::text FROM ardent.quarantine";
    let mut pauses = 0;
    loop {
        chain
            .on_source("UPDATE big SET v = 'y' WHERE id % 50000 = 0; DELETE FROM big WHERE id < 3")
            .await;
        chain.catch_up().await;
        if chain.stream().status().quarantined.is_empty() {
            break;
        }
        let before: i64 = chain.trunk.value("app", parts).await.parse().unwrap();
        chain.stream().pause().await.unwrap();
        chain.trunk.crash().await;
        let after: i64 = chain.trunk.value("app", parts).await.parse().unwrap();
        assert!(after >= before, "{after} after {before}: begun again");
        chain.stream().resume(chain.trunk.access()).await.unwrap();
        pauses += 1;
        // One part at least is copied between two pauses.
        let is_further = async || {
            let now: i64 = chain.trunk.value("app", parts).await.parse().unwrap();
            now > after || chain.stream().status().quarantined.is_empty()
        };
        while !is_further().await {
            chain.catch_up().await;
        }
    }
    assert!(pauses > 1, "{pauses}");
    assert_eq!(chain.source.value("app", slots).await, "1");
    chain.assert_equal().await;
}

/// The copy sees a column that the stream, held up by another table, has not brought yet.
async fn rows_of_a_newer_shape_are_copied_once_the_stream_is_there(plugin: Plugin) {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');
                  CREATE TABLE held (id int PRIMARY KEY); CREATE TABLE o (id int PRIMARY KEY)";
    let chain = Chain::start_with(plugin, schema).await;
    chain.catch_up().await;
    let changing = chain.source.session("app").await;
    let change = "BEGIN; ALTER TABLE public.t ADD COLUMN u uuid DEFAULT gen_random_uuid()";
    // Before the change is made, for it locks the table.
    chain.on_source("ALTER TABLE t ALTER COLUMN v TYPE text USING v || clock_timestamp()").await;
    let copying = "SELECT count(*)::text FROM pg_stat_activity
                    WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'";
    let holding = chain.source.session("app").await;
    holding.batch_execute("BEGIN; INSERT INTO public.o VALUES (1)").await.unwrap();
    chain.source.until("app", copying, "1").await;
    changing.batch_execute(change).await.unwrap();
    let stuck = chain.trunk.session("app").await;
    let lock = "BEGIN; LOCK TABLE public.held IN ACCESS EXCLUSIVE MODE";
    stuck.batch_execute(lock).await.unwrap();
    chain.on_source("INSERT INTO held VALUES (1)").await;
    changing.batch_execute("COMMIT").await.unwrap();
    holding.batch_execute("COMMIT").await.unwrap();
    // Refused by now, or the copy would still hold its snapshot.
    let open = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE temporary)
                     + (SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL
                           AND backend_type = 'client backend' AND pid <> pg_backend_pid())";
    chain.source.until("app", &format!("SELECT ({open})::text"), "0").await;
    stuck.batch_execute("COMMIT").await.unwrap();
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_refused_twice_is_given_up() {
    let schema = "CREATE DOMAIN d AS int; CREATE TABLE t (id int PRIMARY KEY, v d);
                  INSERT INTO t VALUES (1, 1)";
    let chain = Chain::start(schema).await;
    chain.catch_up().await;
    chain.trunk.run_in("app", "ALTER DOMAIN public.d ADD CHECK (VALUE < 0) NOT VALID").await;
    chain.on_source("INSERT INTO t VALUES (2, 2)").await;
    chain.catch_up().await;
    let table = TableName { schema: "public".into(), name: "t".into() };
    assert!(chain.stream().release(table.clone()).await.unwrap());
    chain
        .until("given up", |s| s.quarantined.iter().any(|q| q.reason.contains("were refused")))
        .await;
    chain.settle().await;
    chain.trunk.run_in("app", "ALTER DOMAIN public.d DROP CONSTRAINT d_check").await;
    assert!(chain.stream().release(table).await.unwrap());
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
}

/// Where the table has an identity in the trunk, so that only the plugin can be to blame.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_plugin_lost_is_made_good_by_a_copy_but_not_over_and_over() {
    let chain = Chain::start("CREATE TABLE t (id int NOT NULL); INSERT INTO t VALUES (1)").await;
    chain.catch_up().await;
    // A copy takes away what the source does not have.
    let add_identity = "ALTER TABLE t ADD PRIMARY KEY (id)";
    chain.trunk.run_in("app", add_identity).await;
    chain.on_source("UPDATE t SET id = 2").await;
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
    chain.trunk.run_in("app", add_identity).await;
    chain.on_source("UPDATE t SET id = 3").await;
    chain.catch_up().await;
    let [ref entry] = chain.stream().status().quarantined[..] else { panic!("not in quarantine") };
    assert!(!entry.is_resync_due && entry.reason.contains("UPDATE"), "{entry:?}");
}
