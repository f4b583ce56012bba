//! A write load that runs beside a test, and a writer that knows which of its rows were committed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use super::drivers::{psql, python};
use super::processes;
use super::source::Source;
use super::wait::eventually;

/// pgbench's TPC-B-like transactions; against a source at a rate two cores bear beside the rest.
pub(crate) struct Pgbench {
    child: Child,
}

impl Pgbench {
    pub(crate) fn start(source: &Source) -> Self {
        Self::at_rate(source, 100)
    }

    /// So many transactions a second.
    pub(crate) fn at_rate(source: &Source, rate: u32) -> Self {
        Self::run(source.bin(), &source.socket_url(), &[&format!("--rate={rate}")])
    }

    /// As many transactions as a branch bears.
    pub(crate) fn on_branch(source: &Source, url: &str) -> Self {
        Self::run(source.bin(), url, &[])
    }

    fn run(bin: &Path, url: &str, options: &[&str]) -> Self {
        let mut command = Command::new(bin.join("pgbench"));
        command.args(["--no-vacuum", "--client=2", "--time=1200"]).args(options).arg(url);
        let before = transactions(url);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start pgbench");
        let load = Self { child };
        eventually(Duration::from_secs(20), "the load commits", || {
            (transactions(url) > before).then_some(())
        });
        load
    }

    /// Fails when the load has ended by itself: then the test ran without one.
    pub(crate) fn stop(mut self) {
        let ended = self.child.try_wait().expect("look at pgbench");
        assert!(ended.is_none(), "pgbench ended by itself: {ended:?}");
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        // Its own backend may still finish the transaction in flight, as after any client crash.
        processes::signal(self.child.id(), Signal::TERM);
        processes::wait_for(&mut self.child, Duration::from_secs(5));
    }
}

fn transactions(url: &str) -> i64 {
    psql(url, "select count(*) from pgbench_history").ok().parse().expect("a count")
}

/// Inserts rows 1, 2, 3, ... one transaction each until its connection breaks.
pub(crate) struct Writer {
    child: Child,
    committed: Arc<AtomicI64>,
    reader: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes into `table (id bigint primary key)` through `url`.
    pub(crate) fn start(url: &str, table: &str) -> Self {
        let mut child = python("writer.py")
            .args([url, table])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the writer");
        let lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let committed = Arc::new(AtomicI64::new(0));
        let seen = Arc::clone(&committed);
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.store(line.parse().expect("an id"), Ordering::Release);
            }
        });
        Self { child, committed, reader: Some(reader) }
    }

    /// Returns once `count` more rows than now are committed.
    pub(crate) fn wait_more(&self, count: i64) {
        let goal = self.committed.load(Ordering::Acquire) + count;
        eventually(Duration::from_secs(30), "the writer goes on", || {
            (self.committed.load(Ordering::Acquire) >= goal).then_some(())
        });
    }

    /// Waits for the connection to break and returns the last id that was reported committed.
    pub(crate) fn last_committed(mut self) -> i64 {
        let ended = processes::wait_for(&mut self.child, Duration::from_secs(30));
        assert!(ended.is_some(), "the writer's connection survived the crash");
        let reader = self.reader.take().expect("joined once");
        reader.join().expect("read what the writer said");
        self.committed.load(Ordering::Acquire)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        processes::signal(self.child.id(), Signal::TERM);
        processes::wait_for(&mut self.child, Duration::from_secs(5));
    }
}
