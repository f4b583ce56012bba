//! A disk that fills up, and branches that may hold only so much.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use storage::{Error, RefusalCode};

use crate::postgres::{Cluster, postgres, run};
use crate::served::{RESERVE, Served, id};

/// A small ext4 of its own, in a file.
struct SmallDisk {
    dir: PathBuf,
}

impl SmallDisk {
    fn new(megabytes: u64) -> Self {
        let name = format!("ardent-disk-{}-{megabytes}", std::process::id());
        let disk = Self { dir: std::env::temp_dir().join(name) };
        std::fs::create_dir(&disk.dir).unwrap();
        let image = disk.dir.with_extension("img");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let call = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {output:?}");
        };
        let (image, dir) = (image.to_str().unwrap(), disk.dir.to_str().unwrap());
        call("mkfs.ext4", &["-q", "-m", "0", image]);
        call("mount", &["-o", "loop", image, dir]);
        disk
    }

    /// Takes what is left, to the last page.
    fn fill(&self) {
        let rest = File::create(self.dir.join("rest")).unwrap();
        let (mut at, mut len) = (0, 64 << 20);
        while len >= 4096 {
            match fallocate(&rest, FallocateFlags::empty(), at, len) {
                Ok(()) => at += len,
                Err(Errno::NOSPC) => len /= 2,
                Err(error) => panic!("fill the disk: {error}"),
            }
        }
    }

    fn give_back(&self) {
        std::fs::remove_file(self.dir.join("rest")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
        drop(std::fs::remove_dir(&self.dir));
        drop(std::fs::remove_file(self.dir.with_extension("img")));
    }
}

/// Branch 1 with a cluster on it, which has stopped.
fn prepare(served: &Served) {
    served.client().create(id(1), postgres()).unwrap();
    run("initdb", &["-k", "-A", "trust", "-D", served.branch(1).to_str().unwrap()]);
    let trunk = Cluster::start(served, 1);
    trunk.pgbench(&["-i", "-s", "1", "-q"]);
    trunk.sql("create table filler (text text)");
    trunk.sql("alter table filler alter text set storage plain");
    trunk.sql("create table counter (n int) with (fillfactor = 20)");
    trunk.sql("insert into counter values (0)");
    trunk.stop("fast");
}

/// Inserts until that is refused, in pieces that each fit WAL; says with what words.
fn fill(cluster: &Cluster<'_>) -> String {
    let piece = "insert into filler select repeat('x', 7000) from generate_series(1, 500)";
    (0..1000).find_map(|_| cluster.try_sql(piece).err()).expect("an end of the space")
}

fn goes_on(cluster: &Cluster<'_>) {
    for _ in 0..20 {
        cluster.sql("update counter set n = n + 1");
    }
    cluster.sql("checkpoint");
    cluster.sql("vacuum counter");
}

#[test]
fn a_full_disk_refuses_growth_and_stops_nobody() {
    let disk = SmallDisk::new(400);
    let mut served = Served::in_dir(disk.dir.join("served"));
    prepare(&served);
    served.client().fork(id(1), id(2), postgres()).unwrap();
    let (one, other) = (Cluster::start(&served, 1), Cluster::start(&served, 2));
    let refused = fill(&one);
    assert!(refused.contains("could not extend file"), "{refused}");
    assert!(refused.contains("No space left on device"), "{refused}");
    // New branches leave what is left to those that are there, which go on.
    let fork = served.client().fork(id(2), id(3), postgres()).unwrap_err();
    assert!(matches!(fork, Error::Refused { code: RefusalCode::NoSpace, .. }), "{fork}");
    goes_on(&one);
    goes_on(&other);
    let free = || {
        let disk = rustix::fs::statvfs(&disk.dir).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    assert!(free() > RESERVE / 2, "the reserve is there");
    // Room is made, for what comes below.
    one.sql("truncate filler");
    one.sql("checkpoint");
    crate::served::eventually(|| free() > RESERVE + (32 << 20));
    served.client().fork(id(2), id(4), postgres()).unwrap();
    for cluster in [&one, &other] {
        cluster.sql("insert into filler select repeat('x', 7000) from generate_series(1, 500)");
        cluster.pgbench(&["-n", "-c", "2", "-t", "50"]);
        cluster.check();
    }
    served.assert_sound();
    one.stop("fast");
    other.stop("fast");
    for number in [1, 2] {
        run("pg_checksums", &["--check", "-D", served.branch(number).to_str().unwrap()]);
    }
    served.stop();
    served.assert_sound();
}

/// Somebody else takes the reserve as well, while the kernel still holds back what was committed.
#[test]
fn a_disk_that_others_fill_to_the_last_byte_costs_a_restart_and_no_commit() {
    let disk = SmallDisk::new(600);
    let mut served = Served::in_dir(disk.dir.join("served"));
    prepare(&served);
    served.client().fork(id(1), id(2), postgres()).unwrap();
    let (one, other) = (Cluster::start(&served, 1), Cluster::start(&served, 2));
    let accounts = "select count(*) from pgbench_accounts";
    // The first session of a branch writes what it has found of the catalogs.
    assert_eq!(other.sql(accounts), "100000");
    one.sql("update pgbench_accounts set filler = 'committed'");
    disk.fill();
    let written = one.try_sql("checkpoint");
    assert!(written.is_err(), "there was room for 13 MB of new pages");
    assert_eq!(other.sql(accounts), "100000", "who only reads notices nothing");
    disk.give_back();
    one.crash();
    let one = Cluster::start(&served, 1);
    assert_eq!(one.sql(&format!("{accounts} where filler = 'committed'")), "100000");
    assert_eq!(other.sql(&format!("{accounts} where filler = 'committed'")), "0");
    for cluster in [&one, &other] {
        cluster.pgbench(&["-n", "-c", "2", "-t", "50"]);
        cluster.check();
    }
    served.assert_sound();
    one.stop("fast");
    other.stop("fast");
    for number in [1, 2] {
        run("pg_checksums", &["--check", "-D", served.branch(number).to_str().unwrap()]);
    }
    served.stop();
    served.assert_sound();
}

#[test]
fn a_branch_stops_growing_at_its_limit_and_goes_on() {
    stops_growing_at(60 << 20);
}

/// Its first writes are held back by the kernel, which has to be told to stop that.
#[test]
fn a_branch_with_room_to_begin_with_stops_growing_at_its_limit() {
    stops_growing_at(200 << 20);
}

fn stops_growing_at(max_bytes: u64) {
    let mut served = Served::new();
    prepare(&served);
    let mut client = served.client();
    client.fork(id(1), id(2), postgres()).unwrap();
    client.limit(id(2), Some(max_bytes)).unwrap();
    served.kill();
    served.start();
    let cluster = Cluster::start(&served, 2);
    let refused = fill(&cluster);
    assert!(refused.contains("could not extend file"), "{refused}");
    assert!(refused.contains("Disk quota exceeded"), "{refused}");
    let usage = served.client().usage(id(2)).unwrap();
    assert_eq!(usage.max_bytes, Some(max_bytes));
    assert!((max_bytes..max_bytes + (40 << 20)).contains(&usage.unique_bytes), "{usage:?}");
    goes_on(&cluster);
    cluster.pgbench(&["-n", "-S", "-t", "50"]);
    // A child is not bound by it, nor is the branch once that is taken away.
    served.client().fork(id(2), id(3), postgres()).unwrap();
    assert_eq!(served.client().usage(id(3)).unwrap().max_bytes, None);
    cluster.sql("truncate filler");
    served.client().limit(id(2), None).unwrap();
    cluster.pgbench(&["-n", "-c", "2", "-t", "50"]);
    cluster.check();
    served.assert_sound();
    cluster.stop("fast");
}
