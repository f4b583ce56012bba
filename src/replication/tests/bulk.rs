//! Many rows at once, which go into the trunk by COPY.

use crate::source::Plugin;

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    text_of_any_kind_arrives
    a_row_that_is_refused_costs_its_own_table_only
}

async fn text_of_any_kind_arrives(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE odd (id int PRIMARY KEY, t text, b bytea, c char(6), a text[],
           g int GENERATED ALWAYS AS (id * 2) STORED, i int GENERATED ALWAYS AS IDENTITY)",
    )
    .await;
    chain
        .on_source(
            r"INSERT INTO odd (id, t, b, c, a)
              SELECT g,
                CASE g % 6 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN '\N' WHEN 3 THEN '\.'
                  WHEN 4 THEN E'tab\tline\nreturn\rback\\slash' ELSE E'\u0001 \u00e9 \\t' END,
                CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE '\x005c0a09ff' END::bytea,
                'c' || g % 9, ARRAY[E'a\\b', NULL, E'x\ty', '']
              FROM generate_series(1, 1000) g",
        )
        .await;
    chain.assert_equal().await;
}

async fn a_row_that_is_refused_costs_its_own_table_only(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text)",
    )
    .await;
    chain.catch_up().await;
    chain.trunk.run_in("app", "INSERT INTO a VALUES (150, 'in the way')").await;
    chain
        .on_source(
            "BEGIN;
             INSERT INTO a SELECT g, 'x' FROM generate_series(1, 300) g;
             INSERT INTO b SELECT g, 'x' FROM generate_series(1, 300) g;
             COMMIT;
             INSERT INTO a SELECT g, 'y' FROM generate_series(301, 400) g;
             INSERT INTO b SELECT g, 'y' FROM generate_series(301, 400) g",
        )
        .await;
    chain.catch_up().await;
    let status = chain.stream().status();
    let quarantined: Vec<_> = status.quarantined.iter().map(|q| q.table.to_string()).collect();
    assert_eq!(quarantined, ["public.a"], "{status:?}");
    let sum = "SELECT count(*) || ' ' || sum(hashtextextended(b::text, 0)) FROM public.b b";
    assert_eq!(chain.trunk.value("app", sum).await, chain.source.value("app", sum).await);
}

/// A COPY that cannot begin says nothing about the rows: a policy, which no INSERT minds.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_copy_refuses_are_inserted() {
    let chain = Chain::start(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);
         ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE a FORCE ROW LEVEL SECURITY;
         CREATE POLICY all_of_them ON a USING (true)",
    )
    .await;
    chain.catch_up().await;
    chain.trunk.run("ALTER ROLE ardent_apply NOBYPASSRLS").await;
    for round in 0..5 {
        let from = round * 300;
        let rows = format!("SELECT g FROM generate_series({from}, {from} + 299) g");
        chain
            .on_source(&format!("BEGIN; INSERT INTO a {rows}; INSERT INTO b {rows}; COMMIT"))
            .await;
        chain.catch_up().await;
    }
    chain.assert_equal().await;
}
