//! Schema changes: whatever the source does, the trunk's schema and rows are the source's.

use crate::replication::error::Action;
use crate::replication::{drop_source_objects, publication};
use crate::source::Plugin;

use super::support::server::{PASSWORD, Server};
use super::support::{Chain, with_each_plugin};

/// Each line is run on the source by itself; after each case both sides are compared.
const CASES: &[(&str, &[&str])] = &[
    (
        "a table and its rows",
        &[
            "CREATE TABLE a (id serial PRIMARY KEY, v text DEFAULT 'x' NOT NULL, n numeric(10,2))",
            "INSERT INTO a (n) SELECT g FROM generate_series(1, 20) g",
        ],
    ),
    (
        "columns",
        &[
            "ALTER TABLE a ADD COLUMN c int; ALTER TABLE a ADD COLUMN d int NOT NULL DEFAULT 7",
            "INSERT INTO a (c) VALUES (1)",
            "ALTER TABLE a ADD COLUMN e timestamptz DEFAULT now(), ALTER COLUMN d SET DEFAULT 8",
            "INSERT INTO a (c) VALUES (2); UPDATE a SET n = 5 WHERE id < 4",
            "ALTER TABLE a DROP COLUMN c, ADD COLUMN \"Odd, name\" text[] DEFAULT '{a,\"b c\"}'",
            "ALTER TABLE a RENAME COLUMN v TO w; UPDATE a SET w = 'y' WHERE id = 3",
            "ALTER TABLE a ALTER COLUMN d DROP NOT NULL, ALTER COLUMN w DROP DEFAULT",
            "ALTER TABLE a ALTER COLUMN w TYPE varchar(50); ALTER TABLE a ALTER COLUMN w TYPE text",
            "COMMENT ON COLUMN a.w IS 'it''s'; COMMENT ON TABLE a IS 'table'; ALTER TABLE a ALTER w SET STORAGE EXTERNAL",
        ],
    ),
    (
        "mixed in one transaction",
        &[
            "BEGIN; CREATE TABLE m (id int PRIMARY KEY); INSERT INTO m VALUES (1), (2); \
         ALTER TABLE m ADD COLUMN x int DEFAULT 3; INSERT INTO m VALUES (4, 4); SAVEPOINT s; \
         ALTER TABLE m ADD COLUMN gone int; INSERT INTO m VALUES (5, 5, 5); ROLLBACK TO s; \
         UPDATE m SET x = 9 WHERE id = 1; ALTER TABLE m RENAME TO m2; INSERT INTO m2 VALUES (6, 6); \
         DELETE FROM m2 WHERE id = 2; COMMIT",
            "ALTER TABLE m2 RENAME COLUMN x TO y; INSERT INTO m2 VALUES (7, 7)",
        ],
    ),
    (
        "renames and moves",
        &[
            "CREATE SCHEMA s1; ALTER TABLE m2 SET SCHEMA s1; INSERT INTO s1.m2 VALUES (8, 8)",
            "ALTER SCHEMA s1 RENAME TO \"S 2\"; INSERT INTO \"S 2\".m2 VALUES (9, 9)",
            "ALTER TABLE \"S 2\".m2 RENAME CONSTRAINT m_pkey TO m2_pk",
        ],
    ),
    (
        "names swapped",
        &[
            "CREATE TABLE sw1 (id int PRIMARY KEY); CREATE TABLE sw2 (id int PRIMARY KEY, b int); \
         INSERT INTO sw1 VALUES (1); INSERT INTO sw2 VALUES (2, 2)",
            "BEGIN; ALTER TABLE sw1 RENAME TO tmp; ALTER TABLE sw2 RENAME TO sw1; ALTER TABLE tmp RENAME TO sw2; COMMIT",
            "INSERT INTO sw1 VALUES (3, 3); INSERT INTO sw2 VALUES (4)",
        ],
    ),
    (
        "types",
        &[
            "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN pos AS int DEFAULT 1 CHECK (VALUE > 0)",
            "CREATE TYPE pair AS (a int, b text); CREATE TYPE fr AS RANGE (SUBTYPE = float8)",
            "CREATE TABLE ty (id int PRIMARY KEY, m mood DEFAULT 'ok', p pos, q pair, r fr)",
            "INSERT INTO ty VALUES (1, 'sad', 5, '(1,x)', '[1,2)')",
            "ALTER TYPE mood ADD VALUE 'happy'; ALTER TYPE mood ADD VALUE 'meh' BEFORE 'ok'",
            "INSERT INTO ty VALUES (2, 'happy', 6, '(2,y)', NULL), (3, 'meh', 1, NULL, 'empty')",
            "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER TYPE pair RENAME ATTRIBUTE b TO c",
            "ALTER TYPE mood RENAME TO temper; ALTER DOMAIN pos ADD CONSTRAINT small CHECK (VALUE < 1000)",
            "INSERT INTO ty VALUES (4, 'blue', 7)",
            "ALTER DOMAIN pos DROP CONSTRAINT small",
            "ALTER DOMAIN pos SET DEFAULT 2; ALTER DOMAIN pos SET NOT NULL; ALTER DOMAIN pos DROP NOT NULL",
        ],
    ),
    (
        "indexes and constraints",
        &[
            "CREATE INDEX a_n ON a (n DESC) WHERE n > 1; CREATE UNIQUE INDEX a_u ON a (id, w)",
            "CREATE INDEX CONCURRENTLY a_c ON a (lower(w))",
            "ALTER INDEX a_n RENAME TO a_n2",
            "ALTER TABLE a ADD CONSTRAINT n_pos CHECK (n >= 0 OR n IS NULL), ADD CONSTRAINT un UNIQUE (id, d)",
            "CREATE TABLE f (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE DEFERRABLE); INSERT INTO f VALUES (1, 1)",
            "ALTER TABLE f RENAME CONSTRAINT f_a_fkey TO f_a; ALTER TABLE f ALTER CONSTRAINT f_a INITIALLY DEFERRED",
            "ALTER TABLE a DROP CONSTRAINT n_pos; REINDEX TABLE a",
            "DROP INDEX CONCURRENTLY a_c",
            "ALTER TABLE f ADD CONSTRAINT later CHECK (id < 100) NOT VALID",
            "ALTER TABLE f VALIDATE CONSTRAINT later",
            "CREATE UNIQUE INDEX nk ON f (a); ALTER TABLE f ADD CONSTRAINT nk UNIQUE USING INDEX nk",
            "CREATE STATISTICS st (dependencies) ON id, w FROM a; ALTER TABLE f REPLICA IDENTITY FULL",
            "INSERT INTO f VALUES (2, 2); UPDATE f SET a = 3 WHERE id = 2; DELETE FROM f WHERE id = 1",
            "CREATE EXTENSION btree_gist; CREATE TABLE ex (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
        ],
    ),
    (
        "views and functions",
        &[
            "CREATE FUNCTION fn(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x + 1'",
            "CREATE VIEW v AS SELECT id, w, fn(id) AS next FROM a; CREATE VIEW v2 AS SELECT * FROM v WHERE id > 1",
            "CREATE OR REPLACE VIEW v AS SELECT id, w, fn(id) AS next, d FROM a",
            "CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n, sum(d) FROM a; CREATE UNIQUE INDEX ON mv (n)",
            "INSERT INTO a (w) VALUES ('mv'); REFRESH MATERIALIZED VIEW mv",
            "CREATE OR REPLACE FUNCTION fn(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN x + 2; END'",
            "CREATE PROCEDURE pr(INOUT a int, b text DEFAULT 'q') LANGUAGE plpgsql AS 'BEGIN a := 1; END'",
            "ALTER FUNCTION fn(int) RENAME TO fn2; COMMENT ON FUNCTION fn2(int) IS 'two'; ALTER VIEW v2 RENAME COLUMN w TO ww",
            "ALTER VIEW v2 SET (security_barrier = true); ALTER VIEW v2 RENAME TO v3; DROP VIEW v CASCADE",
            "DROP FUNCTION fn2(int); DROP PROCEDURE pr; DROP MATERIALIZED VIEW mv",
        ],
    ),
    (
        "triggers, rules and policies",
        &[
            "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER tg BEFORE INSERT OR UPDATE ON a FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION tf()",
            "ALTER TABLE a DISABLE TRIGGER tg",
            "ALTER TABLE a ENABLE TRIGGER tg; ALTER TRIGGER tg ON a RENAME TO tg2",
            "CREATE RULE ru AS ON DELETE TO ty DO ALSO NOTHING; ALTER TABLE a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "CREATE ROLE app; CREATE ROLE other LOGIN",
            "CREATE POLICY po ON a FOR SELECT TO app USING (id > 3)",
            "ALTER POLICY po ON a TO app, other USING (id > 4); CREATE POLICY p2 ON a AS RESTRICTIVE WITH CHECK (true)",
            "DROP POLICY p2 ON a; DROP TRIGGER tg2 ON a; DROP RULE ru ON ty; ALTER TABLE a NO FORCE ROW LEVEL SECURITY",
        ],
    ),
    (
        "owners and grants",
        &[
            "CREATE ROLE stranger",
            "CREATE SCHEMA ow AUTHORIZATION app; CREATE TABLE ow.t (id serial PRIMARY KEY); ALTER TABLE ow.t OWNER TO other",
            "GRANT SELECT, UPDATE (w) ON a TO app WITH GRANT OPTION; GRANT USAGE ON SCHEMA ow TO other, PUBLIC",
            "REVOKE UPDATE (w) ON a FROM app CASCADE; GRANT EXECUTE ON FUNCTION tf() TO app; REVOKE ALL ON FUNCTION tf() FROM PUBLIC",
            "GRANT ALL ON ALL TABLES IN SCHEMA ow TO app; GRANT USAGE ON SEQUENCE ow.t_id_seq TO app; GRANT USAGE ON TYPE temper TO app",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA ow GRANT SELECT ON TABLES TO other",
            "CREATE TABLE ow.late (id int PRIMARY KEY)",
            "ALTER SCHEMA ow OWNER TO other; ALTER SCHEMA ow OWNER TO app; ALTER TABLE ow.t OWNER TO app",
            "SET ROLE app; CREATE TABLE ow.mine (id int PRIMARY KEY); CREATE FUNCTION ow.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ],
    ),
    (
        "sequences and identity",
        &[
            "CREATE SEQUENCE sq AS int INCREMENT 5 MAXVALUE 1000 CYCLE; ALTER SEQUENCE sq INCREMENT 7",
            "CREATE TABLE idn (id int GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY, g int GENERATED ALWAYS AS (7 * 6) STORED, v int)",
            "INSERT INTO idn (v) VALUES (1), (2)",
            "ALTER TABLE idn ALTER id SET GENERATED BY DEFAULT; ALTER TABLE idn ALTER id DROP IDENTITY",
            "ALTER SEQUENCE sq OWNED BY idn.v; ALTER TABLE idn ALTER v SET DEFAULT nextval('sq')",
            "INSERT INTO idn (id) VALUES (90)",
            "ALTER SEQUENCE sq OWNED BY NONE; ALTER SEQUENCE sq RENAME TO sq2",
        ],
    ),
    (
        "partitions and inheritance",
        &[
            "CREATE TABLE pt (id int, at date NOT NULL, v text, CHECK (id > 0), PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
            "CREATE TABLE pa PARTITION OF pt FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
            "CREATE TABLE pb PARTITION OF pt FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY LIST (id)",
            "CREATE TABLE pb1 PARTITION OF pb FOR VALUES IN (1, 2, 3); CREATE TABLE pd PARTITION OF pt DEFAULT",
            "INSERT INTO pt VALUES (1, '2026-02-01', 'a'), (2, '2026-08-01', 'b'), (3, '2030-01-01', 'c')",
            "CREATE INDEX ptv ON pt (v); ALTER TABLE pt ADD COLUMN x int DEFAULT 4; UPDATE pt SET x = 5 WHERE id = 2",
            "UPDATE pt SET at = '2026-03-01' WHERE id = 2",
            "ALTER TABLE pt DETACH PARTITION pa; INSERT INTO pa VALUES (9, '2026-05-05', 'z', 1)",
            "CREATE TABLE pc (x int, v text, at date NOT NULL, id int NOT NULL CHECK (id > 0)); INSERT INTO pc VALUES (1, 'q', '2025-01-01', 5)",
            "DELETE FROM pa WHERE id = 9; ALTER TABLE pt ATTACH PARTITION pa FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
            "ALTER TABLE pt RENAME COLUMN v TO vv; DROP TABLE pd; INSERT INTO pt VALUES (3, '2026-09-09', 'd', 1)",
            "CREATE TABLE base (id int PRIMARY KEY, v int); CREATE TABLE kid (w int) INHERITS (base); INSERT INTO kid VALUES (1, 2, 3)",
            "ALTER TABLE base ADD COLUMN z int DEFAULT 1; ALTER TABLE kid NO INHERIT base; INSERT INTO kid VALUES (2, 2, 3, 4)",
        ],
    ),
    (
        "DDL in functions and blocks",
        &[
            "DO $$ BEGIN FOR i IN 1..3 LOOP EXECUTE format('CREATE TABLE loop_%s (id int PRIMARY KEY)', i); \
         EXECUTE format('INSERT INTO loop_%s VALUES (%s)', i, i); END LOOP; END $$",
            "SET check_function_bodies = off; CREATE FUNCTION mk() RETURNS void LANGUAGE sql AS 'CREATE TABLE by_sql (id int PRIMARY KEY)'",
            "SELECT mk()",
            "DO $$ BEGIN BEGIN CREATE TABLE never (a int); RAISE 'no'; EXCEPTION WHEN OTHERS THEN CREATE TABLE yes (id int PRIMARY KEY); END; END $$",
            "CREATE TABLE IF NOT EXISTS yes (a int); DROP TABLE IF EXISTS nope; CREATE TEMP TABLE tmp (a int); DROP TABLE tmp",
        ],
    ),
    (
        "rows before their table",
        &[
            "CREATE TABLE cta AS SELECT g AS id, 'r' || g AS v FROM generate_series(1, 50) g",
            "SELECT id, w INTO si FROM a; ALTER TABLE cta ADD PRIMARY KEY (id); UPDATE cta SET v = 'u' WHERE id < 5",
        ],
    ),
    (
        "schemas with elements, extensions, drops",
        &[
            "CREATE SCHEMA el CREATE TABLE t (id int PRIMARY KEY) CREATE VIEW v AS SELECT * FROM t",
            "CREATE EXTENSION hstore; CREATE TABLE h (id int PRIMARY KEY, h hstore); INSERT INTO h VALUES (1, 'a=>1')",
            "DROP SCHEMA el CASCADE; DROP TABLE h; DROP EXTENSION hstore; DROP TABLE loop_1, loop_2; DROP TYPE fr CASCADE",
            "ALTER TABLE a SET (fillfactor = 70, autovacuum_enabled = false); ALTER TABLE a RESET (autovacuum_enabled)",
            "CREATE UNLOGGED TABLE ul (id int PRIMARY KEY); DROP DOMAIN pos CASCADE; TRUNCATE cta, si; ALTER TABLE ty DROP COLUMN m",
        ],
    ),
];

with_each_plugin! {
    the_trunk_follows_every_schema_change
}

async fn the_trunk_follows_every_schema_change(plugin: Plugin) {
    let chain = Chain::start_with(plugin, "CREATE TABLE first (id int PRIMARY KEY)").await;
    assert_eq!(chain.stream().status().warnings, [] as [&str; 0]);
    run_cases(&chain, "event triggers").await;
    chain.assert_equal().await;
}

/// What polling cannot see is when a materialized view was refreshed.
#[tokio::test(flavor = "multi_thread")]
async fn without_event_triggers_the_schema_is_polled() {
    // A schema of that name which is not ours keeps anything from being installed.
    let chain = Chain::start("CREATE SCHEMA ardent; CREATE TABLE first (id int PRIMARY KEY)").await;
    run_cases(&chain, "polling").await;
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
}

/// Whose outcome depends on the order of statements that polling does not see.
const ORDERED: [&str; 2] = ["names swapped", "partitions and inheritance"];

async fn run_cases(chain: &Chain, mode: &str) {
    let (mut failures, mut known) = (Vec::new(), None);
    let cases = CASES.iter().filter(|(name, _)| mode != "polling" || !ORDERED.contains(name));
    for (name, lines) in cases {
        for line in *lines {
            let session = chain.source.session("app").await;
            session.batch_execute("SET search_path = public").await.unwrap();
            if let Err(error) = session.batch_execute(line).await {
                failures.push(format!("{line}: {error:?}"));
            }
            session.close().await;
            chain.catch_up().await;
            chain.settle().await;
        }
        let difference = chain.schema_difference();
        if difference != known {
            failures.extend(difference.as_ref().map(|d| format!("{name}: {d}")));
            known = difference;
        }
        let status = chain.stream().status();
        if !status.quarantined.is_empty() {
            failures.push(format!("{name}: {:?}", status.quarantined));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(chain.stream().status().ddl_mode, mode);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_message_does_nothing_but_raise_an_alarm() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("CREATE ROLE low LOGIN").await;
    chain
        .on_source(
            r#"SET ROLE low;
               SELECT pg_logical_emit_message(true, 'ardent.ddl', 'ddl {"tag": "DROP TABLE", "dropped": [{"kind": "table", "oid": 1, "schema": "public",
                    "name": "t", "identity": "public.t", "original": true}]}'),
                 pg_logical_emit_message(true, 'ardent.ddl', 'seal ' || repeat('0', 64))"#,
        )
        .await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.assert_equal().await;
    let warnings = chain.stream().status().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("not signed"), "{warnings:?}");
    for sql in ["SELECT * FROM ardent.key", "SELECT ardent.emit('x')", "SELECT ardent.capture()"] {
        let session = chain.source.session("app").await;
        session.batch_execute("SET ROLE low").await.unwrap();
        let refused = session.batch_execute(sql).await.unwrap_err();
        assert_eq!(refused.code().map(|code| code.code()), Some("42501"), "{sql}");
        session.close().await;
    }
}

/// Whoever may replicate can read every message of ours, seals included, and say it again.
#[tokio::test(flavor = "multi_thread")]
async fn old_messages_said_again_do_nothing() {
    let chain = Chain::start("CREATE TABLE t (id serial PRIMARY KEY)").await;
    chain.on_source("CREATE ROLE spy REPLICATION; GRANT CREATE ON DATABASE app TO spy").await;
    chain.on_source("SELECT pg_create_logical_replication_slot('spy', 'wal2json')").await;
    chain.on_source("INSERT INTO t DEFAULT VALUES; CREATE TABLE gone (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    chain.on_source("INSERT INTO t DEFAULT VALUES; DROP TABLE gone").await;
    chain.catch_up().await;
    chain.on_source("ALTER TABLE t ADD COLUMN v int").await;
    chain
        .on_source(
            "CREATE TABLE said AS SELECT data::jsonb AS m FROM pg_logical_slot_get_changes(
               'spy', NULL, NULL, 'format-version', '2', 'add-msg-prefixes',
               'ardent.ddl,ardent.heartbeat,ardent.barrier') WHERE data LIKE '{\"action\":\"M\"%';
             GRANT SELECT ON said TO spy; SELECT pg_drop_replication_slot('spy')",
        )
        .await;
    let said = "SELECT count(DISTINCT m->>'prefix') || ' ' || (count(*) > 6) FROM public.said";
    assert_eq!(chain.source.value("app", said).await, "2 true");
    chain.catch_up().await;
    chain.settle().await;
    let schema = chain.trunk.schema("app");
    chain
        .on_source(
            "SET ROLE spy; SELECT pg_logical_emit_message(true, m->>'prefix', m->>'content')
               FROM public.said",
        )
        .await;
    let emitted = chain.source.session("app").await;
    emitted.batch_execute("SELECT nextval('public.t_id_seq')").await.unwrap();
    chain.catch_up().await;
    assert_eq!(chain.trunk.schema("app"), schema);
    let at = "SELECT last_value::text FROM public.t_id_seq";
    assert_eq!(chain.trunk.value("app", at).await, "3");
    let warnings = chain.stream().status().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("not signed"), "{warnings:?}");
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_of_the_customer_goes_on() {
    let mut chain = Chain::prepare("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (source, other) = (&chain.source, Server::source(&[]).await);
    other.run("CREATE DATABASE app").await;
    other.run_in("app", "CREATE TABLE t (id int PRIMARY KEY)").await;
    source.run_in("app", "CREATE PUBLICATION p FOR ALL TABLES").await;
    let url = format!("host=127.0.0.1 port={} user=postgres dbname=app", source.port());
    let subscribe = format!(
        "CREATE SUBSCRIPTION s CONNECTION '{url} password=''{}''' PUBLICATION p",
        PASSWORD.replace('\'', "''''")
    );
    other.run_in("app", &subscribe).await;
    chain.copy().await;
    chain.follow();
    chain.on_source("ALTER TABLE t ADD COLUMN v int; ALTER TABLE t DROP COLUMN v").await;
    chain.on_source("INSERT INTO t VALUES (1)").await;
    chain.assert_equal().await;
    other.until("app", "SELECT count(*)::text FROM public.t", "1").await;
    other.run_in("app", "ALTER SUBSCRIPTION s REFRESH PUBLICATION").await;
    chain.on_source("INSERT INTO t VALUES (2)").await;
    other.until("app", "SELECT count(*)::text FROM public.t", "2").await;
    other.run_in("app", "DROP SUBSCRIPTION s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_leaves_nothing_on_the_source() {
    let before = "CREATE TABLE t (id int PRIMARY KEY)";
    let mut chain = Chain::prepare(before).await;
    let objects = "SELECT (SELECT count(*) FROM pg_event_trigger) || ' '
        || (SELECT count(*) FROM pg_namespace WHERE nspname = 'ardent') || ' '
        || (SELECT count(*) FROM pg_proc WHERE oid >= 16384) || ' '
        || (SELECT count(*) FROM pg_replication_slots)";
    chain.copy().await;
    assert_eq!(chain.source.value("app", objects).await, "3 1 4 1");
    let link = chain.source.link();
    drop_source_objects(&link.source, "c1").await.unwrap();
    assert_eq!(chain.source.value("app", objects).await, "0 0 0 0");
    // A schema of that name which is not ours stays, and captures nothing.
    chain.on_source("CREATE SCHEMA ardent; CREATE TABLE ardent.mine (id int)").await;
    drop_source_objects(&link.source, "c1").await.unwrap();
    chain.trunk.run("DROP DATABASE app").await;
    chain.copy().await;
    chain.follow();
    chain.catch_up().await;
    let status = chain.stream().status();
    assert_eq!(status.ddl_mode, "polling", "{status:?}");
    chain.replication.take().unwrap().stop().await;
    drop_source_objects(&link.source, "c1").await.unwrap();
    assert_eq!(chain.source.value("app", objects).await, "0 1 0 0");
}

/// What was sealed before the change is in the log still, so the key has to be the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_build_installed_is_replaced_but_for_its_key() {
    let mut chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.on_source("ALTER TABLE t ADD COLUMN before int").await;
    chain.catch_up().await;
    chain.replication.take().unwrap().stop().await;
    let key = "SELECT key::text FROM ardent.key";
    let old = chain.source.value("app", key).await;
    chain.on_source("ALTER TABLE t ADD COLUMN meanwhile int; INSERT INTO t VALUES (1, 2, 3)").await;
    chain
        .on_source(
            "CREATE OR REPLACE FUNCTION ardent.describe(oid[], oid[], oid[], oid[], boolean)
               RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT NULL::jsonb WHERE false';
             COMMENT ON FUNCTION ardent.capture() IS 'another build'",
        )
        .await;
    chain.follow();
    chain.catch_up().await;
    chain.on_source("ALTER TABLE t ADD COLUMN after int; INSERT INTO t VALUES (2, 2, 3, 4)").await;
    chain.catch_up().await;
    assert_eq!(chain.source.value("app", key).await, old);
    assert_eq!(chain.schema_difference(), None);
    chain.assert_equal().await;
    assert_eq!(chain.stream().status().warnings, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_code_gains_nothing() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain
        .on_source(
            "CREATE FUNCTION evil(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $f$
             BEGIN
               BEGIN RESET ROLE; RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN END;
               BEGIN EXECUTE 'ALTER ROLE low SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
               BEGIN EXECUTE 'SET ROLE ardent_system'; EXCEPTION WHEN OTHERS THEN END;
               BEGIN EXECUTE 'GRANT pg_read_server_files TO low'; EXCEPTION WHEN OTHERS THEN END;
               BEGIN PERFORM pg_read_file('PG_VERSION'); CREATE TABLE public.won ();
                 EXCEPTION WHEN OTHERS THEN END;
               BEGIN EXECUTE 'COPY pg_class TO PROGRAM ''true'''; CREATE TABLE public.ran ();
                 EXCEPTION WHEN OTHERS THEN END;
               RETURN true;
             END $f$;
             CREATE FUNCTION evil_trigger() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN PERFORM public.evil(1); RETURN NEW; END';
             CREATE ROLE low; GRANT CREATE ON SCHEMA public TO low; ALTER TABLE t OWNER TO low",
        )
        .await;
    chain
        .on_source(
            "SET ROLE low; INSERT INTO t VALUES (1); ALTER TABLE t ADD CHECK (evil(id));
             ALTER TABLE t ADD COLUMN d boolean DEFAULT evil(1); CREATE INDEX ON t (evil(id));
             CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION evil_trigger();
             ALTER TABLE t ENABLE ALWAYS TRIGGER g;
             CREATE MATERIALIZED VIEW mv AS SELECT evil(id) FROM t; REFRESH MATERIALIZED VIEW mv;
             INSERT INTO t VALUES (2); CREATE DOMAIN d AS int CHECK (evil(VALUE));
             ALTER TABLE t ADD COLUMN dd d DEFAULT 5",
        )
        .await;
    chain.catch_up().await;
    chain.settle().await;
    chain.assert_equal().await;
    for (sql, expected) in [
        ("SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper", "ardent_system"),
        ("SELECT count(*)::text FROM pg_class WHERE relname IN ('won', 'ran')", "0"),
        ("SELECT pg_has_role('low', 'pg_read_server_files', 'MEMBER')::text", "false"),
    ] {
        assert_eq!(chain.trunk.value("app", sql).await, expected, "{sql}");
    }
}

/// Whatever the schema was when a barrier was asked for is in the trunk when it is reached.
#[tokio::test(flavor = "multi_thread")]
async fn barriers_come_while_a_polled_schema_never_stands_still() {
    let chain = Chain::start("CREATE SCHEMA ardent; CREATE TABLE t (id int PRIMARY KEY)").await;
    let columns = "SELECT count(*)::text FROM pg_attribute WHERE attrelid = 'public.t'::regclass
                      AND attnum > 0";
    let changing = async {
        for number in 0..40 {
            chain.on_source(&format!("ALTER TABLE t ADD COLUMN c{number} int")).await;
        }
    };
    let looking = async {
        for _ in 0..8 {
            let before: u32 = chain.source.value("app", columns).await.parse().unwrap();
            chain.catch_up().await;
            let there: u32 = chain.trunk.value("app", columns).await.parse().unwrap();
            assert!(there >= before, "{there} columns of {before}");
        }
    };
    tokio::join!(changing, looking);
    chain.catch_up().await;
    assert_eq!(chain.schema_difference(), None);
    chain.settle().await;
    chain.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_while_it_is_described_counts_as_gone() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE INDEX t_v ON t (v)";
    let chain = Chain::start(schema).await;
    let looking = chain.source.session("app").await;
    looking.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    chain.on_source("DROP INDEX t_v").await;
    let facts = "SELECT f->>'key', f->>'make' IS NULL
                   FROM ardent.describe(ARRAY['public.t'::regclass::oid], '{}', '{}', '{}', false) o,
                        jsonb_array_elements(o->'facts') f";
    let facts = looking.query(facts, &[]).await.unwrap();
    let facts: Vec<(String, bool)> = facts.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(facts.iter().any(|(key, _)| key == "constraint/t_pkey"), "{facts:?}");
    let is_odd = |(key, is_unmade): &&(String, bool)| *is_unmade || key == "index/t_v";
    assert_eq!(facts.iter().find(is_odd), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_renamed_while_it_is_published_is_tried_again() {
    let mut chain = Chain::prepare_with(Plugin::Pgoutput, "").await;
    chain.copy().await;
    chain.on_source("CREATE TABLE late (id int PRIMARY KEY)").await;
    let (link, session) = (chain.link(), chain.source.session("app").await);
    let strays = publication::strays(&session, &link).await.unwrap();
    let [stray] = &strays[..] else { panic!("{}", strays.len()) };
    chain.on_source("ALTER TABLE late RENAME TO later").await;
    let error = publication::place(&session, &link, stray).await.unwrap_err();
    assert_eq!(error.action(), Action::Retry, "{}", error.chain());
    let strays = publication::strays(&session, &link).await.unwrap();
    publication::place(&session, &link, &strays[0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_a_table_that_is_ahead_of_the_stream_is_made_by_a_look() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    chain.trunk.run_in("app", "ALTER TABLE t RENAME TO r").await;
    chain.on_source("CREATE VIEW v AS SELECT id FROM t; ALTER TABLE t RENAME TO r").await;
    chain.catch_up().await;
    assert!(chain.schema_difference().is_some(), "the view was made of another table");
    chain.catch_up().await;
    assert_eq!(chain.schema_difference(), None);
}

/// A constraint that could not be made is tried again when rows have come, but not once it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_dropped_is_not_tried_again() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
                  CREATE TABLE b AS SELECT id FROM a; CREATE TABLE c (id int PRIMARY KEY)";
    let chain = Chain::start(schema).await;
    chain.catch_up().await;
    chain.trunk.run_in("app", "DELETE FROM a").await;
    chain.on_source("ALTER TABLE b ADD CONSTRAINT late FOREIGN KEY (id) REFERENCES a").await;
    chain.catch_up().await;
    assert!(chain.schema_difference().is_some(), "the constraint has what it needs");
    chain.trunk.run_in("app", "INSERT INTO a VALUES (1)").await;
    chain.on_source("ALTER TABLE b DROP CONSTRAINT late").await;
    chain.on_source("ALTER TABLE c ADD COLUMN at text DEFAULT clock_timestamp()::text").await;
    chain.catch_up().await;
    chain.settle().await;
    assert_eq!(chain.schema_difference(), None);
}
