//! Write-ahead logs beside their data directories: taken out, forked from running and stopped
//! computes, lost.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tokio_postgres::Client;

use super::super::{Compute, ComputeKind, ComputeSpec, PostgresError, Session, wal};
use super::{Site, login, start};

impl Site {
    /// A copy of the data directory as it is at this moment, and its log as a fork gets it.
    fn fork(&self) -> Result<ComputeSpec, PostgresError> {
        let pinned = wal::pin(&self.root.join("wal/7"))?;
        let fork = ComputeSpec {
            data_dir: self.root.join("mnt/8"),
            wal_dir: Some(self.root.join("wal/8")),
            socket_dir: self.root.join("run/8"),
            log_file: self.root.join("log/compute-8.log"),
            state_file: self.root.join("run/8.compute"),
            ..self.compute(ComputeKind::Branch)
        };
        let copied = Command::new("cp").arg("-a").args([&self.data_dir(), &fork.data_dir]).status();
        assert!(copied.unwrap().success());
        for left_behind in ["postmaster.pid", "pg_wal"] {
            drop(fs::remove_file(fork.data_dir.join(left_behind)));
        }
        pinned.copy_to(&fork)?;
        wal::sync(&self.root.join("wal/8"))?;
        Ok(fork)
    }

    fn segments(&self, log: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.root.join(log)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.file_name().unwrap().len() == 24).collect()
    }
}

/// A running compute with a table, and a session on it.
async fn busy_site() -> (Site, Compute, Client) {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    client.batch_execute(TABLE).await.unwrap();
    (site, compute, client)
}

/// The state of the cluster in `pg_control`.
fn state_of(compute: &ComputeSpec) -> u8 {
    fs::read(compute.data_dir.join("global/pg_control")).unwrap()[16]
}

const SHUT_DOWN: u8 = 1;

/// Starts a fork and counts what it holds. The parent, of the same account, ends with it.
async fn rows_of(fork: ComputeSpec) -> i64 {
    let child = start(fork).await.unwrap();
    let rows = rows(&login(child.socket_dir(), "branch_owner", "app").await).await;
    child.stop().await.unwrap();
    rows
}

/// Commits a row with enough log to go round in a segment in some rounds.
async fn commit(client: &Client, row: i32) {
    let sql = format!("INSERT INTO t SELECT {row}, repeat('x', 90000) FROM generate_series(1, 20)");
    client.batch_execute(&sql).await.unwrap();
}

async fn rows(client: &Client) -> i64 {
    client.query_one("SELECT count(DISTINCT x) FROM t", &[]).await.unwrap().get(0)
}

const TABLE: &str = "CREATE TABLE t (x int, filler text); \
                     ALTER TABLE t ALTER filler SET STORAGE EXTERNAL";

#[tokio::test]
async fn the_first_start_takes_the_log_out_and_all_others_leave_it_there() {
    let site = Site::with_database("app").await;
    let inside = site.data_dir().join("pg_wal");
    assert!(fs::symlink_metadata(&inside).unwrap().is_dir());
    for row in 1..4 {
        let compute = site.start().await;
        assert_eq!(fs::read_link(&inside).unwrap(), site.root.join("wal/7"));
        let client = login(compute.socket_dir(), "branch_owner", "app").await;
        if row == 1 {
            client.batch_execute(TABLE).await.unwrap();
        }
        commit(&client, row).await;
        assert_eq!(rows(&client).await, i64::from(row));
        // Without and with recovery.
        let _exit = if row == 1 { compute.stop().await } else { compute.kill().await };
    }
    assert!(!site.data_dir().join("pg_wal.taken_out").exists());
}

#[tokio::test]
async fn a_log_that_is_taken_out_after_a_crash_holds_what_was_committed() {
    let site = Site::with_database("app").await;
    let inside = ComputeSpec { wal_dir: None, ..site.compute(ComputeKind::Branch) };
    let compute = start(inside).await.unwrap();
    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    client.batch_execute(TABLE).await.unwrap();
    for row in 0..20 {
        commit(&client, row).await;
    }
    compute.kill().await.unwrap();
    // Of an attempt that was cut short: the directory still counts.
    fs::create_dir(site.root.join("wal/7")).unwrap();
    let compute = site.start().await;
    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    assert_eq!(rows(&client).await, 20);
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn a_fork_of_a_running_compute_holds_all_that_was_committed_before() {
    let (site, parent, client) = busy_site().await;
    Session::system(parent.socket_dir()).await.unwrap().checkpoint().await.unwrap();
    for row in 0..20 {
        commit(&client, row).await;
    }
    assert!(site.segments("wal/7").len() > 2, "the log is to cross segments");
    let fork = site.fork().unwrap();
    assert_eq!(state_of(&fork), SHUT_DOWN, "it would sync the whole host");
    commit(&client, 20).await;
    assert_eq!(rows(&client).await, 21);
    assert_eq!(rows_of(fork).await, 20);
    parent.stop().await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_is_wanted_once_so_much_log_was_written() {
    const MIB: u64 = 1 << 20;
    let (_site, parent, client) = busy_site().await;
    assert!(parent.wants_checkpoint(u64::MAX).await.unwrap(), "there was only one of a shutdown");
    Session::system(parent.socket_dir()).await.unwrap().checkpoint().await.unwrap();
    assert!(!parent.wants_checkpoint(MIB).await.unwrap());
    commit(&client, 0).await;
    assert!(parent.wants_checkpoint(MIB).await.unwrap());
    assert!(!parent.wants_checkpoint(18 * MIB).await.unwrap());
    for row in 1..12 {
        commit(&client, row).await;
    }
    assert!(parent.wants_checkpoint(18 * MIB).await.unwrap(), "the log goes on in a segment");
    assert!(!parent.wants_checkpoint(60 * MIB).await.unwrap());
    parent.stop().await.unwrap();
}

/// Its last checkpoint is one of a shutdown: told that it was shut down, Postgres would not recover.
#[tokio::test]
async fn a_fork_of_a_compute_without_a_checkpoint_since_its_start_recovers() {
    let (site, parent, client) = busy_site().await;
    commit(&client, 1).await;
    let fork = site.fork().unwrap();
    assert_ne!(state_of(&fork), SHUT_DOWN);
    parent.stop().await.unwrap();
    assert_eq!(rows_of(fork).await, 1);
}

#[tokio::test]
async fn a_fork_reads_on_where_the_log_was_switched() {
    let (site, parent, client) = busy_site().await;
    let system = Session::system(parent.socket_dir()).await.unwrap();
    system.checkpoint().await.unwrap();
    for row in 0..3 {
        commit(&client, row).await;
        system.client().batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    commit(&client, 3).await;
    assert_eq!(rows_of(site.fork().unwrap()).await, 4);
    parent.stop().await.unwrap();
}

#[tokio::test]
async fn a_fork_of_a_stopped_compute_costs_a_few_pages_of_log() {
    let (site, parent, client) = busy_site().await;
    for row in 0..20 {
        commit(&client, row).await;
    }
    parent.stop().await.unwrap();
    let fork = site.fork().unwrap();
    let taken = wal::bytes_of(&site.root.join("wal/8")).unwrap();
    assert!((8192..=32768).contains(&taken), "{taken} bytes");
    assert_eq!(rows_of(fork).await, 20);
}

#[tokio::test]
async fn a_log_that_lacks_what_recovery_needs_is_refused() {
    let site = Site::with_database("app").await;
    site.start().await.stop().await.unwrap();
    for segment in site.segments("wal/7") {
        fs::remove_file(segment).unwrap();
    }
    let said = crate::cause::Causes(&site.fork().unwrap_err()).to_string();
    assert!(said.contains("write-ahead log ends at"), "{said}");
    fs::remove_dir_all(site.root.join("wal/7")).unwrap();
    let missing = start(site.compute(ComputeKind::Branch)).await.unwrap_err();
    assert!(matches!(missing, PostgresError::WalMissing(_)), "{missing}");
}
