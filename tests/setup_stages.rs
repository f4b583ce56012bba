//! Setup and deletion under kill -9 and unreachable sources: whatever dies when, the next server
//! carries on, and the source holds exactly one connector's things, or none.

use std::time::Duration;

use crate::support::cli::ardent;
use crate::support::pgbench::assert_equal;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

/// As the log names them, in order.
const STAGES: [&str; 8] = [
    "preparing trunk",
    "creating slot",
    "creating roles",
    "creating tables",
    "copying",
    "creating indexes",
    "finishing",
    "done",
];

const PATIENCE: Duration = Duration::from_secs(120);

fn source() -> Source {
    let source = Source::start();
    source.pgbench(3);
    source.sql("create role reporting; create sequence s; select nextval('s')");
    source
}

fn slots(source: &Source) -> String {
    source.sql("select slot_name from pg_replication_slots order by 1")
}

fn state(server: &Server) -> Option<String> {
    let status = server.ardent(&["connector", "status", "prod", "--format", "json"]);
    let row: serde_json::Value = serde_json::from_str(status.stdout.trim()).ok()?;
    Some(row["state"].as_str()?.to_owned())
}

#[test]
fn setup_goes_on_after_a_kill_at_each_of_its_stages() {
    let source = source();
    let mut server = Server::start();
    for (round, stage) in STAGES.into_iter().enumerate() {
        let (data_dir, url) = (server.data_dir(), source.url());
        let line = format!("stage=\"{stage}\"");
        let seen = server.log_text().matches(&line).count();
        let create = std::thread::spawn(move || {
            ardent(&data_dir, &["connector", "create", "postgresql", &url, "--name", "prod"])
        });
        eventually(PATIENCE, stage, || {
            (server.log_text().matches(&line).count() > seen).then_some(())
        });
        server.kill();
        create.join().expect("create ends with its server");
        source.sql("update pgbench_branches set bbalance = bbalance + 1");
        server.start_again();
        // A setup that was refused meanwhile (the source still held the old session) is asked for.
        let what = format!("ready after a kill at \"{stage}\"");
        eventually(PATIENCE, &what, || match state(&server)?.as_str() {
            "ready" => Some(()),
            "setup pending" | "broken" => {
                server.ardent(&["connector", "retry-setup", "prod"]);
                None
            }
            _ => None,
        });
        let name = format!("b{round}");
        assert_equal(&server.branch(&name), &source, &what);
        assert_eq!(slots(&source), format!("ardent_c{}", round + 1), "{what}");
        server.ardent(&["connector", "delete", "prod", "--force"]).ok();
        eventually(Duration::from_secs(10), "nothing is left on the source", || {
            source.traces().is_empty().then_some(())
        });
    }
}

#[test]
fn a_connector_whose_source_is_away_is_deleted_once_it_is_back() {
    let mut source = source();
    let server = Server::start();
    server.follow(&source);
    source.stop();
    let refused = server.ardent(&["connector", "delete", "prod"]).failed(1);
    assert!(refused.contains("--force"), "{refused}");
    let forced = server.ardent(&["connector", "delete", "prod", "--force"]).failed(1);
    assert!(forced.contains("pg_drop_replication_slot('ardent_c1')"), "{forced}");
    let again = server.ardent(&["connector", "delete", "prod", "--force"]).failed(1);
    assert!(again.contains("is being deleted"), "{again}");
    source.restart();
    eventually(PATIENCE, "the connector is gone", || {
        let listed = server.ardent(&["connector", "list"]);
        listed.stdout.contains("No connectors found").then_some(())
    });
    assert_eq!(source.traces(), "");
}

#[test]
fn decisions_are_not_changed_under_a_running_setup_and_a_second_caller_joins_it() {
    let source = source();
    source.sql("create table audit (note text)");
    let server = Server::start();
    let blocker = source.sql("select pg_create_logical_replication_slot('theirs', 'pgoutput')");
    assert!(blocker.contains("theirs"), "{blocker}");
    let plan = server.data_dir().with_file_name("plan.json");
    std::fs::write(&plan, r#"{"public.audit": "exclude"}"#).expect("write the plan");
    let plan = plan.display().to_string();
    let (data_dir, url) = (server.data_dir(), source.url());
    let decided = plan.clone();
    let create = std::thread::spawn(move || {
        let create = ["connector", "create", "postgresql", &url, "--name", "prod"];
        let decide = ["--replica-identity-decisions", &decided];
        ardent(&data_dir, &[create.as_slice(), &decide].concat())
    });
    eventually(PATIENCE, "setup runs", || (state(&server)? == "validating").then_some(()));
    let other = server.data_dir().with_file_name("other.json");
    std::fs::write(&other, r#"{"public.audit": "replica_identity_full"}"#).expect("write");
    let other = other.display().to_string();
    let retry = ["connector", "retry-setup", "prod", "--replica-identity-decisions"];
    let refused = server.ardent(&[retry.as_slice(), &[&other]].concat()).failed(1);
    let words = "decisions cannot be changed while setup is already in progress";
    assert!(refused.contains(words), "{refused}");
    assert!(refused.contains("still shows setup pending"), "{refused}");
    let joined = server.ardent(&[retry.as_slice(), &[&plan]].concat()).ok();
    assert!(joined.contains("ready"), "{joined}");
    let created = create.join().expect("create ends");
    assert_eq!(created.code, 0, "{created:#?}");
    assert_eq!(slots(&source), "ardent_c1\ntheirs", "one slot for both callers");
    source.sql("select pg_drop_replication_slot('theirs')");
}
