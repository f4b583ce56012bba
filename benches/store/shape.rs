//! A store process of its own, with branches of any size, and a writer on one of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use storage::wire::Owner;
use storage::{BranchId, StoreClient};

use super::support::cli::ARDENT;
use super::support::processes;
use super::support::scratch::Scratch;

pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };
/// What Postgres writes at a time.
const BLOCK: usize = 8192;
const MIB: usize = 1 << 20;

pub(crate) fn id(number: u32) -> BranchId {
    BranchId::new(number).expect("a branch number")
}

pub(crate) struct Store {
    child: Child,
    scratch: Scratch,
    pub(crate) client: StoreClient,
}

impl Store {
    pub(crate) fn start() -> Self {
        let scratch = Scratch::new("store");
        std::fs::create_dir_all(scratch.path().join("run")).expect("make the run directory");
        std::fs::create_dir_all(scratch.path().join("log")).expect("make the log directory");
        let mut child = Command::new(ARDENT)
            .args(["store", "--io-uring", "--data-dir"])
            .arg(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(scratch.path().join("store.log")).expect("create the log"))
            .spawn()
            .expect("start the store");
        let output = child.stdout.take().expect("a piped stdout");
        let ready =
            BufReader::new(output).lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "the store did not start");
        let client = StoreClient::connect(&scratch.path().join("run/store.sock")).expect("connect");
        Self { child, scratch, client }
    }

    pub(crate) fn dir(&self, branch: u32) -> PathBuf {
        self.scratch.path().join("mnt").join(branch.to_string())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn create(&mut self, branch: u32) {
        self.client.create(id(branch), ROOT).expect("create");
    }

    pub(crate) fn fork(&mut self, parent: u32, child: u32) {
        self.client.fork(id(parent), id(child), ROOT).expect("fork");
    }

    pub(crate) fn delete(&mut self, branch: u32) {
        self.client.delete(id(branch)).expect("delete");
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.client.shutdown().expect("stop the store");
        let ended = processes::wait_for(&mut self.child, Duration::from_secs(60));
        assert!(ended.is_some(), "the store does not stop");
    }
}

/// Fills files of at most 1 GiB, as Postgres cuts its relations, until there are `mib` of them.
pub(crate) fn fill(dir: &Path, mib: usize) {
    let data = vec![7; MIB];
    for (number, first) in (0..mib).step_by(1024).enumerate() {
        let file = File::create(dir.join(format!("relation.{number}"))).expect("create a file");
        for _ in first..mib.min(first + 1024) {
            (&file).write_all(&data).expect("write");
        }
        file.sync_all().expect("sync");
    }
}

/// Makes `count` small files in directories of a thousand.
pub(crate) fn scatter(dir: &Path, count: usize) {
    for number in 0..count {
        let below = dir.join(format!("database{}", number / 1000));
        if number % 1000 == 0 {
            std::fs::create_dir(&below).expect("make a directory");
        }
        std::fs::write(below.join(number.to_string()), [1; 64]).expect("write a file");
    }
}

/// Clients of the load, and blocks of data each writes before it syncs a log record: what pgbench's
/// TPC-B does to the files of a Postgres whose buffers are small.
const CLIENTS: u64 = 4;
const BLOCKS: u64 = 3;

/// Writes as a busy Postgres does: blocks all over the data, and log records that it syncs.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn start(dir: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..CLIENTS).map(|client| {
            let relation = open(dir, "relation.0");
            let log = open(dir, "log");
            let spread = relation.metadata().expect("stat").len().max(64 << 20) / BLOCK as u64;
            spawn(&stop, move |turn| {
                for block in turn * BLOCKS..(turn + 1) * BLOCKS {
                    // A step that is prime to any power of two visits every block.
                    let place = (block * CLIENTS + client).wrapping_mul(7919) % spread;
                    relation.write_all_at(&[9; BLOCK], place * BLOCK as u64).expect("write");
                }
                let place = (turn * CLIENTS + client) % 2048 * BLOCK as u64;
                log.write_all_at(&[5; BLOCK], place).expect("write the log");
                log.sync_data().expect("sync the log");
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Ends the load and returns how many log records were durable.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().map(|thread| thread.join().expect("join")).sum()
    }
}

fn open(dir: &Path, name: &str) -> File {
    let mut options = File::options();
    options.create(true).write(true).open(dir.join(name)).expect("open a file")
}

fn spawn(stop: &Arc<AtomicBool>, mut turn: impl FnMut(u64) + Send + 'static) -> JoinHandle<u64> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut turns = 0;
        while !stop.load(Ordering::Acquire) {
            turn(turns);
            turns += 1;
        }
        turns
    })
}
