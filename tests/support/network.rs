//! A private network: a namespace with a source on its loopback, and an sshd and a SOCKS server that
//! can be reached from outside. Needs root, as network namespaces do.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::cli::{bounded, run};
use super::scratch::Scratch;
use super::wait::eventually;

/// Ended and removed when dropped.
pub(crate) struct Network {
    name: String,
    /// Where its servers are reached from outside.
    address: String,
    servers: Vec<Child>,
    scratch: Scratch,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

const SSH_PORT: u16 = 2222;
const SOCKS_PORT: u16 = 1080;

impl Network {
    pub(crate) fn start() -> Self {
        let scratch = Scratch::new("network");
        let own = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 250;
        let name = format!("ardent-{}-{own}", std::process::id());
        let address = format!("10.213.{own}.2");
        let network = Self { name, address, servers: Vec::new(), scratch };
        let (name, inside, outside) = (&network.name, format!("ar{own}i"), format!("ar{own}o"));
        for words in [
            format!("netns add {name}"),
            format!("link add {outside} type veth peer name {inside} netns {name}"),
            format!("addr add 10.213.{own}.1/30 dev {outside}"),
            format!("link set {outside} up"),
            format!("-n {name} addr add {}/30 dev {inside}", network.address),
            format!("-n {name} link set {inside} up"),
            format!("-n {name} link set lo up"),
        ] {
            run(bounded("ip").args(words.split(' '))).ok();
        }
        network.with_servers()
    }

    /// A program that runs inside.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command
    }

    pub(crate) fn ssh_url(&self) -> String {
        format!("ssh://root@{}:{SSH_PORT}", self.address)
    }

    pub(crate) fn socks_url(&self) -> String {
        format!("socks5://ardent:s3cret@{}:{SOCKS_PORT}", self.address)
    }

    /// The private key that the sshd lets in.
    pub(crate) fn key(&self) -> PathBuf {
        self.scratch.path().join("user")
    }

    /// A line of `known_hosts` for the sshd.
    pub(crate) fn known_host(&self) -> String {
        let key = std::fs::read_to_string(self.scratch.path().join("host.pub"));
        format!("[{}]:{SSH_PORT} {}", self.address, key.expect("read the host's key"))
    }

    /// Connections that go through the sshd now.
    pub(crate) fn ssh_sessions(&self) -> usize {
        let mut command = self.command("ss");
        let shown = run(command.args(["-Htn", "state", "established"])).ok();
        shown.lines().filter(|line| line.contains(&format!("{}:{SSH_PORT}", self.address))).count()
    }

    fn with_servers(mut self) -> Self {
        let path = |name: &str| self.scratch.path().join(name);
        for name in ["host", "user"] {
            let mut keygen = bounded("ssh-keygen");
            run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(name))).ok();
        }
        let settings = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPermitRootLogin yes\n\
             UsePAM no\nPidFile none\nAllowTcpForwarding yes\n",
            path("host").display(),
            path("user.pub").display(),
        );
        std::fs::write(path("sshd.conf"), settings).expect("write sshd.conf");
        std::fs::create_dir_all("/run/sshd").expect("the folder sshd insists on");
        let mut sshd = self.command("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-p", &SSH_PORT.to_string(), "-o"]);
        sshd.arg(format!("ListenAddress={}", self.address)).arg("-f").arg(path("sshd.conf"));
        let mut socks = self.command("microsocks");
        socks.args(["-i", &self.address, "-p", &SOCKS_PORT.to_string()]);
        socks.args(["-u", "ardent", "-P", "s3cret"]);
        for mut server in [sshd, socks] {
            server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            self.servers.push(server.spawn().expect("start a server of the network"));
        }
        for port in [SSH_PORT, SOCKS_PORT] {
            let place = (self.address.as_str(), port);
            eventually(Duration::from_secs(10), "the network's servers listen", || {
                std::net::TcpStream::connect(place).ok()
            });
        }
        self
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // One that ended by itself has failed its test already.
            drop(server.kill());
            drop(server.wait());
        }
        run(bounded("ip").args(["netns", "delete", &self.name]));
    }
}
