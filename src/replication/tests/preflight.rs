//! Preflight, case by case.

use crate::source::{
    Identity, Plugin, PluginChoice, PreflightOptions, Report, RowKind, RowStatus, SourceUrl,
    preflight,
};

use super::support::server::{PASSWORD, Server, free_port};

async fn look(url: &SourceUrl, schemas: &[&str]) -> Report {
    let schemas = schemas.iter().map(|schema| (*schema).to_owned()).collect();
    preflight(url, &PreflightOptions { schemas, ..PreflightOptions::default() }, |_: &Identity| {
        None
    })
    .await
}

/// The report as lines: mark, name, detail, remedy.
fn lines(report: &Report) -> Vec<String> {
    report
        .rows
        .iter()
        .filter(|row| row.kind == RowKind::Check)
        .map(|row| {
            let mark = match row.status {
                RowStatus::Pass => "+",
                RowStatus::Warn => "!",
                RowStatus::Fail => "x",
                RowStatus::Skip => "-",
            };
            let detail = row.detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
            let remedy = row.remedy.as_ref().map(|text| format!(" -> {text}")).unwrap_or_default();
            format!("{mark} {}{detail}{remedy}", row.name)
        })
        .collect()
}

fn line<'a>(lines: &'a [String], name: &str) -> &'a str {
    let found = lines.iter().find(|line| line.get(2..).is_some_and(|l| l.starts_with(name)));
    found.unwrap_or_else(|| panic!("no {name} in {lines:#?}"))
}

fn script(report: &Report) -> Option<&str> {
    let row = report.rows.iter().find(|row| row.kind == RowKind::Script)?;
    row.detail.as_deref()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_source_passes_and_nothing_is_left_there() {
    let source = Server::source(&[]).await;
    source.run("CREATE DATABASE app").await;
    let url = source.url("postgres", PASSWORD, "app");
    let report = look(&url, &[]).await;
    assert!(report.passed);
    assert_eq!(
        lines(&report),
        [
            "+ tcp reachable",
            "+ auth",
            "+ postgres metadata",
            "+ is writer",
            "+ wal level (actual: logical)",
            "+ replication slots (0/10 used)",
            "+ wal senders (max: 10)",
            "+ wal2json",
            "+ can read tables",
        ]
    );
    let rest: Vec<_> = report.rows[9..].iter().map(|row| (row.kind, row.name.as_str())).collect();
    assert_eq!(rest, [(RowKind::Provider, "vanilla"), (RowKind::Verdict, "preflight")]);
    let slots = "SELECT count(*)::text FROM pg_replication_slots";
    assert_eq!(source.value("app", slots).await, "0");
    let identity = report.identity.unwrap();
    let taken = |other: &Identity| (*other == identity).then(|| "prod".to_owned());
    let report = preflight(&url, &PreflightOptions::default(), taken).await;
    assert!(line(&lines(&report), "duplicate source").contains("followed by connector prod"));
    assert!(!report.passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_wrong_password_and_wrong_database_say_what_to_do() {
    let url = format!("postgresql://u:sekret@127.0.0.1:{}/d", free_port()).parse().unwrap();
    let report = look(&url, &[]).await;
    let shown = lines(&report);
    assert!(line(&shown, "tcp reachable").starts_with("x"), "{shown:#?}");
    assert!(line(&shown, "tcp reachable").contains("Check host and port"));
    assert_eq!(line(&shown, "can read tables"), "- can read tables (tcp reachable failed)");
    assert!(!report.passed && !shown.concat().contains("sekret"));

    let source = Server::source(&[]).await;
    let report = look(&source.url("postgres", "sekret", "postgres"), &[]).await;
    let shown = lines(&report);
    assert_eq!(
        line(&shown, "auth"),
        "x auth (password authentication failed for user \"postgres\") -> \
         Check the password of role postgres in the URL. If it is right it has run out: \
         ALTER ROLE \"postgres\" VALID UNTIL 'infinity';"
    );
    assert_eq!(line(&shown, "wal level"), "- wal level (auth failed)");
    assert!(!shown.concat().contains("sekret"));

    let report = look(&source.url("postgres", PASSWORD, "nope"), &[]).await;
    assert!(line(&lines(&report), "auth").contains("nope does not exist"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ready_fails_line_by_line() {
    let source =
        Server::source(&["wal_level=replica", "max_replication_slots=0", "max_wal_senders=3"])
            .await;
    let shown = lines(&look(&source.url("postgres", PASSWORD, "postgres"), &[]).await);
    assert_eq!(
        line(&shown, "wal level"),
        "x wal level (actual: replica) -> \
         Run ALTER SYSTEM SET wal_level = logical; and restart the server."
    );
    assert!(line(&shown, "replication slots").starts_with("x replication slots (0/0 used)"));
    assert_eq!(line(&shown, "wal senders"), "+ wal senders (max: 3)");
    assert!(line(&shown, "wal2json").starts_with("- "), "{shown:#?}");
    assert_eq!(line(&shown, "can read tables"), "+ can read tables");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_not_listed_is_mended_by_the_sql_it_prints() {
    let source = Server::source(&[]).await;
    source.run("ALTER ROLE postgres SET output_plugin_libraries = pgoutput, test_decoding").await;
    let url = source.url("postgres", PASSWORD, "postgres");
    let report = look_with(&url, PluginChoice::Only(Plugin::Wal2json)).await;
    let sql = "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding', 'wal2json'; \
               SELECT pg_reload_conf();";
    assert_eq!(
        line(&lines(&report), "wal2json"),
        format!(
            "x wal2json (wal2json is not in output_plugin_libraries) -> Run as superuser: {sql} \
             (no restart; package postgresql-15-wal2json must be installed)"
        )
    );
    assert!(script(&report).unwrap().contains(sql));
    source.run("ALTER ROLE postgres RESET output_plugin_libraries").await;
    assert!(look(&url, &[]).await.passed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grant_script_mends_what_it_names() {
    let source = Server::source(&[]).await;
    source.run("CREATE DATABASE app").await;
    source.run("CREATE ROLE \"Odd r\" LOGIN PASSWORD 'x'; CREATE ROLE own").await;
    source
        .run_in(
            "app",
            "CREATE TABLE public.orders (id serial PRIMARY KEY);
             CREATE SCHEMA billing; CREATE TABLE billing.\"In voice\" (id int PRIMARY KEY);
             ALTER TABLE billing.\"In voice\" OWNER TO own;
             CREATE TABLE public.secret (id int PRIMARY KEY); GRANT SELECT ON public.secret TO
             PUBLIC;
             ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY;
             CREATE TABLE public.log (line text, n float8); GRANT SELECT ON public.log TO PUBLIC;",
        )
        .await;
    let url = source.url("Odd%20r", "x", "app");
    let report = look(&url, &["public", "billing", "absent"]).await;
    let shown = lines(&report);
    assert!(
        line(&shown, "wal senders").starts_with("x wal senders (Role Odd r may not replicate)")
    );
    assert_eq!(
        line(&shown, "can read tables"),
        "x can read tables (Schema absent does not exist\nMissing USAGE on schema billing\n\
         Missing SELECT on billing.In voice\nMissing SELECT on public.orders\n\
         Row security hides rows of public.secret\nMissing SELECT on sequence \
         public.orders_id_seq) -> \
         Run the grant script below, then re-run preflight."
    );
    assert!(line(&shown, "replica identity").contains("public.log"), "{shown:#?}");
    assert_eq!(report.undecided.len(), 1);
    let script = script(&report).unwrap();
    assert!(script.starts_with("-- psql artifact generated by Ardent\n"));
    // psql's own commands are for psql.
    let sql: String =
        script.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n");
    for _ in 0..2 {
        source.run_in("app", &sql).await;
    }
    let report = look(&url, &["public", "billing"]).await;
    let shown = lines(&report);
    assert!(report.passed, "{shown:#?}");
    assert!(line(&shown, "wal2json").starts_with("! wal2json (Before 2.6, NaN"), "{shown:#?}");
}

async fn look_with(url: &SourceUrl, plugin: PluginChoice) -> Report {
    let options = PreflightOptions { plugin, ..PreflightOptions::default() };
    preflight(url, &options, |_: &Identity| None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pgoutput_serves_where_wal2json_cannot_and_the_role_owns_the_tables() {
    let source = Server::source(&["output_plugin_libraries=pgoutput"]).await;
    source.run("CREATE DATABASE app").await;
    source.run("CREATE ROLE lesser LOGIN REPLICATION PASSWORD 'x'").await;
    source.run_in("app", "CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO lesser").await;
    let owner = source.url("postgres", PASSWORD, "app");
    let report = look_with(&owner, PluginChoice::Auto).await;
    assert!(report.passed);
    assert_eq!(report.plugin, Some(Plugin::Pgoutput));
    let lines = lines(&report);
    assert!(line(&lines, "wal2json").contains("pgoutput is used instead"), "{lines:?}");
    let report = look_with(&owner, PluginChoice::Only(Plugin::Wal2json)).await;
    assert!(!report.passed && report.plugin.is_none());
    let report = look_with(&owner, PluginChoice::Only(Plugin::Pgoutput)).await;
    assert_eq!(report.plugin, Some(Plugin::Pgoutput));
    let lesser = source.url("lesser", "x", "app");
    source.run("GRANT CREATE ON DATABASE app TO lesser").await;
    let report = look_with(&lesser, PluginChoice::Only(Plugin::Pgoutput)).await;
    let lines = self::lines(&report);
    let said = "x wal2json (Role lesser cannot publish tables of others: public.t)";
    assert!(line(&lines, "wal2json").starts_with(said), "{lines:?}");
}
