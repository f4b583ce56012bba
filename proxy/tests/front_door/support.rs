//! A real Postgres, a front door before it, and stand-ins for the router and the admin commands.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::{Duration, Instant};

use proxy::{
    Answer, Backend, Column, ColumnKind, Console, ConsoleSession, Description, Limits, Listener,
    LivePolicy, Notice, NoticeSender, Policy, Refusal, Route, ScramVerifier, Sessions, Settings,
    Statement, Stop, TransactionEffect, Value,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A Postgres of its own with trust on a unix socket. Ends with its last user.
pub(crate) struct Postgres {
    dir: PathBuf,
    server: Child,
}

impl Postgres {
    /// The one that all tests of this process share.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shared.upgrade().unwrap_or_else(|| {
            let postgres = Arc::new(Self::start());
            *shared = Arc::downgrade(&postgres);
            postgres
        })
    }

    pub(crate) fn start() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("proxy-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let data = dir.join("data");
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&dir).status().unwrap();
            assert!(owned.success());
        }
        let initdb = as_postgres(&format!("{BIN}/initdb"))
            .args(["-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(initdb.unwrap().success(), "initdb");
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let preloaded = if crate::HANDOFF { library(&dir) } else { PathBuf::new() };
        let mut server = as_postgres("env");
        server.arg(format!("LD_PRELOAD={}", preloaded.display()));
        let server = server
            .arg(Path::new(BIN).join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&dir)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300"])
            // Nobody else sees the end of a client that was handed off.
            .args(["-c", "client_connection_check_interval=100ms"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let postgres = Self { dir, server };
        let deadline = Instant::now() + Duration::from_secs(60);
        // Postgres says that it is ready only in its log or its pid file: nothing to wait on.
        while std::os::unix::net::UnixStream::connect(postgres.socket()).is_err()
            || !postgres.psql("postgres", "create role app login").status.success()
        {
            assert!(Instant::now() < deadline, "postgres does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(postgres.psql("postgres", "create database shop").status.success());
        postgres
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join(".s.PGSQL.5432")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn psql(&self, user: &str, sql: &str) -> std::process::Output {
        Command::new("psql")
            .args(["-XAtq", "-p", "5432", "-U", user, "-d", "postgres", "-c", sql, "-h"])
            .arg(&self.dir)
            .output()
            .unwrap()
    }

    /// A value, over a connection that does not pass the front door.
    pub(crate) fn value(&self, sql: &str) -> String {
        let output = self.psql("postgres", sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until a query has a certain value: the state of other processes can only be polled.
    pub(crate) async fn eventually(&self, sql: &str, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.value(sql) != wanted {
            assert!(Instant::now() < deadline, "{sql}: {} instead of {wanted}", self.value(sql));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until a condition of ours holds that no message announces.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let pid = i32::try_from(self.server.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::QUIT).unwrap();
        self.server.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Where the library lies by which backends take over their clients.
fn library(dir: &Path) -> PathBuf {
    let path = dir.join("handoff.so");
    std::fs::write(&path, proxy::HANDOFF_LIBRARY).unwrap();
    path
}

fn as_postgres(program: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command
}

/// Endpoints `b1` and `b2` lead to one Postgres; role `app` has password `secret`.
pub(crate) struct TestRoute {
    socket: PathBuf,
    pub(crate) verifiers: RwLock<HashMap<String, ScramVerifier>>,
    pub(crate) wakes: AtomicUsize,
    /// Wakes return while this is true.
    pub(crate) awake: watch::Sender<bool>,
    pub(crate) refusal: Mutex<Option<Refusal>>,
    /// Sessions whose guard is alive.
    pub(crate) in_use: Arc<AtomicUsize>,
}

struct InUse(Arc<AtomicUsize>);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TestRoute {
    pub(crate) fn to(socket: PathBuf) -> Arc<Self> {
        let verifier = |password| ScramVerifier::from_password(password).unwrap();
        let verifiers = [("app", "secret"), ("postgres", "master")];
        let verifiers = verifiers.map(|(role, password)| (role.to_owned(), verifier(password)));
        Arc::new(Self {
            socket,
            verifiers: RwLock::new(verifiers.into()),
            wakes: AtomicUsize::new(0),
            awake: watch::Sender::new(true),
            refusal: Mutex::new(None),
            in_use: Arc::default(),
        })
    }
}

impl Route for TestRoute {
    fn is_endpoint(&self, name: &str) -> bool {
        matches!(name, "b1" | "b2")
    }

    async fn verifier(&self, _: &str, role: &str) -> Result<Option<ScramVerifier>, Refusal> {
        Ok(self.verifiers.read().unwrap().get(role).cloned())
    }

    async fn wake(&self, _: &str, _: &str) -> Result<Backend, Refusal> {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        self.awake.subscribe().wait_for(|awake| *awake).await.unwrap();
        self.in_use.fetch_add(1, Ordering::SeqCst);
        let session = Box::new(InUse(Arc::clone(&self.in_use)));
        Ok(Backend { socket: self.socket.clone(), session })
    }

    fn compute_of(&self, _: i32) -> Option<PathBuf> {
        Some(self.socket.clone())
    }
}

/// Understands a handful of statements; see `answer`.
pub(crate) struct TestConsole {
    /// Statements that ended by being dropped.
    pub(crate) dropped: Arc<AtomicUsize>,
}

struct CountDrop(Arc<AtomicUsize>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) const KINDS: [(&str, ColumnKind); 5] = [
    ("name", ColumnKind::Text),
    ("size", ColumnKind::Int8),
    ("ready", ColumnKind::Bool),
    ("share", ColumnKind::Float8),
    ("made", ColumnKind::Timestamptz),
];

impl Console for TestConsole {
    async fn verifier(&self, role: &str) -> Option<ScramVerifier> {
        (role == "op").then(|| ScramVerifier::from_password("pw").unwrap())
    }

    fn describe(&self, sql: &str) -> Result<Vec<Description>, Refusal> {
        let mut start = 0;
        let mut descriptions = Vec::new();
        for text in sql.split(';') {
            let span = start..start + text.len();
            start = span.end + 1;
            let columns = match text.trim() {
                "" => continue,
                "SELECT 1" => vec![Column::new("one", ColumnKind::Int8)],
                "KINDS" => KINDS.map(|(name, kind)| Column::new(name, kind)).into(),
                "ECHO $1" => vec![Column::new("echo", ColumnKind::Text)],
                "BEGIN" | "START TRANSACTION" | "COMMIT" | "ROLLBACK" | "PROGRESS" | "FOREVER"
                | "FAIL" => vec![],
                _ => {
                    let before = sql[..span.end - text.trim_start().len()].chars().count();
                    let position = u32::try_from(before).unwrap() + 1;
                    return Err(Refusal::error("42601", "syntax error")
                        .with_hint("Did you mean \"SELECT\"?")
                        .with_detail("Expected a statement.")
                        .at(position));
                }
            };
            descriptions.push(Description {
                span,
                parameters: usize::from(text.contains('$')),
                columns,
                effect: match text.trim() {
                    "BEGIN" | "START TRANSACTION" => TransactionEffect::Begin,
                    "COMMIT" | "ROLLBACK" => TransactionEffect::End,
                    _ => TransactionEffect::None,
                },
            });
        }
        Ok(descriptions)
    }

    async fn run(
        &self,
        session: &ConsoleSession,
        statement: Statement<'_>,
        notices: NoticeSender,
    ) -> Result<Answer, Refusal> {
        assert!(!session.role.is_empty());
        let columns = |description: Vec<Description>| description[0].columns.clone();
        let columns = columns(self.describe(statement.text).unwrap());
        let rows = match statement.text.trim() {
            "SELECT 1" => vec![vec![Value::Int8(1)]],
            "KINDS" => {
                let made = std::time::UNIX_EPOCH + Duration::from_millis(1_709_164_800_250);
                let full = [
                    Value::Text("b1".into()),
                    Value::Int8(42),
                    Value::Bool(true),
                    Value::Float8(0.25),
                    Value::Timestamptz(made),
                ];
                vec![full.into(), vec![Value::Null; 5]]
            }
            "ECHO $1" => {
                let given = statement.parameters[0].clone();
                vec![vec![given.map_or(Value::Null, Value::Text)]]
            }
            "PROGRESS" => {
                for step in ["one", "two", "three"] {
                    notices.send(Notice::info(step)).await;
                }
                vec![]
            }
            "FOREVER" => {
                let _count = CountDrop(Arc::clone(&self.dropped));
                notices.send(Notice::notice("begun")).await;
                std::future::pending().await
            }
            "FAIL" => return Err(Refusal::error("55000", "it failed").at(2)),
            _ => vec![],
        };
        let tag = statement.text.split_whitespace().next().unwrap().to_owned();
        Ok(Answer { tag, columns, rows })
    }
}

/// A running front door.
pub(crate) struct Door {
    pub(crate) postgres: Arc<Postgres>,
    pub(crate) route: Arc<TestRoute>,
    pub(crate) console: Arc<TestConsole>,
    pub(crate) settings: Settings,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) address: SocketAddr,
    pub(crate) unix_socket: PathBuf,
    pub(crate) stop: Stop,
    pub(crate) server: tokio::task::JoinHandle<()>,
}

impl Door {
    pub(crate) async fn open() -> Self {
        Self::with_limits(Limits::default()).await
    }

    pub(crate) async fn with_limits(limits: Limits) -> Self {
        Self::with_policy(Policy { limits, ..Policy::default() }).await
    }

    pub(crate) async fn with_policy(policy: Policy) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let postgres = tokio::task::spawn_blocking(Postgres::shared).await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let unix_socket = postgres.dir().join(format!(".s.PGSQL.{}", 7000 + number));
        let unix = UnixListener::bind(&unix_socket).unwrap();
        let route = TestRoute::to(postgres.socket());
        let console = Arc::new(TestConsole { dropped: Arc::default() });
        let stop = Stop::new();
        let policy = Policy { handoff: policy.handoff || crate::HANDOFF, ..policy };
        let settings = Settings::new(LivePolicy::new(policy), [9; 32]);
        let sessions = Arc::clone(&settings.sessions);
        let serving = proxy::serve(
            vec![Listener::tcp(tcp), Listener::unix(unix)],
            Arc::clone(&route),
            Arc::clone(&console),
            settings.clone(),
            stop.clone(),
        );
        let server = tokio::spawn(serving.unwrap());
        Self { postgres, route, console, settings, sessions, address, unix_socket, stop, server }
    }

    /// A tokio-postgres client of `b1`.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        self.connect(|config| config.user("app.b1").password("secret").dbname("shop"))
            .await
            .unwrap()
    }

    pub(crate) async fn connect(
        &self,
        configure: impl FnOnce(&mut tokio_postgres::Config) -> &mut tokio_postgres::Config,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.address.port());
        configure(&mut config);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Stops the door; fails if it does not end in time.
    pub(crate) async fn close(self) {
        self.stop.sessions.cancel();
        within(self.server).await.unwrap();
    }
}

/// Fails a test that hangs.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work).await.expect("within 30 s")
}
