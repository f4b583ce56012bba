//! Setup and deletion under kill -9 and unreachable sources: whatever dies when, the next server
//! carries on, and the source holds exactly one connector's things, or none.

use std::path::PathBuf;
use std::time::Duration;

use crate::support::cli::{Ran, ardent};
use crate::support::drivers::psql;
use crate::support::pgbench::assert_equal;
use crate::support::processes::{self, Process};
use crate::support::server::Server;
use crate::support::session::OpenSession;
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

/// Less what is drawn by chance.
fn slots(source: &Source) -> String {
    source.sql(
        "select regexp_replace(slot_name, '^ardent_conn_[0-9a-z]{6}$', 'ours') \
         from pg_replication_slots order by 1",
    )
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
        assert_eq!(slots(&source), "ours", "{what}");
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
    assert!(forced.contains("pg_drop_replication_slot('ardent_conn_"), "{forced}");
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
    assert_eq!(slots(&source), "ours\ntheirs", "one slot for both callers");
    source.sql("select pg_drop_replication_slot('theirs')");
}

/// Copied in this order by one session. The first takes long enough for a test to lock another.
const TABLES: &str = "
create table whole (id int primary key, v text);
insert into whole select g, repeat('w', 500) from generate_series(1, 400000) g;
create table also (id int primary key, v text);
insert into also select g, repeat('a', 200) from generate_series(1, 20000) g;
create table stuck (id int primary key, a int references also, v text);
insert into stuck select g, g, repeat('s', 100) from generate_series(1, 9000) g;
create table left_over (id int primary key, s int references stuck, v text);
insert into left_over select g, g, repeat('l', 100) from generate_series(1, 3000) g;
create table changed (id int primary key, v text);
insert into changed select g, repeat('c', 100) from generate_series(1, 900) g";

/// Scans of the tables that are whole: one made the index, one was the copy.
const READS: &str = "select relname || ' ' || seq_scan from pg_stat_user_tables \
                     where relname in ('whole', 'also') order by 1";
const READ_ONCE: &str = "also 2\nwhole 2";

fn write_all(source: &Source, number: u32) {
    let id = 500_000 + number;
    source.sql(&format!(
        "insert into also values ({id}, 'n'); insert into stuck values ({id}, {id}, 'n');
         insert into left_over (id, s) values ({id}, {id}); insert into changed (id) values ({id});
         update whole set v = v || 'x' where id = {number};
         update stuck set v = 'u' where id = {number};
         delete from left_over where id = {number}"
    ));
}

/// A setup whose copy gets as far as a table that is locked, and who holds the lock.
fn stuck_setup(source: &Source, server: &Server) -> (OpenSession, std::thread::JoinHandle<Ran>) {
    let mut holder = OpenSession::start(&source.socket_url());
    let line = "stage=\"copying\"";
    let seen = server.log_text().matches(line).count();
    let (data_dir, url) = (server.data_dir(), source.url());
    let create = std::thread::spawn(move || {
        ardent(&data_dir, &["connector", "create", "postgresql", &url, "--name", "prod"])
    });
    // Before that the schema is read, for which we lock all tables.
    eventually(PATIENCE, "rows are copied", || {
        (server.log_text().matches(line).count() > seen).then_some(())
    });
    assert_eq!(
        holder.ask("begin; lock table stuck in access exclusive mode; select 'held'"),
        "held"
    );
    two_are_whole(server);
    (holder, create)
}

fn two_are_whole(server: &Server) {
    eventually(PATIENCE, "two tables are whole", || {
        let status = server.ardent(&["connector", "status", "prod", "--format", "json"]);
        let row: serde_json::Value = serde_json::from_str(status.stdout.trim()).ok()?;
        (row["tables_done"] == 2).then_some(())
    });
}

fn becomes_ready(server: &Server) {
    eventually(PATIENCE, "ready", || (state(server)? == "ready").then_some(()));
}

#[track_caller]
fn assert_same(server: &Server, source: &Source) {
    assert_equal(&server.branch("after"), source, "after the copy went on");
    let said = server.ardent(&["connector", "verify", "prod", "--format", "json"]).ok();
    assert!(said.contains(" 0 different, 0 not carried, 0 not compared"), "{said}");
}

fn few_at_once(source: &Source) -> Server {
    source.sql(TABLES);
    Server::start_with("[replication]\ncopy_jobs = 1\n")
}

/// What a transaction leaves that dies with its Postgres, by a name that none comes to.
fn leave_a_file(server: &Server) {
    for database in databases(server, "store/incoming/1/base") {
        for name in ORPHANS {
            std::fs::write(database.join(name), "rows of nobody").expect("write a file");
        }
    }
}

fn assert_removed(server: &Server) {
    for database in databases(server, "mnt/1/base") {
        for name in ORPHANS {
            assert!(!database.join(name).exists(), "{name} is left");
        }
    }
}

const ORPHANS: [&str; 2] = ["4000000001", "4000000001.1"];

/// The folders of databases that are no template's.
fn databases(server: &Server, base: &str) -> Vec<PathBuf> {
    let base = server.data_dir().join(base);
    let is_made = |path: &PathBuf| {
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        number.is_some_and(|number: u32| number >= 16_384)
    };
    let listed = std::fs::read_dir(base).expect("list databases");
    let databases: Vec<_> = listed.filter_map(|e| Some(e.ok()?.path())).filter(is_made).collect();
    assert_eq!(databases.len(), 1, "{databases:?}");
    databases
}

fn kill_amid_copy(source: &Source, server: &mut Server) {
    let (holder, create) = stuck_setup(source, server);
    server.kill();
    create.join().expect("create ends with its server");
    holder.end();
}

#[test]
fn a_first_copy_goes_on_after_its_server_was_killed() {
    let source = Source::start();
    let mut server = few_at_once(&source);
    kill_amid_copy(&source, &mut server);
    leave_a_file(&server);
    write_all(&source, 1);
    source.sql("alter table whole add c int default 7; alter table changed add c int default 8");
    source.sql(
        "update whole set c = 9 where id in (2, 5); insert into changed values (600000, 'c', 9)",
    );
    write_all(&source, 2);
    server.start_again();
    becomes_ready(&server);
    let log = server.log_text();
    assert!(log.contains("whole=2 left=2"), "{log}");
    assert_eq!(source.sql(READS), READ_ONCE);
    assert_removed(&server);
    assert_same(&server, &source);
    assert_eq!(slots(&source), "ours");
}

#[test]
fn a_first_copy_goes_on_after_its_postgres_was_killed() {
    let source = Source::start();
    let server = few_at_once(&source);
    let (holder, create) = stuck_setup(&source, &server);
    let loading = processes::below(&server.data_dir().join("store/incoming/1"));
    assert!(!loading.is_empty(), "a Postgres loads");
    leave_a_file(&server);
    // All of it, before more rows come: a session that has them already could still commit.
    loading.iter().for_each(Process::kill_and_wait);
    holder.end();
    write_all(&source, 1);
    let created = create.join().expect("create ends");
    assert_eq!(created.code, 0, "{created:#?}");
    let log = server.log_text();
    assert!(log.contains("whole=2 left=3"), "{log}");
    assert_eq!(source.sql(READS), READ_ONCE);
    assert_removed(&server);
    assert_same(&server, &source);
}

#[test]
fn a_first_copy_that_cannot_go_on_begins_anew() {
    let source = Source::start();
    let mut server = few_at_once(&source);
    kill_amid_copy(&source, &mut server);
    write_all(&source, 1);
    eventually(PATIENCE, "the slot is free", || {
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
                    where not active";
        source.sql(drop);
        slots(&source).is_empty().then_some(())
    });
    server.start_again();
    becomes_ready(&server);
    let log = server.log_text();
    assert!(log.contains("first copy begins anew") && log.contains("slot is gone"), "{log}");
    assert_same(&server, &source);
    server.ardent(&["branch", "delete", "after"]).ok();
    server.ardent(&["connector", "delete", "prod"]).ok();
    kill_amid_copy(&source, &mut server);
    let run = server.data_dir().join("run");
    let notes: Vec<_> = std::fs::read_dir(run)
        .expect("list")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "incoming"))
        .collect();
    let [note] = &notes[..] else { panic!("{notes:?}") };
    // As after a start of the host, which may have lost what was not synced.
    std::fs::write(note, "another boot").expect("write the note");
    server.start_again();
    becomes_ready(&server);
    assert!(!server.log_text().contains("first copy goes on"), "{}", server.log_text());
    assert_same(&server, &source);
}

#[test]
fn two_servers_follow_one_source_and_one_leaves() {
    let source = source();
    let [one, other] = [Server::start(), Server::start()];
    one.follow(&source);
    other.follow(&source);
    assert_eq!(slots(&source), "ours\nours");
    source.sql("create table shared (id int primary key); insert into shared values (1)");
    for server in [&one, &other] {
        assert_eq!(psql(&server.branch("b1"), "select count(*) from shared").ok(), "1");
    }
    one.ardent(&["branch", "delete", "b1"]).ok();
    one.ardent(&["connector", "delete", "prod"]).ok();
    assert_eq!(slots(&source), "ours");
    source.sql("create table later (id int primary key); insert into later values (1)");
    assert_eq!(psql(&other.branch("b2"), "select count(*) from later").ok(), "1");
    for branch in ["b1", "b2"] {
        other.ardent(&["branch", "delete", branch]).ok();
    }
    other.ardent(&["connector", "delete", "prod"]).ok();
    assert_eq!(source.traces(), "");
}
