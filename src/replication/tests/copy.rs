//! The first copy does not stand in anybody's way on the source.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::replication::{SetupProgress, setup};
use crate::source::TableName;

use super::support::server::bin_dir;
use super::support::{Chain, means};

const SCHEMA: &str = "
CREATE TABLE big (id int PRIMARY KEY, v text);
INSERT INTO big SELECT g, repeat('x', 300) FROM generate_series(1, 20000) g;
CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later VALUES (1), (2);
CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods VALUES (1, 'b');";

impl Chain {
    /// Copies, and does something at the first word of a table that is being copied.
    async fn copy_while(&mut self, work: impl AsyncFn(&Self) + Send + Sync) {
        let (link, trunk) = (self.source.link(), self.trunk.access());
        let is_done = AtomicBool::new(false);
        let report = |progress: &SetupProgress| {
            let is_big = progress.copying.iter().any(|entry| entry.table.name == "big");
            if is_big && !is_done.swap(true, Ordering::AcqRel) {
                block_in_place(|| Handle::current().block_on(work(self)));
            }
        };
        let outcome = setup(&link, &trunk, means(&bin_dir()), &report).await;
        self.warnings = outcome.unwrap_or_else(|error| panic!("{}", error.chain())).warnings;
        assert!(is_done.into_inner(), "nothing was done meanwhile");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_rewritten_before_their_turn_are_copied_again() {
    let mut chain = Chain::prepare(SCHEMA).await;
    let rewrite = "TRUNCATE later; INSERT INTO later VALUES (7);
                   ALTER TABLE moods ALTER COLUMN id TYPE bigint";
    chain.copy_while(async |chain| chain.on_source(rewrite).await).await;
    let [first, second] = &chain.warnings[..] else { panic!("{:?}", chain.warnings) };
    assert!(first.starts_with("public.later is copied again"), "{first}");
    assert!(second.starts_with("public.moods is copied again"), "{second}");
    chain.follow();
    chain.on_source("INSERT INTO later VALUES (8); INSERT INTO moods VALUES (2, 'a')").await;
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_stuck_lets_go_of_a_table_that_others_want() {
    let mut chain = Chain::prepare(SCHEMA).await;
    let (sender, granted) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    chain
        .copy_while(async |chain| {
            // Nothing can be copied into the trunk's table while this is open, ...
            let stuck = chain.trunk.session("app").await;
            let lock = "BEGIN; LOCK TABLE public.big IN ACCESS EXCLUSIVE MODE";
            stuck.batch_execute(lock).await.unwrap();
            // ... so the source's table stays locked by us, and this waits.
            let wanting = chain.source.session("app").await;
            let sender = sender.lock().unwrap().take().unwrap();
            tokio::spawn(async move {
                wanting.batch_execute(lock).await.unwrap();
                wanting.batch_execute("COMMIT").await.unwrap();
                stuck.batch_execute("COMMIT").await.unwrap();
                sender.send(()).unwrap();
            });
        })
        .await;
    granted.await.unwrap();
    assert_eq!(chain.warnings, [] as [&str; 0]);
    chain.assert_same_rows().await;
}

/// A base type is of the superuser's making, which nothing in the trunk is.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_the_trunk_cannot_have_are_named_and_the_rest_is_copied() {
    let mut chain = Chain::prepare(
        "CREATE TYPE base; CREATE FUNCTION base_in(cstring) RETURNS base AS 'int4in'
           LANGUAGE internal IMMUTABLE STRICT;
         CREATE FUNCTION base_out(base) RETURNS cstring AS 'int4out'
           LANGUAGE internal IMMUTABLE STRICT;
         CREATE TYPE base (INPUT = base_in, OUTPUT = base_out, LIKE = int4);
         CREATE TABLE large (id int PRIMARY KEY, b base, v text);
         INSERT INTO large SELECT g, '1', repeat('x', 1000) FROM generate_series(1, 5000) g;
         CREATE TABLE whole (id int PRIMARY KEY, b base); INSERT INTO whole VALUES (1, '1');
         CREATE TABLE small (id int PRIMARY KEY);
         INSERT INTO small SELECT generate_series(1, 1000)",
    )
    .await;
    chain.copy().await;
    // The first of them is large enough to be copied in parts.
    for table in ["large", "whole"] {
        let said = format!("public.{table} is not followed");
        let said = chain.warnings.iter().filter(|warning| warning.starts_with(&said));
        assert_eq!(said.count(), 1, "{:?}", chain.warnings);
    }
    chain.follow();
    chain.on_source("INSERT INTO small VALUES (0); INSERT INTO whole VALUES (2, '2')").await;
    chain.catch_up().await;
    assert_eq!(chain.stream().status().quarantined.len(), 2);
    // To ask for one again harms nobody either.
    let whole = TableName { schema: "public".into(), name: "whole".into() };
    assert!(chain.stream().release(whole).await.unwrap());
    chain.on_source("INSERT INTO small VALUES (-1)").await;
    chain.settle().await;
    chain.catch_up().await;
    assert_eq!(chain.stream().status().quarantined.len(), 2);
    assert_eq!(chain.trunk.value("app", "SELECT count(*)::text FROM public.small").await, "1002");
}

/// More than sockets hold, both ways: who only writes would wait for the trunk, and the trunk for him.
#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_that_warns_at_every_row_gets_all_of_them() {
    let mut chain = Chain::prepare(
        "CREATE FUNCTION warns(text) RETURNS bool LANGUAGE plpgsql AS
           'BEGIN RAISE WARNING ''%'', repeat(''w'', 1000); RETURN true; END';
         CREATE TABLE noisy (id int PRIMARY KEY, v text, CHECK (warns(v)));
         INSERT INTO noisy SELECT g, repeat('x', 1000) FROM generate_series(1, 5000) g",
    )
    .await;
    chain.copy().await;
    assert_eq!(chain.warnings, [] as [&str; 0]);
    chain.assert_same_rows().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_trunk_refuses_ends_the_copy_of_its_table_only() {
    let mut chain = Chain::prepare(
        "CREATE FUNCTION is_taken(int) RETURNS bool LANGUAGE sql AS
           'SELECT $1 <> 100 OR current_user <> ''ardent_apply''';
         CREATE TABLE refused (id int PRIMARY KEY, v text, CHECK (is_taken(id)));
         INSERT INTO refused SELECT g, repeat('x', 1000) FROM generate_series(1, 1500) g;
         CREATE TABLE next (id int PRIMARY KEY);
         INSERT INTO next SELECT generate_series(1, 1000)",
    )
    .await;
    chain.copy().await;
    let [warning] = &chain.warnings[..] else { panic!("{:?}", chain.warnings) };
    assert!(warning.starts_with("public.refused is not followed: new row"), "{warning}");
    let left = "SELECT (SELECT count(*) FROM public.refused) || ' ' || count(*) FROM public.next";
    assert_eq!(chain.trunk.value("app", left).await, "0 1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn materialized_views_are_filled_from_the_copied_tables() {
    let schema = "
CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item SELECT generate_series(1, 7);
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM item;
CREATE MATERIALIZED VIEW twice AS SELECT n * 2 AS n FROM total;
CREATE MATERIALIZED VIEW empty AS SELECT 1 AS n WITH NO DATA;
CREATE MATERIALIZED VIEW broken AS SELECT 1 / (5 - count(*)) AS n FROM item WHERE id < 7;
DELETE FROM item WHERE id = 1";
    let mut chain = Chain::prepare(schema).await;
    chain.copy().await;
    let trunk = chain.trunk.session("app").await;
    for (view, n) in [("total", 6_i64), ("twice", 12)] {
        let held = trunk.query_one(&format!("SELECT n FROM public.{view}"), &[]).await.unwrap();
        assert_eq!(held.get::<_, i64>(0), n, "{view}");
    }
    let populated = "SELECT string_agg(matviewname, ' ' ORDER BY 1) FROM pg_matviews
                      WHERE schemaname = 'public' AND ispopulated";
    let populated = trunk.query_one(populated, &[]).await.unwrap();
    assert_eq!(populated.get::<_, String>(0), "total twice");
    let [warning] = &chain.warnings[..] else { panic!("{:?}", chain.warnings) };
    assert_eq!(warning, "materialized view public.broken stays empty: division by zero");
}
