//! A real Postgres on the mount.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use storage::wire::Owner;

use crate::served::{Served, id};

fn bin(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Postgres is installed");
    let mut found: Vec<_> = versions
        .map(|entry| entry.unwrap().path().join("bin").join(program))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().expect("Postgres is installed")
}

/// Postgres does not run as root, and its `initdb` wants a user with a name.
pub(crate) fn postgres() -> Owner {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("user postgres");
    let mut numbers = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Owner { uid: numbers.next().unwrap(), gid: numbers.next().unwrap() }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    try_run(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"))
}

/// What the program says, or complains about.
fn try_run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let owner = postgres();
    let output = Command::new(bin(program))
        .args(arguments)
        .uid(owner.uid)
        .gid(owner.gid)
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub(crate) struct Cluster<'a> {
    served: &'a Served,
    number: u32,
}

impl<'a> Cluster<'a> {
    pub(crate) fn start(served: &'a Served, number: u32) -> Self {
        served.client().begin_compute(id(number)).unwrap();
        let cluster = Self { served, number };
        let log = served.dir.join(format!("log-{number}"));
        // A port is part of the socket's name only: nothing listens on TCP.
        let options = format!(
            "-k {} -p {} -c listen_addresses= -c shared_buffers=16MB",
            served.dir.display(),
            6000 + number
        );
        let dir = cluster.dir();
        let arguments = ["-w", "-D", dir.to_str().unwrap(), "-o", &options, "-l"];
        run("pg_ctl", &[&arguments[..], &[log.to_str().unwrap(), "start"]].concat());
        cluster
    }

    fn dir(&self) -> PathBuf {
        self.served.branch(self.number)
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        let port = (6000 + self.number).to_string();
        let host = self.served.dir.to_str().unwrap();
        try_run("psql", &["-X", "-At", "-h", host, "-p", &port, "-d", "postgres", "-c", sql])
    }

    pub(crate) fn pgbench(&self, arguments: &[&str]) {
        let port = (6000 + self.number).to_string();
        let host = self.served.dir.to_str().unwrap();
        run("pgbench", &[&["-h", host, "-p", &port][..], arguments, &["postgres"]].concat());
    }

    /// Indexes agree with tables, and money neither appeared nor vanished.
    pub(crate) fn check(&self) {
        self.sql("create extension if not exists amcheck");
        let indexes = "select count(bt_index_check(c.oid, true)) from pg_class c \
                       join pg_am a on a.oid = c.relam \
                       where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence = 'p'";
        assert!(self.sql(indexes).parse::<u32>().unwrap() > 100);
        let sums = "select (select sum(abalance) from pgbench_accounts) \
                    = (select sum(tbalance) from pgbench_tellers) and \
                    (select sum(bbalance) from pgbench_branches) \
                    = (select coalesce(sum(delta), 0) from pgbench_history)";
        assert_eq!(self.sql(sums), "t");
    }

    pub(crate) fn stop(self, mode: &str) {
        run("pg_ctl", &["-w", "-m", mode, "-D", self.dir().to_str().unwrap(), "stop"]);
    }
}

fn exists(dir: &Path, name: &str) -> bool {
    dir.join(name).exists()
}

#[test]
fn a_cluster_is_forked_written_and_restarted() {
    let mut served = Served::new();
    served.client().create(id(1), postgres()).unwrap();
    let dir = served.branch(1);
    run("initdb", &["-k", "-A", "trust", "-D", dir.to_str().unwrap()]);
    let trunk = Cluster::start(&served, 1);
    trunk.pgbench(&["-i", "-s", "2", "-q"]);
    trunk.pgbench(&["-n", "-c", "2", "-t", "200"]);
    trunk.stop("fast");

    // A clean layer: the way branches are cut.
    served.client().fork(id(1), id(2), postgres()).unwrap();
    assert!(exists(&served.branch(1), "postmaster.opts"));
    assert!(!exists(&served.branch(2), "postmaster.opts"));
    let trunk = Cluster::start(&served, 1);
    let child = Cluster::start(&served, 2);
    let history = "select count(*) from pgbench_history";
    assert_eq!(child.sql(history), "400");
    child.pgbench(&["-n", "-c", "2", "-t", "100"]);
    trunk.pgbench(&["-n", "-c", "2", "-t", "50"]);
    assert_eq!((child.sql(history), trunk.sql(history)), ("600".into(), "500".into()));
    child.check();

    // A running one: the child recovers as after a crash.
    served.client().fork(id(2), id(3), postgres()).unwrap();
    assert!(exists(&served.branch(2), "postmaster.pid"));
    assert!(!exists(&served.branch(3), "postmaster.pid"));
    let grandchild = Cluster::start(&served, 3);
    grandchild.check();
    assert_eq!(grandchild.sql(history), "600");
    grandchild.sql("vacuum full pgbench_accounts");
    grandchild.check();
    child.stop("immediate");
    let child = Cluster::start(&served, 2);
    child.check();
    for cluster in [trunk, child, grandchild] {
        cluster.stop("fast");
    }

    served.client().delete(id(2)).unwrap();
    served.kill();
    served.start();
    for (number, rows) in [(1, "500"), (3, "600")] {
        let cluster = Cluster::start(&served, number);
        cluster.check();
        assert_eq!(cluster.sql(history), rows);
        cluster.stop("fast");
        run("pg_checksums", &["--check", "-D", served.branch(number).to_str().unwrap()]);
    }
}

/// The store dies under a running Postgres; what was committed is there after both are back.
#[test]
fn commits_survive_a_killed_store() {
    let mut served = Served::new();
    served.client().create(id(1), postgres()).unwrap();
    run("initdb", &["-k", "-A", "trust", "-D", served.branch(1).to_str().unwrap()]);
    for round in 0..3 {
        let cluster = Cluster::start(&served, 1);
        if round == 0 {
            cluster.pgbench(&["-i", "-s", "1", "-q"]);
        }
        cluster.pgbench(&["-n", "-c", "4", "-t", "50"]);
        let before = cluster.sql("select count(*) from pgbench_history");
        let pid = fs::read_to_string(cluster.dir().join("postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        served.kill();
        // Every process of the old compute is gone before the branch is served again.
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        // It may have ended by itself: its files are gone.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        while rustix::process::test_kill_process(pid).is_ok() {
            std::thread::yield_now();
        }
        served.start();
        let cluster = Cluster::start(&served, 1);
        cluster.check();
        assert_eq!(cluster.sql("select count(*) from pgbench_history"), before);
        cluster.stop("fast");
    }
}

/// Forks of a trunk under load come and go; its layers are merged under it all the time.
#[test]
fn a_busy_trunk_is_whole_after_its_layers_were_merged() {
    let mut served = Served::new();
    let mut client = served.client();
    client.create(id(1), postgres()).unwrap();
    run("initdb", &["-k", "-A", "trust", "-D", served.branch(1).to_str().unwrap()]);
    let trunk = Cluster::start(&served, 1);
    trunk.pgbench(&["-i", "-s", "1", "-q"]);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| trunk.pgbench(&["-n", "-c", "4", "-t", "400"]));
        for number in 2.. {
            client.fork(id(1), id(number), postgres()).unwrap();
            if number % 20 == 0 {
                let child = Cluster::start(&served, number);
                child.check();
                served.assert_sound();
                child.stop("immediate");
            }
            if number % 40 == 0 {
                trunk.sql("vacuum full pgbench_tellers");
            }
            client.delete(id(number)).unwrap();
            if load.is_finished() && number > 60 {
                break;
            }
        }
    });
    trunk.check();
    trunk.stop("fast");
    served.kill();
    served.assert_sound();
    served.start();
    let trunk = Cluster::start(&served, 1);
    trunk.check();
    assert_eq!(trunk.sql("select count(*) from pgbench_history"), "1600");
    trunk.stop("fast");
    run("pg_checksums", &["--check", "-D", served.branch(1).to_str().unwrap()]);
    let layers = fs::read_dir(served.dir.join("store/layers")).unwrap().count();
    assert!(layers < 40, "{layers} layers");
}
