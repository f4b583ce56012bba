//! A real Postgres on the mount.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
            "-k {} -p {} -c listen_addresses= -c shared_buffers=16MB \
             -c recovery_init_sync_method=syncfs -c restart_after_crash=off",
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
        self.try_pgbench(arguments).unwrap_or_else(|error| panic!("pgbench: {error}"));
    }

    fn try_pgbench(&self, arguments: &[&str]) -> Result<String, String> {
        let port = (6000 + self.number).to_string();
        let host = self.served.dir.to_str().unwrap();
        try_run("pgbench", &[&["-h", host, "-p", &port][..], arguments, &["postgres"]].concat())
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

    /// Ends it at once, if it has not ended by itself.
    pub(crate) fn crash(self) {
        let dir = self.dir();
        let _ = try_run("pg_ctl", &["-w", "-m", "immediate", "-D", dir.to_str().unwrap(), "stop"]);
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

/// A number from the environment, to search further or to repeat.
pub(crate) fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Ends every process of a compute that is told to go, and of one that lost its store.
fn kill(pid: i32) {
    // It may have ended by itself: its files are gone.
    let target = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(target, rustix::process::Signal::KILL);
    // A postmaster that is dead but not buried keeps the next one from starting.
    crate::served::eventually(|| rustix::process::test_kill_process(target).is_err());
}

fn children_of(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Postmaster, store or both die under load, in an order by seed; what was committed is there after
/// both are back, indexes and checksums agree, and the store is sound.
/// `ARDENT_SEED=n ARDENT_ROUNDS=500` searches further.
#[test]
fn commits_survive_whatever_is_killed() {
    let mut served = Served::new();
    let mut random = StdRng::seed_from_u64(variable("ARDENT_SEED", 1));
    let rounds = variable("ARDENT_ROUNDS", 3);
    served.client().create(id(1), postgres()).unwrap();
    run("initdb", &["-k", "-A", "trust", "-D", served.branch(1).to_str().unwrap()]);
    let mut number = 1;
    for round in 0..rounds {
        let cluster = Cluster::start(&served, number);
        if round == 0 {
            cluster.pgbench(&["-i", "-s", "1", "-q"]);
        }
        let history = "select count(*) from pgbench_history";
        cluster.pgbench(&["-n", "-c", "4", "-t", "20"]);
        let before: u64 = cluster.sql(history).parse().unwrap();
        let pid = fs::read_to_string(cluster.dir().join("postmaster.pid")).unwrap();
        let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
        let (kills_store, forks) = (random.random_bool(0.5), random.random_bool(0.3));
        std::thread::scope(|scope| {
            let load = scope.spawn(|| cluster.try_pgbench(&["-n", "-c", "4", "-t", "2000"]));
            let more = format!("select count(*) > {} from pgbench_history", before + 10);
            // Until the load is on, or as long as anybody answers.
            while cluster.try_sql(&more).is_ok_and(|more| more == "f") {}
            let backends = children_of(pid);
            if kills_store {
                let store = rustix::process::Pid::from_raw(served.pid().cast_signed()).unwrap();
                rustix::process::kill_process(store, rustix::process::Signal::KILL).unwrap();
            }
            kill(pid);
            backends.into_iter().for_each(kill);
            assert!(load.join().unwrap().is_err(), "the load is cut off");
        });
        if kills_store {
            served.kill();
            served.assert_sound();
            served.start();
        }
        served.assert_sound();
        if forks {
            // On in a fork of what the crash left; the one it was cut from goes.
            served.client().fork(id(number), id(number + 1), postgres()).unwrap();
            served.client().delete(id(number)).unwrap();
            number += 1;
        }
        let cluster = Cluster::start(&served, number);
        cluster.check();
        assert!(cluster.sql(history).parse::<u64>().unwrap() >= before + 10, "round {round}");
        cluster.stop("fast");
        if round % 10 == 4 {
            let dir = served.branch(number);
            run("pg_checksums", &["--check", "-D", dir.to_str().unwrap()]);
            println!("round {round} is whole");
        }
    }
    served.assert_sound();
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
