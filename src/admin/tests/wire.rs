//! CLI, front door and console together, over a real unix socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use proxy::client::{Session, Target};
use proxy::{Backend, Listener, LivePolicy, Policy, Refusal, Route, ScramVerifier, Settings, Stop};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use super::fake::Fake;
use crate::admin::console::AdminConsole;
use crate::cli::{self, args::Cli};

/// There is no endpoint: everything goes to the console.
struct Nowhere;

impl Route for Nowhere {
    fn compute_of(&self, _: i32) -> Option<PathBuf> {
        None
    }

    fn is_endpoint(&self, _: &str) -> bool {
        false
    }

    async fn verifier(&self, _: &str, _: &str) -> Result<Option<ScramVerifier>, Refusal> {
        Ok(None)
    }

    async fn wake(&self, endpoint: &str, _: &str) -> Result<Backend, Refusal> {
        Err(Refusal::fatal("08004", format!("no endpoint {endpoint}")))
    }
}

/// A front door in a data directory of its own.
struct Door {
    data_dir: PathBuf,
    stop: Stop,
    served: JoinHandle<()>,
}

impl Door {
    fn open() -> Self {
        let data_dir = std::env::temp_dir().join(format!("ardent-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(data_dir.join("run")).unwrap();
        let listener = UnixListener::bind(data_dir.join("run/.s.PGSQL.6432")).unwrap();
        let settings = Settings::new(LivePolicy::new(Policy::default()), [7; 32]);
        let console = Arc::new(AdminConsole::new(Arc::new(Fake::default())));
        let stop = Stop::new();
        let listeners = vec![Listener::unix(listener)];
        let serve = proxy::serve(listeners, Arc::new(Nowhere), console, settings, stop.clone());
        let serve = serve.unwrap();
        Self { data_dir, stop, served: tokio::spawn(serve) }
    }

    /// Runs `ardent <args>`; the exit code.
    async fn ardent(&self, args: &[&str]) -> u8 {
        ardent(&self.data_dir, args).await
    }

    async fn close(self) {
        self.stop.sessions.cancel();
        self.served.await.unwrap();
        std::fs::remove_dir_all(&self.data_dir).unwrap();
    }
}

async fn ardent(data_dir: &Path, args: &[&str]) -> u8 {
    let data_dir = data_dir.to_str().unwrap();
    let words = ["ardent"].into_iter().chain(args.iter().copied());
    let Cli { global, command } =
        Cli::try_parse_from(words.chain(["--data-dir", data_dir])).unwrap();
    cli::run(&global, &command).await
}

const SOUND: &str = "postgresql://u:p@db.example.com/app";
const UNSOUND: &str = "postgresql://u:p@db.example.com/replica";

/// Every verb's statement is one the console takes, and ends as documented.
#[tokio::test(flavor = "multi_thread")]
async fn verbs_end_with_the_documented_exit_code() {
    let door = Door::open();
    let create = ["connector", "create", "PostgreSQL", SOUND, "--name", "prod"];
    let accept = "--accept-replica-identity-defaults";
    let sessions: [(&[&str], u8); 38] = [
        (&["connector", "preflight", "postgresql", SOUND, "--schemas", "public"], 0),
        (&["connector", "preflight", "postgresql", UNSOUND], 2),
        (&["connector", "preflight", "postgresql", "nonsense"], 2),
        (&["connector", "create", "postgresql", UNSOUND, "--format", "json"], 2),
        (&create, 1),
        (&[create.as_slice(), &[accept]].concat(), 0),
        (&["connector", "list"], 0),
        (&["connector", "status", "prod-db", "--format", "json"], 0),
        (&["connector", "switch", "staging-db"], 0),
        (&["connector", "retry-setup", "prod-db", accept], 0),
        (&["connector", "update", "prod-db", "--drop-extensions", ""], 0),
        (&["connector", "lock", "prod-db", "--reason", "it's ours"], 0),
        (&["connector", "unlock", "prod-db"], 0),
        (&["connector", "quarantine", "list", "prod-db"], 0),
        (&["connector", "quarantine", "release", "prod-db", "public.a"], 0),
        (&["connector", "quarantine", "release", "prod-db", "public.b"], 1),
        (&["branch", "create", "a", "--max-size", "10GB", "--role", "app"], 0),
        (&["branch", "create", "a_b"], 2),
        (&["branch", "create", "b", "--from", "a", "--print-url"], 0),
        (&["branch", "list"], 0),
        (&["branch", "info", "a"], 0),
        (&["branch", "info", "absent", "--print-url"], 1),
        (&["branch", "switch", "a"], 0),
        (&["branch", "rotate-password", "a"], 0),
        (&["connector", "delete", "prod-db"], 1),
        (&["branch", "delete", "a"], 0),
        (&["connector", "delete", "prod-db", "--force"], 0),
        (&["show", "sessions"], 0),
        (&["settings", "list"], 0),
        (&["settings", "set", "default_db", "app"], 0),
        (&["settings", "set", "branch_sql", "select 1", "--hook", "a", "--order", "2"], 0),
        (&["settings", "set", "defualt_db", "app"], 2),
        (&["settings", "remove", "branch_sql", "--hook", "absent"], 1),
        (&["environment", "create", "env_1", "socks5://h:1"], 0),
        (&["environment", "delete", "env_1"], 1),
        (&["private-link", "create", "l", "--environment-id", "env_1", "--endpoint", "h:1"], 0),
        (&["private-link", "list"], 0),
        (&["sql", "ARDENT HELP BRANCH"], 0),
    ];
    for (arguments, expected) in sessions {
        assert_eq!(door.ardent(arguments).await, expected, "{arguments:?}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drivers_get_notices_types_and_positions() {
    let door = Door::open();
    let target = Target::unix(door.data_dir.join("run"), 6432, "root", "ardent");
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    let on_notice = move |notice| drop(sender.send(notice));
    let session = Session::open_with_notices(&target, on_notice).await.unwrap();
    let text = "ARDENT CONNECTOR PREFLIGHT postgresql $1 WITH (schemas = $2)";
    let rows = session.query(text, &[&SOUND, &"public"]).await.unwrap();
    assert_eq!(rows[0].get::<_, i64>("ordinal"), 1);
    assert_eq!(rows[0].get::<_, &str>("name"), "wal level");
    let header = notices.recv().await.unwrap().message;
    assert_eq!(header, "Running preflight against db.example.com:5432\u{2026}");
    let error = session.simple_query("SELECT 1; ARDENT BRANCH CRAETE a").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "42601");
    let position = tokio_postgres::error::ErrorPosition::Original(25);
    assert_eq!(error.position(), Some(&position));
    assert_eq!(error.hint(), Some("Did you mean \"CREATE\"?"));
    session.batch_execute("BEGIN; SET a = 'b'; SELECT version(); COMMIT").await.unwrap();
    session.close().await;
    door.close().await;
}

#[tokio::test]
async fn without_a_server_the_verb_fails() {
    let nowhere = std::env::temp_dir().join("ardent-of-nobody");
    assert_eq!(ardent(&nowhere, &["branch", "list"]).await, 1);
}
