//! Schema changes: whatever the source does, the trunk's schema and rows are the source's.

use super::support::Chain;

/// Each line is run on the source by itself; after each case both sides are compared.
const CASES: &[(&str, &[&str])] = &[
    ("a table and its rows", &[
        "CREATE TABLE a (id serial PRIMARY KEY, v text DEFAULT 'x' NOT NULL, n numeric(10,2))",
        "INSERT INTO a (n) SELECT g FROM generate_series(1, 20) g",
    ]),
    ("columns", &[
        "ALTER TABLE a ADD COLUMN c int; ALTER TABLE a ADD COLUMN d int NOT NULL DEFAULT 7",
        "INSERT INTO a (c) VALUES (1)",
        "ALTER TABLE a ADD COLUMN e timestamptz DEFAULT now(), ALTER COLUMN d SET DEFAULT 8",
        "INSERT INTO a (c) VALUES (2); UPDATE a SET n = 5 WHERE id < 4",
        "ALTER TABLE a DROP COLUMN c, ADD COLUMN \"Odd, name\" text[] DEFAULT '{a,\"b c\"}'",
        "ALTER TABLE a RENAME COLUMN v TO w; UPDATE a SET w = 'y' WHERE id = 3",
        "ALTER TABLE a ALTER COLUMN d DROP NOT NULL, ALTER COLUMN w DROP DEFAULT",
        "ALTER TABLE a ALTER COLUMN w TYPE varchar(50); ALTER TABLE a ALTER COLUMN w TYPE text",
        "COMMENT ON COLUMN a.w IS 'it''s'; COMMENT ON TABLE a IS 'table'; ALTER TABLE a ALTER w SET STORAGE EXTERNAL",
    ]),
    ("mixed in one transaction", &[
        "BEGIN; CREATE TABLE m (id int PRIMARY KEY); INSERT INTO m VALUES (1), (2); \
         ALTER TABLE m ADD COLUMN x int DEFAULT 3; INSERT INTO m VALUES (4, 4); SAVEPOINT s; \
         ALTER TABLE m ADD COLUMN gone int; INSERT INTO m VALUES (5, 5, 5); ROLLBACK TO s; \
         UPDATE m SET x = 9 WHERE id = 1; ALTER TABLE m RENAME TO m2; INSERT INTO m2 VALUES (6, 6); \
         DELETE FROM m2 WHERE id = 2; COMMIT",
        "ALTER TABLE m2 RENAME COLUMN x TO y; INSERT INTO m2 VALUES (7, 7)",
    ]),
    ("renames and moves", &[
        "CREATE SCHEMA s1; ALTER TABLE m2 SET SCHEMA s1; INSERT INTO s1.m2 VALUES (8, 8)",
        "ALTER SCHEMA s1 RENAME TO \"S 2\"; INSERT INTO \"S 2\".m2 VALUES (9, 9)",
        "ALTER TABLE \"S 2\".m2 RENAME CONSTRAINT m_pkey TO m2_pk",
        "CREATE TABLE sw1 (id int PRIMARY KEY); CREATE TABLE sw2 (id int PRIMARY KEY, b int); \
         INSERT INTO sw1 VALUES (1); INSERT INTO sw2 VALUES (2, 2)",
        "BEGIN; ALTER TABLE sw1 RENAME TO tmp; ALTER TABLE sw2 RENAME TO sw1; ALTER TABLE tmp RENAME TO sw2; COMMIT",
        "INSERT INTO sw1 VALUES (3, 3); INSERT INTO sw2 VALUES (4)",
    ]),
    ("types", &[
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN pos AS int DEFAULT 1 CHECK (VALUE > 0)",
        "CREATE TYPE pair AS (a int, b text); CREATE TYPE fr AS RANGE (SUBTYPE = float8)",
        "CREATE TABLE ty (id int PRIMARY KEY, m mood DEFAULT 'ok', p pos, q pair, r fr)",
        "INSERT INTO ty VALUES (1, 'sad', 5, '(1,x)', '[1,2)')",
        "ALTER TYPE mood ADD VALUE 'happy'; ALTER TYPE mood ADD VALUE 'meh' BEFORE 'ok'",
        "INSERT INTO ty VALUES (2, 'happy', 6, '(2,y)', NULL), (3, 'meh', 1, NULL, 'empty')",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'; ALTER TYPE pair RENAME ATTRIBUTE b TO c",
        "ALTER TYPE mood RENAME TO temper; ALTER DOMAIN pos ADD CONSTRAINT small CHECK (VALUE < 1000)",
        "INSERT INTO ty VALUES (4, 'blue', 7)", "ALTER DOMAIN pos DROP CONSTRAINT small",
        "ALTER DOMAIN pos SET DEFAULT 2; ALTER DOMAIN pos SET NOT NULL; ALTER DOMAIN pos DROP NOT NULL",
    ]),
    ("indexes and constraints", &[
        "CREATE INDEX a_n ON a (n DESC) WHERE n > 1; CREATE UNIQUE INDEX a_u ON a (id, w)",
        "CREATE INDEX CONCURRENTLY a_c ON a (lower(w))", "ALTER INDEX a_n RENAME TO a_n2",
        "ALTER TABLE a ADD CONSTRAINT n_pos CHECK (n >= 0 OR n IS NULL), ADD CONSTRAINT un UNIQUE (id, d)",
        "CREATE TABLE f (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE DEFERRABLE); INSERT INTO f VALUES (1, 1)",
        "ALTER TABLE f RENAME CONSTRAINT f_a_fkey TO f_a; ALTER TABLE f ALTER CONSTRAINT f_a INITIALLY DEFERRED",
        "ALTER TABLE a DROP CONSTRAINT n_pos; REINDEX TABLE a", "DROP INDEX CONCURRENTLY a_c",
        "ALTER TABLE f ADD CONSTRAINT later CHECK (id < 100) NOT VALID", "ALTER TABLE f VALIDATE CONSTRAINT later",
        "CREATE UNIQUE INDEX nk ON f (a); ALTER TABLE f ADD CONSTRAINT nk UNIQUE USING INDEX nk",
        "CREATE STATISTICS st (dependencies) ON id, w FROM a; ALTER TABLE f REPLICA IDENTITY FULL",
        "INSERT INTO f VALUES (2, 2); UPDATE f SET a = 3 WHERE id = 2; DELETE FROM f WHERE id = 1",
        "CREATE EXTENSION btree_gist; CREATE TABLE ex (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))",
    ]),
    ("views and functions", &[
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
    ]),
    ("triggers, rules and policies", &[
        "CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER tg BEFORE INSERT OR UPDATE ON a FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION tf()",
        "ALTER TABLE a DISABLE TRIGGER tg", "ALTER TABLE a ENABLE TRIGGER tg; ALTER TRIGGER tg ON a RENAME TO tg2",
        "CREATE RULE ru AS ON DELETE TO ty DO ALSO NOTHING; ALTER TABLE a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "CREATE ROLE app; CREATE ROLE other LOGIN", "CREATE POLICY po ON a FOR SELECT TO app USING (id > 3)",
        "ALTER POLICY po ON a TO app, other USING (id > 4); CREATE POLICY p2 ON a AS RESTRICTIVE WITH CHECK (true)",
        "DROP POLICY p2 ON a; DROP TRIGGER tg2 ON a; DROP RULE ru ON ty; ALTER TABLE a NO FORCE ROW LEVEL SECURITY",
    ]),
    ("owners and grants", &[
        "CREATE ROLE stranger",
        "CREATE SCHEMA ow AUTHORIZATION app; CREATE TABLE ow.t (id serial PRIMARY KEY); ALTER TABLE ow.t OWNER TO other",
        "GRANT SELECT, UPDATE (w) ON a TO app WITH GRANT OPTION; GRANT USAGE ON SCHEMA ow TO other, PUBLIC",
        "REVOKE UPDATE (w) ON a FROM app CASCADE; GRANT EXECUTE ON FUNCTION tf() TO app; REVOKE ALL ON FUNCTION tf() FROM PUBLIC",
        "GRANT ALL ON ALL TABLES IN SCHEMA ow TO app; GRANT USAGE ON SEQUENCE ow.t_id_seq TO app; GRANT USAGE ON TYPE temper TO app",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA ow GRANT SELECT ON TABLES TO other", "CREATE TABLE ow.late (id int PRIMARY KEY)",
        "ALTER SCHEMA ow OWNER TO other; REASSIGN OWNED BY other TO app",
        "SET ROLE app; CREATE TABLE ow.mine (id int PRIMARY KEY); CREATE FUNCTION ow.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ]),
    ("sequences and identity", &[
        "CREATE SEQUENCE sq AS int INCREMENT 5 MAXVALUE 1000 CYCLE; ALTER SEQUENCE sq INCREMENT 7",
        "CREATE TABLE idn (id int GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY, g int GENERATED ALWAYS AS (7 * 6) STORED, v int)",
        "INSERT INTO idn (v) VALUES (1), (2)", "ALTER TABLE idn ALTER id SET GENERATED BY DEFAULT; ALTER TABLE idn ALTER id DROP IDENTITY",
        "ALTER SEQUENCE sq OWNED BY idn.v; ALTER TABLE idn ALTER v SET DEFAULT nextval('sq')", "INSERT INTO idn (id) VALUES (90)",
        "ALTER SEQUENCE sq OWNED BY NONE; ALTER SEQUENCE sq RENAME TO sq2",
    ]),
    ("partitions and inheritance", &[
        "CREATE TABLE pt (id int, at date NOT NULL, v text, CHECK (id > 0), PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE pa PARTITION OF pt FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
        "CREATE TABLE pb PARTITION OF pt FOR VALUES FROM ('2026-07-01') TO ('2027-01-01') PARTITION BY LIST (id)",
        "CREATE TABLE pb1 PARTITION OF pb FOR VALUES IN (1, 2, 3); CREATE TABLE pd PARTITION OF pt DEFAULT",
        "INSERT INTO pt VALUES (1, '2026-02-01', 'a'), (2, '2026-08-01', 'b'), (3, '2030-01-01', 'c')",
        "CREATE INDEX ptv ON pt (v); ALTER TABLE pt ADD COLUMN x int DEFAULT 4; UPDATE pt SET x = 5 WHERE id = 2",
        "UPDATE pt SET at = '2026-03-01' WHERE id = 2", "ALTER TABLE pt DETACH PARTITION pa; INSERT INTO pa VALUES (9, '2026-05-05', 'z', 1)",
        "CREATE TABLE pc (x int, v text, at date NOT NULL, id int NOT NULL CHECK (id > 0)); INSERT INTO pc VALUES (1, 'q', '2025-01-01', 5)",
        "DELETE FROM pa WHERE id = 9; ALTER TABLE pt ATTACH PARTITION pa FOR VALUES FROM ('2026-01-01') TO ('2026-07-01')",
        "ALTER TABLE pt RENAME COLUMN v TO vv; DROP TABLE pd; INSERT INTO pt VALUES (3, '2026-09-09', 'd', 1)",
        "CREATE TABLE base (id int PRIMARY KEY, v int); CREATE TABLE kid (w int) INHERITS (base); INSERT INTO kid VALUES (1, 2, 3)",
        "ALTER TABLE base ADD COLUMN z int DEFAULT 1; ALTER TABLE kid NO INHERIT base; INSERT INTO kid VALUES (2, 2, 3, 4)",
    ]),
    ("DDL in functions and blocks", &[
        "DO $$ BEGIN FOR i IN 1..3 LOOP EXECUTE format('CREATE TABLE loop_%s (id int PRIMARY KEY)', i); \
         EXECUTE format('INSERT INTO loop_%s VALUES (%s)', i, i); END LOOP; END $$",
        "CREATE FUNCTION mk() RETURNS void LANGUAGE sql AS 'CREATE TABLE by_sql (id int PRIMARY KEY); INSERT INTO by_sql VALUES (1)'",
        "SET check_function_bodies = off; SELECT mk()",
        "DO $$ BEGIN BEGIN CREATE TABLE never (a int); RAISE 'no'; EXCEPTION WHEN OTHERS THEN CREATE TABLE yes (id int PRIMARY KEY); END; END $$",
        "CREATE TABLE IF NOT EXISTS yes (a int); DROP TABLE IF EXISTS nope; CREATE TEMP TABLE tmp (a int); DROP TABLE tmp",
    ]),
    ("rows before their table", &[
        "CREATE TABLE cta AS SELECT g AS id, 'r' || g AS v FROM generate_series(1, 50) g",
        "SELECT id, w INTO si FROM a; ALTER TABLE cta ADD PRIMARY KEY (id); UPDATE cta SET v = 'u' WHERE id < 5",
    ]),
    ("schemas with elements, extensions, drops", &[
        "CREATE SCHEMA el CREATE TABLE t (id int PRIMARY KEY) CREATE VIEW v AS SELECT * FROM t",
        "CREATE EXTENSION hstore; CREATE TABLE h (id int PRIMARY KEY, h hstore); INSERT INTO h VALUES (1, 'a=>1')",
        "DROP SCHEMA el CASCADE; DROP TABLE h; DROP EXTENSION hstore; DROP TABLE loop_1, loop_2; DROP TYPE fr CASCADE",
        "ALTER TABLE a SET (fillfactor = 70, autovacuum_enabled = false); ALTER TABLE a RESET (autovacuum_enabled)",
        "CREATE UNLOGGED TABLE ul (id int PRIMARY KEY); DROP DOMAIN pos CASCADE; TRUNCATE sw1, sw2; ALTER TABLE ty DROP COLUMN m",
    ]),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_trunk_follows_every_schema_change() {
    let chain = Chain::start("CREATE TABLE first (id int PRIMARY KEY)").await;
    assert_eq!(chain.stream().status().warnings, [] as [&str; 0]);
    let (mut failures, mut known) = (Vec::new(), None);
    for (name, lines) in CASES {
        for line in *lines {
            let session = chain.source.session("app").await;
            session.batch_execute("SET search_path = public").await.unwrap();
            if let Err(error) = session.batch_execute(line).await {
                failures.push(format!("{line}: {error:?}"));
            }
            session.close().await;
            chain.catch_up().await;
            chain.settle().await;
            let difference = chain.schema_difference();
            if difference != known {
                failures.extend(difference.as_ref().map(|d| format!("{name}: {line}: {d}")));
                known = difference;
            }
        }
        let status = chain.stream().status();
        if !status.quarantined.is_empty() {
            failures.push(format!("{name}: {:?}", status.quarantined));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    chain.assert_equal().await;
}
