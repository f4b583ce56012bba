//! What the front door costs, beside a direct connection and beside pgbouncer, all before the same
//! branch's Postgres: throughput, COPY, connecting, waking, and memory of idle sessions.
//!
//! The sides take turns in one run and medians are compared, so that the ratios mean something
//! whatever the machine. Direct is TCP on loopback with Postgres' own SCRAM and TLS.

#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::cli::{bounded, run};
use support::drivers::psql;
use support::processes;
use support::scratch::Scratch;
use support::server::Server;
use support::source::{Source, free_port};
use support::wait::eventually;
use tokio_postgres::{Client, NoTls};

const SCALE: u32 = 5;
const ROUNDS: usize = 5;
const ROUND_SECONDS: &str = "2";
const CONNECTS: usize = 100;
const SLEEPERS: usize = 20;
const WAKES: usize = 200;
const IDLE_SESSIONS: [u32; 2] = [100, 400];
const SESSIONS_A_BRANCH: u32 = 80;

fn main() {
    let source = Source::start();
    source.pgbench(SCALE);
    let server = Server::start_with(
        // The file begins with the section of computes.
        "listen_tcp = true\n[proxy]\nsessions_per_branch_max = 95\n\
         [branch]\nsuspend_after_s = 3600",
    );
    server.follow(&source);
    let sides = Sides::prepare(&server);
    println!("medians of {ROUNDS} rounds by turns; ratios are to the direct connection");
    throughput(&sides);
    copy_out(&sides);
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    runtime.block_on(connecting(&sides));
    drop(sides);
    runtime.block_on(memory(&server));
    drop(server);
    waking(&source);
}

/// The ways to one branch.
struct Sides {
    relay: String,
    relay_tls: String,
    direct: String,
    direct_tls: String,
    pgbouncer: String,
    _pooler: Pooler,
}

struct Pooler {
    child: Child,
    _scratch: Scratch,
}

impl Drop for Pooler {
    fn drop(&mut self) {
        processes::signal(self.child.id(), rustix::process::Signal::INT);
        processes::wait_for(&mut self.child, Duration::from_secs(5));
    }
}

impl Sides {
    fn prepare(server: &Server) -> Self {
        let relay = server.branch("bench");
        let socket = PathBuf::from(
            server.info("bench")["compute_socket"].as_str().expect("the compute's socket"),
        );
        let number: u16 = file_name(&socket).parse().expect("a branch number");
        let [high, low] = number.to_be_bytes();
        let data = server.data_dir().join("mnt").join(number.to_string());
        let owner = owner_of(&data);
        let admin = format!("host={} user=ardent_system dbname=postgres", socket.display());
        let scratch = Scratch::new("bench");
        open_tcp(&data, &admin);
        own_tls(scratch.path(), owner, &admin);
        let direct = format!("postgresql://branch_owner:pw@127.77.{high}.{low}:5432/postgres");
        let (pooler, pgbouncer) = pooler(scratch, owner, &socket);
        let ca = server.data_dir().join("tls/ca.crt");
        Self {
            relay_tls: format!("{relay}?sslmode=verify-ca&sslrootcert={}", ca.display()),
            direct_tls: format!("{direct}?sslmode=require"),
            direct: format!("{direct}?sslmode=disable"),
            relay: format!("{relay}?sslmode=disable"),
            pgbouncer,
            _pooler: pooler,
        }
    }

    fn all(&self) -> [(&'static str, &str); 5] {
        [
            ("direct TCP", &self.direct),
            ("relay", &self.relay),
            ("pgbouncer", &self.pgbouncer),
            ("direct TLS", &self.direct_tls),
            ("relay TLS", &self.relay_tls),
        ]
    }
}

fn file_name(path: &Path) -> &str {
    let directory = if path.ends_with(".s.PGSQL.5432") { path.parent() } else { Some(path) };
    directory.and_then(Path::file_name).and_then(|name| name.to_str()).expect("a name")
}

fn owner_of(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).expect("the branch's directory");
    (meta.uid(), meta.gid())
}

/// Lets the owner in over TCP with a password of its own.
fn open_tcp(data: &Path, admin: &str) {
    let rules = data.join("pg_hba.conf");
    let mut text = std::fs::read_to_string(&rules).expect("read pg_hba.conf");
    text.push_str("\nhost all branch_owner 127.0.0.0/8 scram-sha-256\n");
    std::fs::write(&rules, text).expect("write pg_hba.conf");
    psql(admin, "alter role branch_owner password 'pw'; select pg_reload_conf()").ok();
}

/// A certificate of the same kind as the front door's.
fn own_tls(directory: &Path, (uid, gid): (u32, u32), admin: &str) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]);
    let certificate = parameters.and_then(|p| p.self_signed(&key)).expect("a certificate");
    std::os::unix::fs::chown(directory, Some(uid), Some(gid)).expect("give the directory away");
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("write");
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("give the file away");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("hide the key");
    }
    for (setting, value) in [
        ("ssl_cert_file", directory.join("server.crt").display().to_string()),
        ("ssl_key_file", directory.join("server.key").display().to_string()),
        ("ssl", "on".to_owned()),
    ] {
        psql(admin, &format!("alter system set {setting} = '{value}'")).ok();
    }
    psql(admin, "select pg_reload_conf()").ok();
}

/// pgbouncer in session mode over the compute's own socket, under the uid that may enter it.
fn pooler(scratch: Scratch, (uid, gid): (u32, u32), socket: &Path) -> (Pooler, String) {
    let port = free_port();
    let directory = scratch.path();
    let users = directory.join("users.txt");
    std::fs::write(&users, "\"branch_owner\" \"pw\"\n").expect("write users");
    let mut text = String::new();
    let host = socket.display();
    writeln!(text, "[databases]\npostgres = host={host} port=5432 user=branch_owner")
        .expect("text");
    writeln!(text, "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}").expect("text");
    writeln!(text, "pool_mode = session\nauth_type = trust\nauth_file = {}", users.display())
        .expect("text");
    writeln!(text, "unix_socket_dir =\ndefault_pool_size = 50").expect("text");
    let config = directory.join("pgbouncer.ini");
    std::fs::write(&config, text).expect("write the configuration");
    let mut command = Command::new("/usr/sbin/pgbouncer");
    command.arg("-q").arg(&config).uid(uid).gid(gid);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.expect("start pgbouncer (Debian package pgbouncer)");
    let url = format!("postgresql://branch_owner@127.0.0.1:{port}/postgres?sslmode=disable");
    eventually(Duration::from_secs(10), "pgbouncer answers", || {
        (psql(&url, "select 1").code == 0).then_some(())
    });
    (Pooler { child, _scratch: scratch }, url)
}

fn throughput(sides: &Sides) {
    for clients in ["1", "16"] {
        println!("\npgbench -S -M prepared -c {clients}, transactions a second");
        by_turns(sides, |url| {
            let mut command = bounded("pgbench");
            command.args(["-n", "-S", "-M", "prepared", "-j", "1", "-c", clients]);
            let said = run(command.args(["-T", ROUND_SECONDS, url])).ok();
            let line = said.lines().find(|line| line.starts_with("tps = ")).expect("tps");
            line.split_whitespace().nth(2).and_then(|n| n.parse().ok()).expect("a number")
        });
    }
}

fn copy_out(sides: &Sides) {
    println!("\nCOPY out of 500,000 rows, MB/s");
    by_turns(sides, |url| {
        let copy = "copy (select g, repeat('x', 90) from generate_series(1, 500000) g) to stdout";
        let mut command = bounded("psql");
        command.args(["-XAtqc", copy, url]).stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        assert!(command.status().expect("run psql").success());
        // 6 digits, a tab, 90 bytes, a line feed: about 49 MB.
        49.0 / begun.elapsed().as_secs_f64()
    });
}

/// Measures every side in turn, some rounds long, and prints medians.
fn by_turns(sides: &Sides, measure: impl Fn(&str) -> f64) {
    let mut samples = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        for ((_, url), samples) in sides.all().into_iter().zip(&mut samples) {
            samples.push(measure(url));
        }
    }
    let medians = samples.map(median);
    for ((name, _), value) in sides.all().into_iter().zip(medians) {
        let base = if name.ends_with("TLS") { medians[3] } else { medians[0] };
        println!("  {name:<12} {value:10.1}   {:.2} x", value / base);
    }
}

/// Connect, SCRAM, one query, in milliseconds: both sides authenticate alike.
async fn connecting(sides: &Sides) {
    println!("\nconnect and one query, awake, ms");
    let mut samples = [const { Vec::new() }; 2];
    for _ in 0..CONNECTS {
        for (url, samples) in [&sides.direct, &sides.relay].into_iter().zip(&mut samples) {
            let begun = Instant::now();
            let client = connect(url).await;
            client.simple_query("select 1").await.expect("select 1");
            samples.push(milliseconds(begun.elapsed()));
        }
    }
    let [direct, relay] = samples.map(median);
    println!("  direct TCP   {direct:10.2}\n  relay        {relay:10.2}   {:.2} x", relay / direct);
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

/// What the server's resident memory grows by with each idle session.
async fn memory(server: &Server) {
    let [few, many] = IDLE_SESSIONS;
    let branches = many.div_ceil(SESSIONS_A_BRANCH);
    let urls: Vec<String> = (0..branches).map(|n| server.branch(&format!("idle{n}"))).collect();
    let mut sessions = Vec::new();
    let mut resident = Vec::new();
    for number in 0..many {
        let url = &urls[usize::try_from(number / SESSIONS_A_BRANCH).expect("a small number")];
        sessions.push(connect(url).await);
        if [few, many].contains(&(number + 1)) {
            resident.push(resident_kib(server.pid()));
        }
    }
    let per_session = (resident[1] - resident[0]) / f64::from(many - few);
    println!("\nresident memory an idle session, {few} to {many}: {per_session:.1} KiB");
}

fn resident_kib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// From connecting to a suspended branch to the answer of its first query.
fn waking(source: &Source) {
    let server = Server::start_with("[branch]\nsuspend_after_s = 1");
    server.follow(source);
    let urls: Vec<String> = (0..SLEEPERS).map(|n| server.branch(&format!("s{n}"))).collect();
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    let mut samples = Vec::new();
    while samples.len() < WAKES {
        let asleep = || {
            let shown = psql(&server.console_url(), "ardent show computes").ok();
            // What is left is the trunk.
            (shown.lines().count() == 1).then_some(())
        };
        eventually(Duration::from_secs(60), "all branches sleep", asleep);
        for url in &urls {
            let begun = Instant::now();
            runtime.block_on(async {
                connect(url).await.simple_query("select 1").await.expect("select 1");
            });
            samples.push(milliseconds(begun.elapsed()));
        }
    }
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    println!("\nwake seen by the client over {WAKES}, ms: p50 {:.1}, p99 {:.1}", at(50), at(99));
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
