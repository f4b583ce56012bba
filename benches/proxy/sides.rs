//! The ways to the Postgres of one branch: direct, relayed, handed off, through pgbouncer.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::drivers::psql;
use crate::support::processes;
use crate::support::scratch::Scratch;
use crate::support::server::Server;
use crate::support::source::free_port;
use crate::support::wait::eventually;

/// One way.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) url: String,
    /// The process between client and Postgres, whose CPU time is told.
    pub(crate) between: Option<u32>,
    /// The side, by its place, that this one is compared with.
    pub(crate) base: usize,
    /// Another that it is compared with.
    pub(crate) rival: Option<usize>,
}

/// The ways to one branch.
pub(crate) struct Sides {
    pub(crate) all: Vec<Side>,
    /// What stands behind them or between.
    pub(crate) processes: Vec<u32>,
    _pooler: Option<Pooler>,
}

/// A branch whose Postgres listens on TCP too.
struct Branch {
    relay: String,
    direct: String,
    socket: PathBuf,
    owner: (u32, u32),
    admin: String,
    postmaster: u32,
}

impl Branch {
    fn create(server: &Server, name: &str) -> Self {
        let relay = server.branch(name);
        let socket = PathBuf::from(
            server.info(name)["compute_socket"].as_str().expect("the compute's socket"),
        );
        let number: u16 = file_name(&socket).parse().expect("a branch number");
        let [high, low] = number.to_be_bytes();
        let data = server.data_dir().join("mnt").join(number.to_string());
        let admin = format!("host={} user=ardent_system dbname=postgres", socket.display());
        open_tcp(&data, &admin);
        let direct = format!("postgresql://branch_owner:pw@127.77.{high}.{low}:5432/postgres");
        let pid_file = std::fs::read_to_string(data.join("postmaster.pid"));
        let pid_file = pid_file.expect("the compute is awake");
        let postmaster = pid_file.lines().next().and_then(|pid| pid.parse().ok());
        let postmaster = postmaster.expect("its process");
        Self { relay, direct, owner: owner_of(&data), socket, admin, postmaster }
    }
}

impl Sides {
    /// Direct, relayed and pooled, with and without TLS.
    pub(crate) fn relayed(server: &Server) -> Self {
        let Branch { relay, direct, socket, owner, admin, postmaster } =
            Branch::create(server, "relayed");
        let scratch = Scratch::new("bench");
        own_tls(scratch.path(), owner, &admin);
        let (pooler, pooled) = pooler(scratch, owner, &socket);
        let ca = server.data_dir().join("tls/ca.crt");
        let relay_tls = format!("{relay}?sslmode=verify-ca&sslrootcert={}", ca.display());
        let processes = vec![server.pid(), pooler.child.id(), postmaster];
        let (server, pgbouncer) = (Some(server.pid()), Some(pooler.child.id()));
        let plain = |url: &str| format!("{url}?sslmode=disable");
        let side = |name, url, between, base| Side { name, url, between, base, rival: None };
        let all = vec![
            side("direct TCP", plain(&direct), None, 0),
            Side { rival: Some(2), ..side("relay", plain(&relay), server, 0) },
            side("pgbouncer", pooled, pgbouncer, 0),
            side("direct TLS", format!("{direct}?sslmode=require"), None, 3),
            side("relay TLS", relay_tls, server, 3),
        ];
        Self { all, processes, _pooler: Some(pooler) }
    }

    /// Direct and handed off.
    pub(crate) fn handed_off(server: &Server) -> Self {
        let Branch { relay, direct, postmaster, .. } = Branch::create(server, "handedoff");
        let side = |name, url, between| Side {
            name,
            url: format!("{url}?sslmode=disable"),
            between,
            base: 0,
            rival: None,
        };
        let all =
            vec![side("direct TCP", direct, None), side("handed off", relay, Some(server.pid()))];
        Self { all, processes: vec![server.pid(), postmaster], _pooler: None }
    }
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
