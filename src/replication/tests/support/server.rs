//! Real Postgres servers for tests: a source over TCP with passwords, a trunk on a trusted socket.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proxy::client::{Session, Target};
use rustix::process::Signal;

use crate::replication::{Link, SlotWal, TrunkAccess};
use crate::source::{Plugin, SourceUrl};

/// A server that ends with its value.
pub(in super::super) struct Server {
    directory: PathBuf,
    port: u16,
    superuser: &'static str,
    child: Child,
    settings: Vec<String>,
}

const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
pub(in super::super) const PASSWORD: &str = "s3cret/@?";

/// The newest Postgres of this machine; a machine without one fails the tests.
pub(in super::super) fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("tests need Postgres: apt-get install postgresql postgresql-15-wal2json")
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("a Postgres with initdb")
}

/// The account servers run as: Postgres refuses root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("account postgres");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(bin_dir().join(program));
    if let Some((user, group)) = account() {
        command.uid(user).gid(group);
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    command
}

fn scratch(name: &str) -> PathBuf {
    let directory =
        std::env::temp_dir().join(format!("ardent-test-{name}-{:08x}", rand::random::<u32>()));
    fs::create_dir(&directory).unwrap();
    if let Some((user, group)) = account() {
        chown(&directory, Some(user), Some(group)).unwrap();
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A data directory as initdb makes it. Made once per machine and superuser, then copied.
fn template(superuser: &str) -> PathBuf {
    let version = bin_dir().parent().and_then(Path::file_name).unwrap().to_owned();
    let name = format!("ardent-test-template-{}-{superuser}", version.display());
    let directory = std::env::temp_dir().join(name);
    if directory.exists() {
        return directory;
    }
    let fresh = scratch("template");
    let output = command("initdb")
        .args(["--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"])
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "-U", superuser, "-D"])
        .arg(fresh.join("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Another test may have been first; either template is as good.
    if fs::rename(&fresh, &directory).is_err() {
        fs::remove_dir_all(&fresh).unwrap();
    }
    directory
}

pub(in super::super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// A source; settings come after the defaults of a good one.
    pub(in super::super) async fn source(settings: &[&str]) -> Self {
        let port = free_port();
        let mut all = vec![
            "wal_level=logical".to_owned(),
            "output_plugin_libraries=pgoutput,test_decoding,wal2json".to_owned(),
            "listen_addresses=127.0.0.1".to_owned(),
            "max_prepared_transactions=5".to_owned(),
            format!("port={port}"),
        ];
        all.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let server = Self::start("source", "postgres", port, all).await;
        let quoted = PASSWORD.replace('\'', "''");
        server.run(&format!("ALTER ROLE postgres PASSWORD '{quoted}'")).await;
        server
    }

    /// A trunk, with the two roles that a trunk has.
    pub(in super::super) async fn trunk() -> Self {
        let all = vec!["listen_addresses=".to_owned(), "port=5432".to_owned()];
        let server = Self::start("trunk", "ardent_system", 5432, all).await;
        server
            .run(
                "CREATE ROLE ardent_apply LOGIN NOSUPERUSER BYPASSRLS;
                 ALTER ROLE ardent_apply SET session_replication_role = replica",
            )
            .await;
        server
    }

    async fn start(name: &str, superuser: &'static str, port: u16, settings: Vec<String>) -> Self {
        let directory = scratch(name);
        copy_data(&template(superuser), &directory);
        let child = spawn(&directory, &settings);
        let server = Self { directory, port, superuser, child, settings };
        server.wait().await;
        server
    }

    /// Bounded polling: a server announces itself to systemd only, and tests have none.
    async fn wait(&self) {
        let began = Instant::now();
        while Session::open(&self.target("postgres")).await.is_err() {
            assert!(began.elapsed() < STARTUP_TIMEOUT, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// kill -9 of the postmaster, then a start that waits until its children are gone.
    pub(in super::super) async fn crash(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// kill -9 of the postmaster, until it is started again.
    pub(in super::super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(in super::super) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A fast shutdown and a start.
    pub(in super::super) async fn restart(&mut self) {
        self.signal(Signal::INT);
        self.start_again().await;
    }

    /// A fast shutdown, until it is started again.
    pub(in super::super) fn stop(&mut self) {
        self.signal(Signal::INT);
        self.child.wait().unwrap();
    }

    /// Another server that stands where this one does now, as a standby would. Shut down meanwhile,
    /// so that nothing is between them.
    pub(in super::super) async fn copy(&mut self) -> Self {
        self.stop();
        let directory = scratch("standby");
        copy_data(&self.directory, &directory);
        let port = free_port();
        let mut settings = self.settings.clone();
        settings.push(format!("port={port}"));
        let child = spawn(&directory, &settings);
        let copy = Self { directory, port, superuser: self.superuser, child, settings };
        self.start_again().await;
        copy.wait().await;
        copy
    }

    /// Goes on on a timeline of its own.
    pub(in super::super) async fn promote(&mut self) {
        self.signal(Signal::INT);
        fs::write(self.directory.join("data/standby.signal"), "").unwrap();
        self.start_again().await;
        self.run("SELECT pg_promote()").await;
    }

    pub(in super::super) async fn start_again(&mut self) {
        self.child.wait().unwrap();
        let began = Instant::now();
        self.child = spawn(&self.directory, &self.settings);
        while Session::open(&self.target("postgres")).await.is_err() {
            assert!(began.elapsed() < STARTUP_TIMEOUT, "{}", self.log());
            // Children of the one before may still hold its memory.
            if self.child.try_wait().unwrap().is_some() {
                self.child = spawn(&self.directory, &self.settings);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _gone = rustix::process::kill_process(pid, signal);
    }

    fn target(&self, database: &str) -> Target {
        Target::unix(&self.directory, self.port, self.superuser, database)
    }

    pub(in super::super) fn url(&self, user: &str, password: &str, database: &str) -> SourceUrl {
        Self::url_at(self.port, user, password, database)
    }

    /// The same through another port.
    pub(in super::super) fn url_at(
        port: u16,
        user: &str,
        password: &str,
        database: &str,
    ) -> SourceUrl {
        format!(
            "postgresql://{user}:{}@127.0.0.1:{port}/{database}?connect_timeout=10",
            password.replace('/', "%2F").replace('@', "%40").replace('?', "%3F"),
        )
        .parse()
        .unwrap()
    }

    pub(in super::super) fn link(&self) -> Link {
        Link {
            connector: "c1".into(),
            source: self.url("postgres", PASSWORD, "app"),
            schemas: Vec::new(),
            excluded: Vec::new(),
            plugin: Plugin::default(),
            slot_wal: SlotWal::default(),
        }
    }

    pub(in super::super) fn access(&self) -> TrunkAccess {
        TrunkAccess { socket_dir: self.directory.clone(), database: "app".into() }
    }

    /// As the superuser, printing values as both sides agree.
    pub(in super::super) async fn session(&self, database: &str) -> Session {
        let target = self.target(database).with_options(crate::source::PINNED_OPTIONS);
        Session::open(&target).await.unwrap()
    }

    pub(in super::super) async fn run(&self, sql: &str) {
        self.run_in("postgres", sql).await;
    }

    pub(in super::super) async fn run_in(&self, database: &str, sql: &str) {
        let session = Session::open(&self.target(database)).await.unwrap();
        if let Err(error) = session.batch_execute(sql).await {
            panic!("{}: {sql}", error.as_db_error().unwrap());
        }
        session.close().await;
    }

    /// One text value.
    pub(in super::super) async fn value(&self, database: &str, sql: &str) -> String {
        let session = self.session(database).await;
        let row = session.query_one(sql, &[]).await.unwrap();
        session.close().await;
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    pub(in super::super) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until a query answers so. Polled: another server's progress is no event of ours.
    pub(in super::super) async fn until(&self, database: &str, sql: &str, expected: &str) {
        let began = Instant::now();
        while self.value(database, sql).await != expected {
            assert!(began.elapsed() < STARTUP_TIMEOUT, "{sql} never answered {expected}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The schema as `pg_dump` prints it, without what differs from run to run or is ours.
    pub(in super::super) fn schema(&self, database: &str) -> Vec<String> {
        let output = command("pg_dump")
            .args(["-h", self.directory.to_str().unwrap(), "-p", &self.port.to_string()])
            .args(["-U", self.superuser, "--schema-only", "--exclude-schema=ardent"])
            .args(["--no-publications", "--no-subscriptions", "--no-tablespaces", database])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let is_ours = |line: &&str| {
            !["--", "\\restrict", "\\unrestrict", "CREATE EVENT TRIGGER ardent", "SET "]
                .iter()
                .any(|start| line.starts_with(start))
                && !line.contains("EVENT TRIGGER ardent")
                && !line.contains("ardent.capture()")
                && !line.trim().is_empty()
        };
        let lines = text.lines().filter(is_ours).map(str::to_owned);
        // The order of an access list says nothing.
        let is_privilege =
            |line: &String| line.starts_with("GRANT ") || line.starts_with("REVOKE ");
        let (mut privileges, mut schema): (Vec<_>, Vec<_>) = lines.partition(is_privilege);
        privileges.sort();
        schema.append(&mut privileges);
        schema
    }

    pub(in super::super) fn pgbench(&self, database: &str, arguments: &[&str]) -> Child {
        command("pgbench")
            .args(["-h", self.directory.to_str().unwrap(), "-p", &self.port.to_string()])
            .args(["-U", self.superuser])
            .args(arguments)
            .arg(database)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

fn copy_data(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from.join("data")).arg(to).status().unwrap();
    assert!(status.success());
}

fn spawn(directory: &Path, settings: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut command = command("postgres");
    command.arg("-D").arg(directory.join("data")).arg("-k").arg(directory);
    for setting in ["max_connections=50", "shared_buffers=64MB", "fsync=off"] {
        command.arg("-c").arg(setting);
    }
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGQUIT ends the children as well, which SIGKILL would leave to notice by themselves.
        self.signal(Signal::QUIT);
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}
