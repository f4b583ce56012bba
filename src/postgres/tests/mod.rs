//! Tests against the real binaries, on plain directories. They run as root with a uid per compute,
//! as the server does, or as an ordinary user without.

mod lifecycle;
mod log_beside;
mod role_model;
mod spare;

use std::fs;
use std::future::ready;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres_protocol::escape::escape_identifier;
use rustix::process::geteuid;
use tokio_postgres::{Client, Config, NoTls};

use super::{
    Account, Compute, ComputeKind, ComputeSpec, Installation, PostgresError, Session, Template,
    TemplateSpec, find, prepare_database,
};

/// A directory with a fresh trunk in it, removed with everything that runs there.
struct Site {
    root: PathBuf,
    account: Option<Account>,
    installation: Installation,
}

impl Site {
    async fn with_database(database: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("compute-{}-{number}", std::process::id()));
        for directory in ["mnt", "wal", "run", "log"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for directory in ["", "mnt", "wal", "run"] {
            fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o711)).unwrap();
        }
        // Pids are below 2^22, so parallel test processes get uids of their own.
        let uid = 700_000 + std::process::id() * 16 + number;
        let account = geteuid().is_root().then_some(Account { uid, gid: uid });
        let installation = find(&[]).pop().expect("the tests need a PostgreSQL");
        let site = Self { root, account, installation };
        let template = Template::make(site.template()).await.unwrap();
        template.place(site.data_dir(), site.account).await.unwrap();
        site.create_database(database).await;
        site
    }

    fn template(&self) -> TemplateSpec {
        TemplateSpec {
            installation: self.installation.clone(),
            scratch_dir: self.root.join("run/template"),
            user: "postgres".to_owned(),
        }
    }

    /// As a first copy does it, with the log where `initdb` left it.
    async fn create_database(&self, name: &str) {
        let spec = ComputeSpec { wal_dir: None, ..self.compute(ComputeKind::Load) };
        let loading = start(spec).await.unwrap();
        let system = Session::system(loading.socket_dir()).await.unwrap();
        if name != "postgres" {
            let create = format!("CREATE DATABASE {}", escape_identifier(name));
            system.client().batch_execute(&create).await.unwrap();
        }
        let own = Session::connect(loading.socket_dir(), name).await.unwrap();
        prepare_database(&own, name).await.unwrap();
        drop((system, own));
        loading.stop().await.unwrap();
    }

    fn data_dir(&self) -> PathBuf {
        self.root.join("mnt/7")
    }

    fn compute(&self, kind: ComputeKind) -> ComputeSpec {
        ComputeSpec {
            installation: self.installation.clone(),
            data_dir: self.data_dir(),
            wal_dir: Some(self.root.join("wal/7")),
            socket_dir: self.root.join("run/7"),
            log_file: self.root.join("log/compute-7.log"),
            state_file: self.root.join("run/7.compute"),
            account: self.account,
            kind,
            database: "app".to_owned(),
            preload: None,
            settings: Vec::new(),
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(20),
        }
    }

    async fn start(&self) -> Compute {
        start(self.compute(ComputeKind::Branch)).await.unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}

async fn start(spec: ComputeSpec) -> Result<Compute, PostgresError> {
    Compute::start(spec, &Arc::default(), ready(())).await
}

/// Logs in as a client would behind the front door.
async fn login(socket_dir: &Path, role: &str, database: &str) -> Client {
    let mut config = Config::new();
    config.host_path(socket_dir).user(role).dbname(database);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
