//! Sources that cannot be followed: each a failed line with its remedy, and nothing stored.

use crate::support::drivers::psql;
use crate::support::server::Server;
use crate::support::source::{Source, free_port};

/// Preflight fails with `mark` lines holding every one of `said`; create refuses the same way.
#[track_caller]
fn assert_refused(server: &Server, url: &str, said: &[&str]) {
    let report = server.ardent(&["connector", "preflight", "postgresql", url]).failed(2);
    for text in said {
        assert!(report.contains(text), "no {text:?} in:\n{report}");
    }
    assert!(report.contains("Preflight checks did NOT pass"), "{report}");
    let create = server.ardent(&["connector", "create", "postgresql", url, "--name", "prod"]);
    let refusal = create.failed(2);
    for text in said {
        assert!(refusal.contains(text), "create says no {text:?}:\n{refusal}");
    }
    let list = server.ardent(&["connector", "list"]);
    assert!(!list.stdout.contains("prod"), "a refused connector was stored: {list:#?}");
}

#[test]
fn a_sound_source_passes_with_the_documented_report() {
    let source = Source::start();
    source.pgbench(1);
    let server = Server::start();
    let report = server.ardent(&["connector", "preflight", "postgresql", &source.url()]).ok();
    let address = format!("Running preflight against 127.0.0.1:{}…", source.port());
    for line in [
        address.as_str(),
        "Connection checks:",
        "  ✓ tcp reachable",
        "  ✓ auth",
        "  ✓ postgres metadata",
        "  ✓ is writer",
        "  ✓ wal level (actual: logical)",
        "  ✓ replication slots (0/10 used)",
        "  ✓ wal senders (max: 10)",
        "  ✓ wal2json",
        "  ✓ can read tables",
        "Detected source provider: vanilla",
    ] {
        assert!(report.lines().any(|said| said == line), "no line {line:?} in:\n{report}");
    }
    assert_eq!(source.traces(), "", "preflight left something on the source");
    assert!(server.ardent(&["connector", "list"]).ok().contains("No connectors found"));
}

#[test]
fn an_unreachable_host_or_a_wrong_password_is_a_failed_line() {
    let source = Source::start();
    let server = Server::start();
    let nowhere = format!("postgresql://postgres:secret@127.0.0.1:{}/postgres", free_port());
    assert_refused(&server, &nowhere, &["✗ tcp reachable"]);
    let wrong = source.url_as("postgres", "hunter2-wrong");
    assert_refused(&server, &wrong, &["✓ tcp reachable", "✗ auth"]);
    let nobody = source.url_as("nobody", "hunter2-wrong");
    assert_refused(&server, &nobody, &["✗ auth"]);
    let absent = source.url().replace("/postgres", "/absent");
    assert_refused(&server, &absent, &["absent"]);
    assert!(!server.log_text().contains("hunter2-wrong"), "a password in the log");
}

#[test]
fn a_role_that_may_not_read_gets_the_grant_script_that_mends_it() {
    let source = Source::start();
    source.sql(
        "create schema billing; create table public.orders (id bigint primary key); \
         create table billing.invoices (id bigint primary key); \
         create role follower login replication password 'secret'; \
         grant create on database postgres to follower",
    );
    let server = Server::start();
    let url = source.url_as("follower", "secret");
    let missing = ["✗ can read tables", "Missing SELECT on", "public.orders", "billing.invoices"];
    assert_refused(&server, &url, &missing);

    let report = server.ardent(&["connector", "preflight", "postgresql", &url]).failed(2);
    let (_, script) = report.split_once("--- Grant script ---\n").expect("a grant script");
    let (script, _) = script.split_once("\n✗ Preflight").expect("the verdict after the script");
    let file = server.data_dir().with_file_name("grants.sql");
    std::fs::write(&file, script).expect("write the grant script");
    let applied = psql(&source.socket_url(), &format!("\\i {}", file.display()));
    assert_eq!(applied.code, 0, "the grant script does not run: {applied:#?}\n{script}");
    server.ardent(&["connector", "preflight", "postgresql", &url]).ok();

    let only = ["connector", "preflight", "postgresql", &url, "--schemas", "public"];
    server.ardent(&only).ok();
}

#[test]
fn wal_level_and_the_plugin_allow_list_are_named_with_what_mends_them() {
    let replica = Source::with(&[("wal_level", "replica")]);
    let server = Server::start();
    let said = ["✗ wal level (actual: replica)", "wal_level", "restart"];
    assert_refused(&server, &replica.url(), &said);
    drop(replica);

    if !Source::knows_output_plugin_libraries() {
        return;
    }
    let closed = Source::with(&[("output_plugin_libraries", "pgoutput")]);
    let verb = ["connector", "preflight", "postgresql", &closed.url(), "--plugin"];
    let said = server.ardent(&[&verb[..], &["wal2json"]].concat()).failed(2);
    for expected in ["✗ wal2json", "output_plugin_libraries", "ALTER SYSTEM"] {
        assert!(said.contains(expected), "no {expected}: {said}");
    }
    let said = server.ardent(&[&verb[..], &["auto"]].concat()).ok();
    assert!(said.contains("pgoutput is used instead"), "{said}");
}

#[test]
fn a_source_without_free_slots_or_senders_is_refused() {
    let source = Source::with(&[("max_replication_slots", "1"), ("max_wal_senders", "1")]);
    source.sql("select pg_create_physical_replication_slot('taken')");
    let server = Server::start();
    assert_refused(&server, &source.url(), &["✗ replication slots (1/1 used)"]);
}

#[test]
fn what_is_not_a_url_is_a_usage_error() {
    let server = Server::start();
    for url in ["", "nonsense", "mysql://root@localhost/db", "postgresql://127.0.0.1:99999/x"] {
        let said = server.ardent(&["connector", "preflight", "postgresql", url]).failed(2);
        assert!(!said.contains("panicked"), "{url}: {said}");
        assert!(!said.trim().is_empty(), "{url}: refused without a word");
    }
    let said = server.ardent(&["connector", "preflight", "oracle", "x"]).failed(2);
    assert!(said.contains("postgresql"), "the supported type is named: {said}");
}
