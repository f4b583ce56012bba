//! kill -9 of every process, each under load: what was committed is there, and the stream goes on
//! without a gap or a duplicate.

use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::cli::Ran;
use crate::support::drivers::{Driver, psql};
use crate::support::pgbench::{assert_equal, assert_invariant};
use crate::support::processes::signal;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;
use crate::support::workload::{Pgbench, Writer};

const TABLE: &str = "create table journal (id bigint primary key)";
/// From a kill until everything answers again, on two busy cores.
const RECOVERY: Duration = Duration::from_secs(60);

/// A loaded source that is followed, with one branch cut and in use.
struct Scene {
    load: Pgbench,
    url: String,
    server: Server,
    source: Source,
}

impl Scene {
    fn new() -> Self {
        let source = Source::start();
        source.pgbench(1);
        let load = Pgbench::start(&source);
        let server = Server::start();
        server.follow(&source);
        let url = server.branch("used");
        Driver::Psql.rows(&url, TABLE);
        Self { load, url, server, source }
    }

    /// What `writer` was told is committed is in the branch, and nothing it never wrote.
    fn assert_journal(&self, writer: Writer) {
        let committed = writer.last_committed();
        self.wait_answer();
        let row =
            Driver::Psql.rows(&self.url, "select count(*), coalesce(max(id), 0) from journal");
        let (count, last) = row.split_once('|').expect("two columns");
        assert_eq!(count, last, "a gap in the journal");
        // The commit in flight at the crash may be there without its answer having arrived.
        let last: i64 = last.parse().expect("an id");
        assert!((committed..=committed + 1).contains(&last), "{last} after {committed} committed");
        assert_invariant(Driver::Psycopg, &self.url);
    }

    fn wait_answer(&self) {
        eventually(RECOVERY, "the branch answers", || {
            (psql(&self.url, "select 1").code == 0).then_some(())
        });
    }

    /// After a create that failed: nothing is left of it, and the next one succeeds.
    fn create_again(&self, name: &str, failed: Ran) -> Ran {
        assert!(failed.code == 1 && !failed.stderr.is_empty(), "{failed:#?}");
        let listed = self.server.ardent(&["branch", "list"]).ok();
        assert!(!listed.contains(name), "{listed} after {failed:#?}");
        eventually(RECOVERY, "a branch can be made", || {
            let said = self.server.ardent(&["branch", "create", name, "--print-url"]);
            (said.code == 0).then_some(said)
        })
    }

    /// Cuts a branch under load, then one after the load, which must equal the source exactly.
    fn assert_stream_goes_on(self) {
        let during = eventually(RECOVERY, "a branch can be cut again", || {
            let said = self.server.ardent(&["branch", "create", "during", "--print-url"]);
            (said.code == 0).then_some(said.stdout.trim_end().to_owned())
        });
        assert_invariant(Driver::Psql, &during);
        self.load.stop();
        let after = self.server.branch("after");
        assert_equal(&after, &self.source, "after the load");
        self.server.assert_store_is_sound();
    }
}

#[test]
fn the_server_is_killed() {
    let mut scene = Scene::new();
    let compute = scene.server.compute_of("used");
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    scene.server.kill();
    scene.server.start_again();
    scene.assert_journal(writer);
    assert_eq!(scene.server.compute_of("used").pid, compute.pid, "the compute was not adopted");
    scene.assert_stream_goes_on();
}

#[test]
fn the_trunk_compute_is_killed() {
    let scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    scene.server.trunk_compute().kill_and_wait();
    // A branch does not notice.
    writer.wait_more(50);
    drop(writer);
    scene.assert_stream_goes_on();
}

#[test]
fn a_branch_compute_is_killed() {
    let scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    scene.server.compute_of("used").kill_and_wait();
    scene.assert_journal(writer);
    scene.assert_stream_goes_on();
}

/// As the kernel does when memory runs out. Postgres would recover in place, of which the store
/// does not hear: what it does before a start it would not have done.
#[test]
fn a_backend_of_a_branch_is_killed() {
    let scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    let compute = scene.server.compute_of("used");
    let find = "select pid from pg_stat_activity \
                where query like '%into journal%' and pid <> pg_backend_pid()";
    signal(Driver::Psql.rows(&scene.url, find).parse().expect("one"), Signal::KILL);
    scene.assert_journal(writer);
    assert_ne!(scene.server.compute_of("used").pid, compute.pid, "it recovered in place");
    scene.assert_stream_goes_on();
}

#[test]
fn the_store_is_killed() {
    let scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    scene.server.store().kill_and_wait();
    scene.assert_journal(writer);
    scene.assert_stream_goes_on();
}

#[test]
fn a_store_that_hangs_is_replaced() {
    let scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    signal(scene.server.store().pid, Signal::STOP);
    scene.assert_journal(writer);
    scene.assert_stream_goes_on();
}

/// At any moment between the freeze of the trunk and the answer to the client: a branch is made
/// and whole, or there is none and its name is free.
#[test]
fn the_store_is_killed_while_a_branch_is_made() {
    let scene = Scene::new();
    let mut made = Vec::new();
    for after_ms in [10, 25, 40, 55, 70, 90, 120] {
        let name = format!("after-{after_ms}");
        scene.wait_answer();
        let store = scene.server.store();
        let (ended, end) = mpsc::channel();
        let server = &scene.server;
        let said = std::thread::scope(|scope| {
            let create = ["branch", "create", &name, "--print-url"];
            scope.spawn(move || ended.send(server.ardent(&create)));
            let said = end.recv_timeout(Duration::from_millis(after_ms)).ok();
            store.kill_and_wait();
            said.or_else(|| end.recv().ok()).expect("the client ends")
        });
        let said = if said.code == 0 { said } else { scene.create_again(&name, said) };
        made.push(said.stdout.trim_end().to_owned());
    }
    for url in made {
        eventually(RECOVERY, "the branch answers", || {
            (psql(&url, "select 1").code == 0).then_some(())
        });
        assert_invariant(Driver::Psql, &url);
    }
    scene.assert_stream_goes_on();
}

/// Creates a connector, does `harm` in the middle of its first copy, and returns what the client
/// was told.
fn create_and(server: &Server, source: &Source, harm: impl FnOnce()) -> Ran {
    let url = source.url();
    std::thread::scope(|scope| {
        let create = scope.spawn(|| {
            server.ardent(&["connector", "create", "postgresql", &url, "--name", "prod"])
        });
        eventually(Duration::from_secs(60), "the copy has begun", || {
            let copies = "select count(*) from pg_stat_progress_copy";
            (source.sql(copies) != "0").then_some(())
        });
        harm();
        create.join().expect("the client ends")
    })
}

/// Nothing of a first copy lies outside the store.
fn assert_nothing_incoming(server: &Server) {
    let incoming = server.data_dir().join("store/incoming");
    let left = std::fs::read_dir(incoming).expect("the directory of first copies").count();
    assert_eq!(left, 0);
}

#[test]
fn the_server_is_killed_during_the_first_copy() {
    let source = Source::start();
    source.pgbench(10);
    let mut server = Server::start();
    let said = create_and(&server, &source, || signal(server.pid(), Signal::KILL));
    assert_eq!(said.code, 1, "{said:#?}");
    server.kill();
    server.start_again();
    let url =
        eventually(Duration::from_secs(120), "setup is resumed and a branch can be cut", || {
            let said = server.ardent(&["branch", "create", "after", "--print-url"]);
            (said.code == 0).then_some(said.stdout.trim_end().to_owned())
        });
    assert_equal(&url, &source, "at rest");
    assert_nothing_incoming(&server);
    server.assert_store_is_sound();
}

/// The copy does not stand on the store until it is whole.
#[test]
fn the_store_is_killed_during_the_first_copy() {
    let source = Source::start();
    source.pgbench(10);
    let server = Server::start();
    let said = create_and(&server, &source, || server.store().kill_and_wait());
    assert_eq!(said.code, 0, "{said:#?}");
    let url = server.ardent(&["branch", "create", "after", "--print-url"]).ok();
    assert_equal(&url, &source, "at rest");
    assert_nothing_incoming(&server);
    server.assert_store_is_sound();
}

#[test]
fn everything_is_killed_at_once() {
    let mut scene = Scene::new();
    let writer = Writer::start(&scene.url, "journal");
    writer.wait_more(50);
    let (trunk, used) = (scene.server.trunk_compute(), scene.server.compute_of("used"));
    let store = scene.server.store();
    scene.server.kill();
    store.kill_and_wait();
    trunk.kill_and_wait();
    used.kill_and_wait();
    scene.server.assert_store_is_sound();
    scene.server.start_again();
    scene.assert_journal(writer);
    scene.assert_stream_goes_on();
}
