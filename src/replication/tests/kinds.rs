//! Kinds of values, tables and changes.

use crate::source::Plugin;

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    every_type_arrives_exactly
    unchanged_long_values_stay
    rows_without_a_key_are_told_apart
    odd_tables_and_names_arrive
    one_large_transaction_is_applied_in_rounds
    sequences_come_with_a_barrier
}

const TYPES: &str = r#"
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
CREATE SCHEMA "My Schema";
CREATE TYPE "My Schema".mood AS ENUM ('sad', 'o''k', 'very "happy"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN blob AS bytea;
CREATE TABLE everything (
  id bigint PRIMARY KEY, i2 smallint, i4 int, i8 bigint, num numeric, num2 numeric(10,3), f4 real,
  f8 double precision, b bool, t text, v varchar(20), c char(5), ch "char", n name, by bytea,
  d date, ti time, tz timetz, ts timestamp, tsz timestamptz, iv interval, m money, u uuid,
  inet inet, cidr cidr, mac macaddr, bits bit(5), vb bit varying(9), x xml, j json, jb jsonb,
  jp jsonpath, tsv tsvector, tsq tsquery, pt point, bx box, pol polygon, r int4range,
  mr int4multirange, tr tstzrange, ia int[], ta text[], ma int[][], mood "My Schema".mood,
  moods "My Schema".mood[], p pair, pa pair[], dom posint, doms posint[], bl blob, bya bytea[],
  h hstore, ci citext, l ltree, reg regclass, o oid, lsn pg_lsn);
"#;

const VALUES: &str = r#"
(1, 32767, -2147483648, 9223372036854775807, 12345678901234567890.123456789, 1.500, 1.1e-38,
 0.1, true, E'tab\tquote" back\\slash \u00e9\U0001F600 new\nline', 'x', 'ab', 'q', 'name',
 '\x00ff5c78',
 '2026-02-28', '23:59:59.999999', '12:00+02', '1999-12-31 23:59:59.5', '0044-03-15 12:00:00+00 BC',
 '1 year -2 days 03:04:05.6', '-1,234.56', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.1/8',
 '10.0.0.0/8', '08:00:2b:01:02:03', '10101', '101', '<a b="c">x</a>', '{"a": [1, null, "x"],
 "a":2}',
 '{"k": "v\u0041\"", "n": 1.50}', '$.a[*] ? (@ > 1)', 'a fat cat', 'fat & !cat', '(1,2)',
 '(1,1),(0,0)',
 '((0,0),(1,1),(2,0))', '[1,5)', '{[1,2),[5,9)}', '[2020-01-01 00:00+00,)', '{1,NULL,3}',
 '{"a,b","NULL",NULL,"q\"uote","back\\slash",""}', '{{1,2},{3,4}}', 'o''k',
 '{sad,"very \"happy\""}',
 '(1,"x,""y")', '{"(1,a)","(2,)"}', 5, '{1,2}', '\xdeadbeef', '{"\\x00","\\xff"}', 'a=>1, b=>NULL',
 'CaSe', 'top.sub', 'pg_class', 42, '16/B374D848')"#;

async fn every_type_arrives_exactly(plugin: Plugin) {
    let schema = format!("{TYPES} INSERT INTO everything VALUES {VALUES};");
    let chain = Chain::start_with(plugin, &schema).await;
    chain.assert_equal().await;
    chain.on_source("UPDATE everything SET id = 100").await;
    chain.on_source(&format!("INSERT INTO everything VALUES {VALUES}")).await;
    chain.on_source("INSERT INTO everything (id) SELECT g FROM generate_series(2, 50) g").await;
    chain
        .on_source(
            "UPDATE everything SET t = NULL, by = '\\x', ta = '{}', iv = '-1 mon' WHERE id = 1",
        )
        .await;
    chain
        .on_source(
            "UPDATE everything SET b = id % 2 = 0, ci = 'X' || id, bya = '{\"\\\\x01\"}'
    WHERE id > 10",
        )
        .await;
    chain.on_source("DELETE FROM everything WHERE id % 7 = 0").await;
    chain.assert_equal().await;
}

async fn unchanged_long_values_stay(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE doc (id int PRIMARY KEY, n int, body text);
         CREATE TABLE whole (id int, n int, body text);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
         INSERT INTO doc SELECT g, 0, repeat(md5(g::text), 500) FROM generate_series(1, 20) g;
         INSERT INTO whole SELECT * FROM doc;",
    )
    .await;
    chain
        .on_source(
            "BEGIN;
             UPDATE doc SET n = n + 1; UPDATE doc SET body = body || 'x' WHERE id < 5;
             UPDATE doc SET n = n + 1 WHERE id < 9; UPDATE doc SET id = id + 1000 WHERE id < 3;
             INSERT INTO doc VALUES (7000, 1, repeat('y', 9000)); UPDATE doc SET n = 2 WHERE id =
             7000;
             UPDATE whole SET n = n + 1 WHERE id < 10;
             COMMIT",
        )
        .await;
    chain.assert_equal().await;
}

async fn rows_without_a_key_are_told_apart(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE dup (a int, b text, j json, p point, by bytea, f bool, c char(4));
         ALTER TABLE dup REPLICA IDENTITY FULL;
         CREATE TABLE keyed (id int NOT NULL, v text); CREATE UNIQUE INDEX k ON keyed (id);
         ALTER TABLE keyed REPLICA IDENTITY USING INDEX k;
         CREATE TABLE fullpk (id int PRIMARY KEY, v text); ALTER TABLE fullpk REPLICA IDENTITY
         FULL;",
    )
    .await;
    chain
        .on_source(
            "INSERT INTO dup VALUES (1, 'x', '{\"a\":1}', '(1,2)', '\\x01', true, 'a'),
               (1, 'x', '{\"a\":1}', '(1,2)', '\\x01', true, 'a'), (NULL, NULL, NULL, NULL, NULL,
               NULL, NULL),
               (NULL, NULL, NULL, NULL, NULL, NULL, NULL), (2, '', '[]', NULL, '\\x', false, '');
             INSERT INTO keyed SELECT g, 'v' FROM generate_series(1, 100) g;
             INSERT INTO fullpk SELECT g, 'v' FROM generate_series(1, 100) g;",
        )
        .await;
    chain.assert_equal().await;
    chain
        .on_source(
            "DELETE FROM dup WHERE ctid = (SELECT min(ctid) FROM dup WHERE a = 1);
             DELETE FROM dup WHERE ctid = (SELECT min(ctid) FROM dup WHERE a IS NULL);
             UPDATE dup SET b = 'y', f = NOT f WHERE a = 2; UPDATE dup SET a = 9 WHERE a IS NULL;
             UPDATE keyed SET v = 'w' WHERE id > 50; UPDATE keyed SET id = -id WHERE id < 10;
             DELETE FROM keyed WHERE id = 60;
             UPDATE fullpk SET v = NULL WHERE id > 50; UPDATE fullpk SET id = -id WHERE id < 10;
             DELETE FROM fullpk WHERE id = 60;",
        )
        .await;
    chain.assert_equal().await;
}

async fn odd_tables_and_names_arrive(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        r#"CREATE SCHEMA "S p.a,c"; CREATE TYPE "S p.a,c"."My ""mood" AS ENUM ('glad, so');
           CREATE TABLE "S p.a,c"."Quo""ted.Name" ("Ke y" int PRIMARY KEY, "a""b" text, "sel.ect"
           int, mood "S p.a,c"."My ""mood" DEFAULT 'glad, so');
           CREATE TABLE gen (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int,
             twice int GENERATED ALWAYS AS (a * 2) STORED, d int GENERATED BY DEFAULT AS IDENTITY);
           CREATE TABLE part (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE
           (at);
           CREATE TABLE part_a PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2026-07-01');
           CREATE TABLE part_b PARTITION OF part FOR VALUES FROM ('2026-07-01') TO ('2027-01-01');
           CREATE TABLE base (id int PRIMARY KEY, v int); CREATE TABLE child (extra int) INHERITS
           (base);
           ALTER TABLE child ADD PRIMARY KEY (id);
           CREATE TABLE many (a int PRIMARY KEY, b int UNIQUE, c int);
           CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE chi (id int PRIMARY KEY, p int
           REFERENCES par);
           CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY); INSERT INTO unlogged VALUES (1);
           CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM many;"#,
    )
    .await;
    chain
        .on_source(
            r#"INSERT INTO "S p.a,c"."Quo""ted.Name" VALUES (1, 'x', 1), (2, 'y', 2);
               UPDATE "S p.a,c"."Quo""ted.Name" SET "a""b" = 'z' WHERE "Ke y" = 1;
               INSERT INTO gen (a) VALUES (1), (2), (3); UPDATE gen SET a = 10 WHERE id = 2;
               UPDATE gen SET id = DEFAULT WHERE id = 3; DELETE FROM gen WHERE id = 1;
               INSERT INTO part SELECT g, '2026-03-01', 'p' FROM generate_series(1, 9) g;
               UPDATE part SET at = '2026-08-01' WHERE id > 5;
               INSERT INTO base VALUES (1, 1); INSERT INTO child VALUES (2, 2, 2);
               UPDATE base SET v = 9; INSERT INTO par VALUES (1), (2); INSERT INTO chi VALUES (1,
               1);"#,
        )
        .await;
    chain
        .on_source(
            "BEGIN; INSERT INTO many SELECT g, g, 0 FROM generate_series(1, 50) g;
             SAVEPOINT a; DELETE FROM many; ROLLBACK TO a; UPDATE many SET b = b + 100;
             UPDATE many SET b = -b WHERE a % 2 = 0; DELETE FROM many WHERE a = 1;
             INSERT INTO many VALUES (1, -5, 5), (99, 5, 5); UPDATE many SET c = c + 1; COMMIT",
        )
        .await;
    chain.assert_equal().await;
    chain.on_source("TRUNCATE part; TRUNCATE ONLY base; TRUNCATE par, chi").await;
    chain
        .on_source(
            "BEGIN; TRUNCATE many; INSERT INTO many VALUES (1, 1, 1); TRUNCATE many;
        INSERT INTO many VALUES (2, 2, 2); COMMIT",
        )
        .await;
    chain.assert_equal().await;
}

async fn one_large_transaction_is_applied_in_rounds(plugin: Plugin) {
    let chain = Chain::start_with(plugin, "CREATE TABLE big (id int PRIMARY KEY, v text)").await;
    chain
        .on_source(
            "BEGIN; INSERT INTO big SELECT g, repeat('x', 100) FROM generate_series(1, 60000) g;
             UPDATE big SET v = 'y' WHERE id % 3 = 0; DELETE FROM big WHERE id % 5 = 0; COMMIT",
        )
        .await;
    chain.assert_equal().await;
}

async fn sequences_come_with_a_barrier(plugin: Plugin) {
    let chain = Chain::start_with(
        plugin,
        "CREATE TABLE s (id serial PRIMARY KEY); CREATE SEQUENCE \"Odd\" START 7; CREATE SEQUENCE
        untouched START 3;",
    )
    .await;
    chain
        .on_source("INSERT INTO s SELECT FROM generate_series(1, 5); SELECT nextval('\"Odd\"')")
        .await;
    chain.catch_up().await;
    let values = "SELECT (SELECT last_value || '/' || is_called FROM public.s_id_seq) || ' ' ||
                         (SELECT last_value || '/' || is_called FROM public.\"Odd\") || ' ' ||
                         (SELECT last_value || '/' || is_called FROM public.untouched)";
    assert_eq!(chain.trunk.value("app", values).await, "5/true 7/true 3/false");
    chain
        .on_source("SELECT setval('\"Odd\"', 50, false); ALTER SEQUENCE untouched RESTART 9")
        .await;
    chain.catch_up().await;
    assert_eq!(chain.trunk.value("app", values).await, "5/true 50/false 9/false");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgoutput_tells_nan_and_infinity_from_null() {
    let chain = Chain::start_with(
        Plugin::Pgoutput,
        "CREATE TABLE n (id int PRIMARY KEY, a numeric, b float8, c float4)",
    )
    .await;
    chain
        .on_source(
            "INSERT INTO n VALUES (1, 'NaN', 'NaN', '-Infinity'), (2, 'Infinity', '-0', 'NaN'),
               (3, NULL, NULL, NULL)",
        )
        .await;
    chain.assert_equal().await;
}
