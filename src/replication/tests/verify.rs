//! VERIFY finds nothing in a trunk that is right, whatever runs meanwhile, and names what is wrong.

use std::time::Duration;

use crate::replication::{Finding, Scope, Verdict, compare};

use crate::source::Plugin;

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    a_trunk_under_load_is_equal_at_every_look
}

const SCHEMA: &str = r#"
CREATE ROLE verify_reader NOLOGIN;
CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE TABLE "Quo""ted" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text DEFAULT 'x',
  m mood, p posint, twice int GENERATED ALWAYS AS (p * 2) STORED);
INSERT INTO "Quo""ted" (p) SELECT g FROM generate_series(1, 500) g;
CREATE INDEX ON "Quo""ted" (v);
CREATE TABLE part (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part_a PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO part SELECT g, '2026-02-02' FROM generate_series(1, 50) g;
CREATE VIEW seen AS SELECT id FROM part; CREATE MATERIALIZED VIEW held AS SELECT count(*) FROM part;
CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER plain BEFORE INSERT ON part_a FOR EACH ROW EXECUTE FUNCTION t();
CREATE TRIGGER always BEFORE INSERT ON part_a FOR EACH ROW EXECUTE FUNCTION t();
ALTER TABLE part_a ENABLE ALWAYS TRIGGER always;
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON part TO verify_reader USING (id > 0);
GRANT SELECT (id) ON part TO verify_reader; GRANT SELECT ON seen TO verify_reader;
CREATE SEQUENCE loose INCREMENT 5; SELECT nextval('loose');
CREATE UNLOGGED TABLE unlogged (id int); INSERT INTO unlogged VALUES (1);
CREATE PUBLICATION theirs; SELECT lo_create(0);
"#;

async fn verify(chain: &Chain, scope: &Scope) -> Vec<Finding> {
    let (_, reference) = chain.stream().pause_at_reference().await.unwrap();
    let (link, trunk) = (chain.link(), chain.trunk.access());
    let findings = compare(&link, &reference, &trunk, scope).await;
    reference.release().await;
    chain.stream().resume(trunk).await.unwrap();
    findings.unwrap_or_else(|error| panic!("{}", error.chain())).findings
}

fn everything() -> Scope {
    Scope { tables: Vec::new(), sample: None, limit: Duration::from_secs(60) }
}

/// Kind and object of what has this verdict, without the summary.
fn with(findings: &[Finding], verdict: Verdict) -> Vec<String> {
    let found = findings.iter().skip(1).filter(|finding| finding.verdict == verdict);
    found.map(|finding| format!("{} {}", finding.kind, finding.object)).collect()
}

async fn a_trunk_under_load_is_equal_at_every_look(plugin: Plugin) {
    let mut chain = Chain::prepare_with(plugin, SCHEMA).await;
    assert!(chain.source.pgbench("app", &["-i", "-q", "-s", "1"]).wait().unwrap().success());
    chain.copy().await;
    chain.follow();
    let mut load = chain.source.pgbench("app", &["-c", "3", "-T", "8"]);
    for _ in 0..4 {
        let findings = verify(&chain, &everything()).await;
        assert_eq!(with(&findings, Verdict::Different), [] as [&str; 0], "{findings:#?}");
        assert_eq!(
            with(&findings, Verdict::NotCarried),
            ["large objects pg_largeobject", "publication theirs", "table public.unlogged"]
        );
        assert!(with(&findings, Verdict::Rebuilt).contains(&"index public.Quo\"ted_pkey".into()));
        let sampled = verify(&chain, &Scope { sample: Some(100), ..everything() }).await;
        assert_eq!(with(&sampled, Verdict::Different), [] as [&str; 0], "{sampled:#?}");
    }
    assert!(load.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let chain = Chain::start(SCHEMA).await;
    chain.catch_up().await;
    chain
        .trunk
        .run_in(
            "app",
            "UPDATE public.part SET id = -1 WHERE id = 7; DROP VIEW public.seen;
             ALTER TABLE public.\"Quo\"\"ted\" ALTER v SET DEFAULT 'y';
             SELECT setval('public.loose', 1000); CREATE TABLE public.stray ();
             DROP INDEX public.\"Quo\"\"ted_v_idx\"; DROP POLICY mine ON public.part",
        )
        .await;
    let findings = verify(&chain, &everything()).await;
    assert_eq!(
        with(&findings, Verdict::Different),
        [
            "grants on table public.stray",
            "sequence value public.loose",
            "table public.Quo\"ted",
            "table public.part_a",
            "table public.stray",
        ],
        "{findings:#?}"
    );
    let missing = with(&findings, Verdict::NotCarried);
    for object in ["index public.Quo\"ted_v_idx", "policy public.part.mine", "view public.seen"] {
        assert!(missing.contains(&object.to_owned()), "{missing:?}");
    }
    assert_eq!(findings[0].verdict, Verdict::Different);
    let some = vec!["public.part_a".to_owned(), "public.nowhere".to_owned()];
    let findings = verify(&chain, &Scope { tables: some, ..everything() }).await;
    assert_eq!(with(&findings, Verdict::Different), ["table public.part_a"]);
    assert_eq!(with(&findings, Verdict::NotCompared), ["table public.nowhere"]);
    let findings = verify(&chain, &Scope { limit: Duration::ZERO, ..everything() }).await;
    assert!(with(&findings, Verdict::NotCompared).contains(&"table public.part_a".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_left_open_on_the_source_ends_the_look_and_not_the_stream() {
    let chain = Chain::start("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain.catch_up().await;
    let open = chain.source.session("app").await;
    open.batch_execute("BEGIN; INSERT INTO public.t VALUES (1)").await.unwrap();
    let refused = chain.stream().pause_at_reference().await;
    assert!(refused.is_err_and(|error| error.chain().contains("lock timeout")));
    open.batch_execute("COMMIT").await.unwrap();
    chain.assert_equal().await;
}
