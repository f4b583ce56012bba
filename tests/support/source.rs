//! A throw-away Postgres that plays the customer's production database.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::cli::{bounded, run};
use super::drivers::psql;
use super::network::Network;
use super::processes;
use super::scratch::Scratch;
use super::wait::eventually;

/// The account that the Debian package makes; initdb and postgres refuse to run as root.
const ACCOUNT: &str = "postgres";
const PASSWORD: &str = "source pa%ss";
const PASSWORD_IN_URL: &str = "source%20pa%25ss";
/// Below the range that the kernel hands out, so no outgoing connection takes the port meanwhile.
const FIRST_PORT: u16 = 15_000;

/// Stopped and removed when dropped.
pub(crate) struct Source {
    postmaster: Child,
    port: u16,
    bin: PathBuf,
    scratch: Scratch,
}

impl Source {
    /// A source that Ardent can follow.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// A source with settings of its own, which override those that Ardent needs.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        Self::begin(bin_dir(), settings)
    }

    /// A source of the major whose programs are here.
    pub(crate) fn of(bin: PathBuf) -> Self {
        Self::begin(bin, &[])
    }

    fn begin(bin: PathBuf, settings: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new("source");
        let port = free_port();
        initdb(&bin, scratch.path());
        configure(&bin, &scratch, settings);
        let postmaster = postmaster(&bin, scratch.path(), port);
        let source = Self { postmaster, port, bin, scratch };
        source.wait_ready();
        source
    }

    /// A source on the loopback of a private network, with TLS as `db.internal`. Its unix socket is
    /// reached from here as ever.
    pub(crate) fn within(network: &Network) -> Self {
        let scratch = Scratch::new("source");
        let bin = bin_dir();
        let port = free_port();
        initdb(&bin, scratch.path());
        let data = scratch.path().join("data");
        let mut openssl = as_account(PathBuf::from("openssl"));
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
        openssl.args(["-subj", "/CN=db.internal", "-addext", "subjectAltName=DNS:db.internal"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(data.join("server.key"));
        run(openssl.arg("-out").arg(data.join("server.crt"))).ok();
        configure(&bin, &scratch, &[("ssl", "on")]);
        let inside = network.command(as_account(PathBuf::new()).get_program());
        let postmaster = postmaster_as(inside, &bin, scratch.path(), port);
        let source = Self { postmaster, port, bin, scratch };
        source.wait_ready();
        source
    }

    /// A read replica of this source, streaming from it.
    pub(crate) fn standby(&self) -> Self {
        let scratch = Scratch::new("standby");
        give_to_account(scratch.path());
        let mut backup = as_account(self.bin.join("pg_basebackup"));
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        backup.args(["--host=127.0.0.1", "--username=postgres", &format!("--port={}", self.port)]);
        backup.arg("--pgdata").arg(scratch.path().join("data")).env("PGPASSWORD", PASSWORD);
        run(&mut backup).ok();
        let port = free_port();
        let postmaster = postmaster(&self.bin, scratch.path(), port);
        let standby = Self { postmaster, port, bin: self.bin.clone(), scratch };
        standby.wait_ready();
        let streams = "select status from pg_stat_wal_receiver";
        eventually(Duration::from_secs(30), "the standby streams", || {
            (standby.sql(streams) == "streaming").then_some(())
        });
        standby
    }

    /// The certificate that a source within a private network shows.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.scratch.path().join("data/server.crt")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Where all of it lives.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The superuser's URL over TCP with its password, of database `postgres`.
    pub(crate) fn url(&self) -> String {
        self.url_as("postgres", PASSWORD_IN_URL)
    }

    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        format!("postgresql://{role}:{password}@127.0.0.1:{}/postgres", self.port)
    }

    /// Shows this certificate from now on; both in PEM.
    pub(crate) fn show_certificate(&self, certificate: &str, key: &str) {
        let data = self.scratch.path().join("data");
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = data.join(name);
            std::fs::write(&path, text).expect("write a certificate");
            give_to_account(&path);
            run(bounded("chmod").arg("600").arg(&path)).ok();
        }
        self.sql("alter system set ssl = on");
        self.sql("select pg_reload_conf()");
    }

    /// Runs SQL as the superuser over the private socket and returns the rows, `|` between columns.
    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> String {
        psql(&self.socket_url(), sql).ok()
    }

    /// Fills the standard pgbench tables. `pgbench_history` has no key; a customer who wants its
    /// updates followed has to say so, as here.
    pub(crate) fn pgbench(&self, scale: u32) {
        let mut command = bounded(self.bin.join("pgbench"));
        command.args(["--initialize", "--quiet", "--scale", &scale.to_string()]);
        run(command.arg(self.socket_url())).ok();
        self.sql("alter table pgbench_history replica identity full");
    }

    /// Stops the source as an administrator does, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.postmaster = postmaster(&self.bin, self.scratch.path(), self.port);
        self.wait_ready();
    }

    /// What Ardent has left on this source: slots, publications, event triggers, its schema.
    pub(crate) fn traces(&self) -> String {
        self.sql(
            "select 'slot ' || slot_name from pg_replication_slots
             union all select 'publication ' || pubname from pg_publication
             union all select 'event trigger ' || evtname from pg_event_trigger
             union all select 'schema ' || nspname from pg_namespace where nspname = 'ardent'
             union all select 'walsender ' || pid from pg_stat_replication",
        )
    }

    pub(crate) fn socket_url(&self) -> String {
        let directory = self.directory().display();
        format!("postgresql:///postgres?host={directory}&port={}&user=postgres", self.port)
    }

    /// Whether this machine's Postgres has an allow-list of output plugins at all.
    pub(crate) fn knows_output_plugin_libraries() -> bool {
        let scratch = Scratch::new("probe");
        initdb(&bin_dir(), scratch.path());
        knows_output_plugin_libraries(&bin_dir(), &scratch.path().join("data"))
    }

    pub(crate) fn stop(&mut self) {
        if self.postmaster.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        processes::signal(self.postmaster.id(), Signal::INT);
        if processes::wait_for(&mut self.postmaster, Duration::from_secs(10)).is_none() {
            eprintln!("the source did not stop in time and was killed");
        }
    }

    fn wait_ready(&self) {
        let url = self.socket_url();
        eventually(Duration::from_secs(30), "the source accepts connections", || {
            (psql(&url, "select 1").code == 0).then_some(())
        });
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The newest Postgres below the directory where Debian keeps them.
fn bin_dir() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("a Postgres: run make setup");
    let bins = versions.flatten().map(|version| version.path().join("bin"));
    bins.filter(|bin| bin.join("initdb").exists()).max().expect("a Postgres: run make setup")
}

/// A port nobody listens on now. Each call and each test process starts from another one.
pub(crate) fn free_port() -> u16 {
    static OFFSET: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 150).expect("below 150") * 100;
    loop {
        let port = FIRST_PORT + own + OFFSET.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A command that runs as the account Postgres accepts; its pid is the program's own.
fn as_account(program: PathBuf) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"]).arg(program);
    command
}

/// Lets the account make its data directory and its socket in `scratch`.
pub(crate) fn give_to_account(scratch: &Path) {
    if rustix::process::geteuid().is_root() {
        run(bounded("chown").arg(ACCOUNT).arg(scratch)).ok();
    }
}

fn initdb(bin: &Path, scratch: &Path) {
    give_to_account(scratch);
    let password = scratch.join("password");
    std::fs::write(&password, PASSWORD).expect("write the password file");
    let mut command = as_account(bin.join("initdb"));
    command.arg("--pgdata").arg(scratch.join("data")).arg("--pwfile").arg(password);
    command.args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]);
    run(command.args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"])).ok();
}

/// Debian's current Postgres loads an output plugin only when this setting names it; older
/// servers do not know the setting.
fn knows_output_plugin_libraries(bin: &Path, data: &Path) -> bool {
    let mut command = as_account(bin.join("postgres"));
    let answer = run(command.args(["-C", "output_plugin_libraries", "-D"]).arg(data));
    answer.code == 0
}

fn configure(bin: &Path, scratch: &Scratch, settings: &[(&str, &str)]) {
    let data = scratch.path().join("data");
    let mut lines = vec![
        "listen_addresses = '127.0.0.1'".to_owned(),
        "wal_level = logical".to_owned(),
        "max_replication_slots = 10".to_owned(),
        "max_wal_senders = 10".to_owned(),
        "shared_buffers = 64MB".to_owned(),
        // The source is scenery: what it would survive is not under test.
        "fsync = off".to_owned(),
    ];
    if knows_output_plugin_libraries(bin, &data) {
        let line = "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'";
        lines.push(line.to_owned());
    }
    lines.extend(settings.iter().map(|(name, value)| format!("{name} = '{value}'")));
    let path = data.join("postgresql.conf");
    let mut text = std::fs::read_to_string(&path).expect("read postgresql.conf");
    text.push_str(&lines.join("\n"));
    text.push('\n');
    std::fs::write(&path, text).expect("write postgresql.conf");
}

/// Starts Postgres on `data` below `scratch`, with its socket there.
pub(crate) fn postmaster(bin: &Path, scratch: &Path, port: u16) -> Child {
    let mut command = as_account(bin.join("postgres"));
    listen(&mut command, scratch, port);
    command.spawn().expect("start the source")
}

/// The same, started by a program that brings it to another place.
fn postmaster_as(mut command: Command, bin: &Path, scratch: &Path, port: u16) -> Child {
    command.args(["--reuid", ACCOUNT, "--regid", ACCOUNT, "--init-groups"]);
    command.arg(bin.join("postgres"));
    listen(&mut command, scratch, port);
    command.spawn().expect("start the source")
}

fn listen(command: &mut Command, scratch: &Path, port: u16) {
    let log = std::fs::File::create(scratch.join("log")).expect("create the source's log");
    command.arg("-D").arg(scratch.join("data")).arg("-k").arg(scratch);
    command.args(["-p", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
}
