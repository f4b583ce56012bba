//! The admin SQL and the CLI: what operators type, and how mistakes are answered.

use std::process::Stdio;
use std::time::Duration;

use crate::support::cli::{ARDENT, ardent};
use crate::support::drivers::psql;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

#[test]
fn mistakes_in_admin_sql_get_a_position_and_a_hint() {
    let server = Server::start();
    let url = server.console_url();
    let typo = psql(&url, "ARDENT BRANCH CRAETE b1").failed(1);
    assert!(typo.contains("42601") && typo.contains("LINE 1:"), "{typo}");
    assert!(typo.contains("HINT:") && typo.contains('^'), "{typo}");
    let option = psql(&url, "ARDENT BRANCH CREATE b1 WITH (colour = 'red')").failed(1);
    assert!(option.contains("colour") && option.contains("LINE 1:"), "{option}");
    let alien = psql(&url, "SELEKT 1").failed(1);
    assert!(alien.contains("42601"), "{alien}");
    let absent = psql(&url, "ARDENT BRANCH INFO absent").failed(1);
    assert!(absent.contains("42704") && absent.contains("HINT"), "{absent}");
    let help = psql(&url, "ARDENT HELP").ok();
    assert!(help.contains("CONNECTOR CREATE") && help.contains("BRANCH CREATE"), "{help}");
    assert_eq!(psql(&url, "select 1").ok(), "1", "clients that probe the connection get an answer");
    psql(&url, "begin; set application_name = 'x'; commit").ok();
}

#[test]
fn branch_names_are_checked_and_create_is_idempotent() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start();
    let early = server.ardent(&["branch", "create", "b1"]).failed(1);
    assert!(early.contains("connector"), "what is missing is said: {early}");
    server.follow(&source);
    for bad in ["Upper", "-dash", "dash-", "two--dashes", "a_b", "a.b", "", &"x".repeat(64)] {
        let ran = server.ardent(&["branch", "create", "--", bad]);
        assert!([1, 2].contains(&ran.code), "{bad:?}: {ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{bad:?}: {ran:#?}");
        assert!(ran.stderr.contains("name"), "{bad:?}: {ran:#?}");
    }
    let first = server.branch("feature");
    assert_eq!(server.branch("feature"), first, "the same request returns the same branch");
    let gone = server.ardent(&["branch", "delete", "absent"]).failed(1);
    assert!(gone.contains("absent"), "{gone}");
    let twice = ["connector", "create", "postgresql", &source.url(), "--name", "prod"];
    let taken = server.ardent(&twice);
    assert_ne!(taken.code, 0, "a taken connector name: {taken:#?}");
}

#[test]
fn verbs_print_what_their_documentation_shows() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    let created = server.ardent(&["branch", "create", "feature"]).ok();
    let first = created.lines().next().unwrap_or_default();
    assert!(first.starts_with("✓ Branch 'feature' created and checked out in "), "{created}");
    assert!(created.lines().last().unwrap_or_default().starts_with("postgresql://"), "{created}");

    let connectors = server.ardent(&["connector", "list"]).ok();
    assert!(connectors.starts_with("Connectors:\n* ● prod\n    postgresql"), "{connectors}");
    let branches = server.ardent(&["branch", "list"]).ok();
    assert!(branches.contains("* ● feature"), "{branches}");
    let status = server.ardent(&["connector", "status", "prod"]).ok();
    assert!(
        status.starts_with("Connector: prod\nService:   postgresql\nStatus:    Ready"),
        "{status}"
    );

    let info = server.info("feature");
    assert_eq!(info["name"], "feature");
    assert!(info["lsn"].as_str().is_some_and(|lsn| lsn.contains('/')), "{info}");
    let failed = server.ardent(&["branch", "info", "absent", "--format", "json"]);
    let envelope: serde_json::Value =
        serde_json::from_str(failed.stdout.trim()).expect("errors are JSON too");
    assert_eq!(envelope["error"]["code"], "not_found", "{envelope}");
    assert_eq!(failed.code, 1);
}

#[test]
fn secrets_do_not_reach_the_log_or_the_catalog_in_clear() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key)");
    let mut server = Server::start();
    server.follow(&source);
    let url = server.branch("feature");
    let (credentials, _) = url.rsplit_once('@').expect("a host");
    let branch_password = credentials.rsplit_once(':').expect("a password").1.to_owned();
    assert!(server.interrupt().success());
    let catalog = std::fs::read(server.data_dir().join("catalog.db")).expect("read the catalog");
    let stored = String::from_utf8_lossy(&catalog);
    for secret in ["source pa%ss", "source%20pa%25ss", branch_password.as_str()] {
        assert!(!stored.contains(secret), "a password in clear in the catalog");
        assert!(!server.log_text().contains(secret), "a password in the log");
    }
}

#[test]
fn setup_shows_its_progress_to_whoever_asks() {
    let source = Source::start();
    source.pgbench(10);
    let server = Server::start();
    let (directory, url) = (server.data_dir(), source.url());
    let create = std::thread::spawn(move || {
        ardent(&directory, &["connector", "create", "postgresql", &url, "--name", "prod"])
    });
    let row = eventually(Duration::from_secs(60), "status shows the bytes to copy", || {
        let status = server.ardent(&["connector", "status", "prod", "--format", "json"]);
        let row: serde_json::Value = serde_json::from_str(status.stdout.trim()).ok()?;
        (row["bytes_total"].as_i64()? > 0).then_some(row)
    });
    assert!(row["phase"].as_str().is_some_and(|phase| !phase.is_empty()), "{row}");
    let said = create.join().expect("create ends");
    assert_eq!(said.code, 0, "{said:#?}");
    let status = server.ardent(&["connector", "status", "prod"]).ok();
    assert!(status.contains("Status:    Ready"), "{status}");
}

#[test]
fn tables_without_identity_wait_for_a_decision_that_then_shows() {
    let source = Source::start();
    source.sql("create table kept (id bigint primary key); create table audit (note text)");
    source.sql("insert into audit values ('not followed')");
    let server = Server::start();
    let create = ["connector", "create", "postgresql", &source.url(), "--name", "prod"];
    let undecided = server.ardent(&create).failed(1);
    assert!(undecided.contains("public.audit"), "{undecided}");
    assert!(undecided.contains("--accept-replica-identity-defaults"), "{undecided}");
    server.ardent(&["branch", "create", "early"]).failed(1);

    server.ardent(&["connector", "retry-setup", "prod", "--accept-replica-identity-defaults"]).ok();
    let status = server.ardent(&["connector", "status", "prod"]).ok();
    assert!(status.contains("public.audit is excluded"), "{status}");
    let url = server.branch("b1");
    assert_eq!(psql(&url, "select count(*) from audit").ok(), "0", "excluded, so there but empty");
}

#[test]
fn a_password_on_the_command_line_is_not_in_the_process_list() {
    let server = Server::start();
    // A source that takes the connection and says nothing, so that the command is still running.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = silent.local_addr().expect("its address");
    let url = format!("postgresql://app:hunter2@{at}/shop?sslmode=disable");
    let mut command = std::process::Command::new(ARDENT);
    command.args(["connector", "preflight", "postgresql", &url]);
    command.env("ARDENT_DATA_DIR", server.data_dir()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().expect("run ardent");
    let connection = silent.accept().expect("the server asks the source");
    let shown = std::fs::read_to_string(format!("/proc/{}/cmdline", running.id())).expect("words");
    running.kill().expect("end ardent");
    running.wait().expect("reap ardent");
    drop(connection);
    assert!(shown.contains(&format!("postgresql://app:***@{at}/shop")), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
