//! Postgres on a branch beside the same Postgres, settings and data on the host's file system.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::median;
use super::support::cli::{bounded, run as run_command};
use super::support::drivers::psql;
use super::support::processes;
use super::support::scratch::Scratch;
use super::support::server::Server;
use super::support::source::{Source, give_to_account};
use super::support::wait::eventually;

/// pgbench scale; its tables are several times the compute's shared buffers.
const SCALE: u32 = 30;
/// Rows of the bulk load, some 100 bytes each.
const COPIED: u32 = 1_500_000;

/// One of the two Postgres servers, through its own socket.
struct Side {
    socket: PathBuf,
    /// What is loaded.
    rows: PathBuf,
    /// The one that is not ours is ended here.
    child: Option<Child>,
    #[expect(dead_code, reason = "held for its directory")]
    scratch: Option<Scratch>,
}

/// All in a unit of which more is better.
struct Measure {
    name: &'static str,
    /// Whoever shares the host slows it down for seconds: where few seconds tell something, pairs
    /// are many and short, so that both sides of one meet the same host.
    pairs: usize,
    of: fn(&Side) -> f64,
}

/// What only reads comes first: the first readers after a writer clean up and write as well.
const MEASURES: [Measure; 5] = [
    Measure { name: "-S warm", pairs: 31, of: |side| pgbench(side, 3, &["-S"]) },
    Measure { name: "TPC-B", pairs: 9, of: |side| pgbench(side, 10, &[]) },
    Measure { name: "-N", pairs: 9, of: |side| pgbench(side, 10, &["-N"]) },
    Measure { name: "COPY in", pairs: 15, of: copy_in },
    Measure { name: "cold scan", pairs: 15, of: cold_scan },
];

pub(crate) fn run() {
    println!("branch / host file system, fsync on, 4 clients; medians of pairs by turns");
    let source = Source::with(&[]);
    source.pgbench(SCALE);
    // Sessions through the private socket do not keep a branch awake.
    let server = Server::start_with("[branch]\nsuspend_after_s = 0\n");
    server.follow(&source);
    server.branch("bench");
    let scratch = Scratch::new("rows");
    let rows = scratch.path().join("rows");
    let branch = branch_side(&server, &rows);
    let native = native_side(&server, &rows);
    write_rows(&branch);
    for side in [&branch, &native] {
        pgbench(side, 10, &["-S"]);
    }
    // What one side leaves to be written hits the other: each begins every other time.
    let pair = |measure: fn(&Side) -> f64, round: usize| match round % 2 {
        0 => (measure(&native), measure(&branch)),
        _ => {
            let ours = measure(&branch);
            (measure(&native), ours)
        }
    };
    for Measure { name, pairs, of } in MEASURES {
        let pairs: Vec<(f64, f64)> = (0..pairs).map(|round| pair(of, round)).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(native, ours)| ours / native).collect();
        let middle =
            |side: fn(&(f64, f64)) -> f64| median(&pairs.iter().map(side).collect::<Vec<_>>());
        println!(
            "  {name:<10} branch {:9.1}  native {:9.1}  ratio {:.2}  ({})",
            middle(|pair| pair.1),
            middle(|pair| pair.0),
            median(&ratios),
            ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(" ")
        );
    }
}

impl Side {
    fn url(&self) -> String {
        format!("postgresql:///postgres?host={}&user=ardent_system", self.socket.display())
    }

    fn sql(&self, sql: &str) -> String {
        psql(&self.url(), sql).ok()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            processes::signal(child.id(), Signal::INT);
            processes::wait_for(child, Duration::from_secs(60));
        }
    }
}

fn branch_side(server: &Server, rows: &Path) -> Side {
    let info = server.info("bench");
    let socket = PathBuf::from(info["compute_socket"].as_str().expect("a socket"));
    let side = Side { socket, rows: rows.to_path_buf(), child: None, scratch: None };
    // What the branch must not do while it is compared.
    side.sql("checkpoint");
    side
}

/// A copy of the branch on the host's file system, started with the branch's own command line.
fn native_side(server: &Server, rows: &Path) -> Side {
    let scratch = Scratch::new("native");
    let compute = server.compute_of("bench");
    let socket = branch_side(server, rows).socket.clone();
    let number = socket.file_name().expect("a number").to_owned();
    let from = server.data_dir().join("mnt").join(&number);
    let data = scratch.path().join("data");
    run_command(bounded("cp").arg("-a").arg(&from).arg(&data)).ok();
    let log = data.join("pg_wal");
    let outside = std::fs::read_link(&log).expect("a log beside the store");
    std::fs::remove_file(&log).expect("forget the link");
    run_command(bounded("cp").arg("-a").arg(&outside).arg(&log)).ok();
    std::fs::remove_file(data.join("postmaster.pid")).expect("forget the branch's postmaster");
    give_to_account(scratch.path());
    run_command(bounded("chown").args(["-R", "postgres"]).arg(&data)).ok();
    let program = std::fs::read_link(format!("/proc/{}/exe", compute.pid)).expect("its program");
    let line = std::fs::read(format!("/proc/{}/cmdline", compute.pid)).expect("its command line");
    let words = line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<String> = words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .map(|word| moved(&word, &from, &data))
        .map(|word| moved(&word, &socket, scratch.path()))
        .collect();
    let said = std::fs::File::create(scratch.path().join("log")).expect("create a file");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    command.arg(program).args(&words[1..]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
    let child = Some(child.expect("start the copy"));
    let (socket, rows) = (scratch.path().to_path_buf(), rows.to_path_buf());
    let side = Side { socket, rows, child, scratch: Some(scratch) };
    eventually(Duration::from_secs(60), "the copy answers", || {
        (psql(&side.url(), "select 1").code == 0).then_some(())
    });
    side.sql("checkpoint");
    side
}

fn moved(word: &str, from: &Path, to: &Path) -> String {
    word.replace(&from.display().to_string(), &to.display().to_string())
}

/// Transactions a second.
fn pgbench(side: &Side, seconds: u32, options: &[&str]) -> f64 {
    let mut command = bounded("pgbench");
    command.args(["-n", "-c", "4", "-j", "2", "-T", &seconds.to_string()]).args(options);
    let said = run_command(command.arg(side.url())).ok();
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|rest| rest.split_whitespace().next()).expect("tps");
    tps.parse().expect("a number")
}

fn write_rows(side: &Side) {
    let rows = "select g, g % 7, 0, repeat('x', 84) from generate_series(1, ";
    let to = side.rows.display();
    psql(&side.url(), &format!("\\copy ({rows}{COPIED}) g) to '{to}'")).ok();
}

/// Rows a second into a new table.
fn copy_in(side: &Side) -> f64 {
    side.sql("drop table if exists loaded; checkpoint");
    side.sql("create table loaded (like pgbench_accounts)");
    // What either side left to be written is no part of it.
    rustix::fs::sync();
    let started = Instant::now();
    psql(&side.url(), &format!("\\copy loaded from '{}'", side.rows.display())).ok();
    f64::from(COPIED) / started.elapsed().as_secs_f64()
}

/// Scans a second of a table that no cache holds.
fn cold_scan(side: &Side) -> f64 {
    side.sql("checkpoint");
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("drop caches");
    let started = Instant::now();
    side.sql("set max_parallel_workers_per_gather = 0; select sum(abalance) from pgbench_accounts");
    1.0 / started.elapsed().as_secs_f64()
}
