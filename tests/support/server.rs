//! `ardent serve` in a data directory of its own, stopped and checked for leftovers when dropped.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::cli::{ARDENT, Ran, ardent, bounded, run};
use super::processes::{self, Process};
use super::scratch::Scratch;
use super::source::{Source, free_port};
use super::wait::eventually;

/// A start that adopts a running store and computes, or recovers them, fits in this.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Option<Child>,
    port: u16,
    scratch: Scratch,
    /// Hosts to listen on.
    hosts: Vec<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts with these sections in the configuration file.
    pub(crate) fn start_with(settings: &str) -> Self {
        Self::begin(settings, &["127.0.0.1"])
    }

    /// Starts on these hosts.
    pub(crate) fn listening_on(hosts: &[&str]) -> Self {
        Self::begin("", hosts)
    }

    fn begin(settings: &str, hosts: &[&str]) -> Self {
        let scratch = Scratch::new("server");
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut server = Self { child: None, port: free_port(), scratch, hosts };
        server.reconfigure(settings);
        server.start_again();
        server
    }

    /// Writes the configuration file.
    pub(crate) fn reconfigure(&self, settings: &str) {
        configure(&self.config(), self.port, settings);
    }

    /// Starts the server on the same data directory and port, after it was stopped or killed.
    pub(crate) fn start_again(&mut self) {
        let mut child = self.serve(&[]);
        let ready = first_line(&mut child);
        assert_eq!(ready.as_deref(), Some("ready"), "{}", self.log_text());
        self.child = Some(child);
    }

    /// A second server takes the place of the running one. Returns the old one, which ends once
    /// its sessions have.
    pub(crate) fn take_over(&mut self) -> OldServer {
        let mut child = self.serve(&["--takeover"]);
        let ready = first_line(&mut child);
        assert_eq!(ready.as_deref(), Some("ready"), "{}", self.log_text());
        OldServer(self.child.replace(child).expect("a running server"))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The admin database over the unix socket, where root is admin without a password.
    pub(crate) fn console_url(&self) -> String {
        let directory = self.data_dir().join("run");
        format!("postgresql:///ardent?host={}&port={}&user=root", directory.display(), self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Runs a verb of the CLI against this server.
    pub(crate) fn ardent(&self, args: &[&str]) -> Ran {
        ardent(&self.data_dir(), args)
    }

    /// Links `source` under the name `prod` and waits until branches can be cut.
    pub(crate) fn follow(&self, source: &Source) {
        let said =
            self.ardent(&["connector", "create", "postgresql", &source.url(), "--name", "prod"]);
        assert!(said.stdout.contains("✓ Connector created and ready"), "{said:#?}");
        assert_eq!(said.code, 0, "{said:#?}");
    }

    /// Cuts a branch and returns its URL.
    #[track_caller]
    pub(crate) fn branch(&self, name: &str) -> String {
        self.ardent(&["branch", "create", name, "--print-url"]).ok()
    }

    /// What `branch info` says of a branch, as its JSON columns.
    pub(crate) fn info(&self, branch: &str) -> Value {
        let said = self.ardent(&["branch", "info", branch, "--format", "json"]).ok();
        serde_json::from_str(&said).expect("branch info as JSON")
    }

    /// The postmaster that serves a branch now.
    #[track_caller]
    pub(crate) fn compute_of(&self, branch: &str) -> Process {
        self.running_compute(branch).expect("a running compute")
    }

    /// The postmaster that serves a branch, if it is awake.
    pub(crate) fn running_compute(&self, branch: &str) -> Option<Process> {
        let info = self.info(branch);
        let socket = PathBuf::from(info["compute_socket"].as_str()?);
        let number = number_in(&socket).expect("the branch's number in its socket path");
        self.postmaster(&number)
    }

    /// The postmaster that serves the trunk: branch numbers are never reused and it came first. After
    /// a cut it starts again a moment later.
    pub(crate) fn trunk_compute(&self) -> Process {
        eventually(START, "the trunk runs", || self.postmaster("1"))
    }

    pub(crate) fn store(&self) -> Process {
        let mut own = processes::below(self.scratch.path()).into_iter();
        own.find(|process| process.command.contains(" store ")).expect("a running store")
    }

    /// The store proves itself, in service or not.
    #[track_caller]
    pub(crate) fn assert_store_is_sound(&self) {
        let mut command = bounded(ARDENT);
        let ran = run(command.args(["store", "check"]).arg(self.data_dir()));
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "the store is sound\n"), "{ran:#?}");
    }

    /// Everything of this server that runs or is mounted.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        self.scratch.leftovers()
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running server");
        child.kill().expect("kill the server");
        child.wait().expect("reap the server");
    }

    /// Stops the server as Ctrl-C does.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running server");
        processes::signal(child.id(), Signal::INT);
        let status = processes::wait_for(&mut child, STOP);
        status.unwrap_or_else(|| panic!("SIGINT did not stop the server\n{}", self.log_text()))
    }

    pub(crate) fn log_text(&self) -> String {
        let mut text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let directory = std::fs::read_dir(self.data_dir().join("log")).into_iter().flatten();
        for entry in directory.flatten() {
            let body = std::fs::read_to_string(entry.path()).unwrap_or_default();
            text.push_str(&format!("--- {}\n{body}", entry.path().display()));
        }
        text
    }

    /// Starts `ardent serve`.
    fn serve(&self, more: &[&str]) -> Child {
        let mut command = Command::new(ARDENT);
        command.arg("serve").arg("--data-dir").arg(self.data_dir()).args(more);
        for host in &self.hosts {
            command.arg("--listen").arg(format!("{host}:{}", self.port));
        }
        let log = std::fs::File::options().create(true).append(true).open(self.log());
        command.arg("--config").arg(self.config()).env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(log.expect("open the log"));
        command.spawn().expect("start the server")
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("server.toml")
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("server.log")
    }

    fn postmaster(&self, number: &str) -> Option<Process> {
        let directory = self.data_dir().join("mnt").join(number);
        let pid_file = std::fs::read_to_string(directory.join("postmaster.pid")).ok()?;
        let pid: u32 = pid_file.lines().next()?.trim().parse().ok()?;
        let mut own = processes::below(&directory).into_iter();
        own.find(|process| process.pid == pid)
    }
}

/// A server whose place another one has taken.
pub(crate) struct OldServer(Child);

impl OldServer {
    /// Waits for its end.
    pub(crate) fn has_ended_well(mut self) -> bool {
        let status = processes::wait_for(&mut self.0, STOP);
        status.is_some_and(|status| status.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            let status = self.interrupt();
            if !std::thread::panicking() {
                assert!(status.success(), "SIGINT: {status}\n{}", self.log_text());
            }
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_text());
        }
    }
}

/// Writes the configuration of a server that listens on this port. Its computes get uids of their
/// own, for a server ends whatever runs under them, and servers of other tests run beside it.
pub(crate) fn configure(file: &Path, port: u16, settings: &str) {
    let uid_base = 20_000_000 + u32::from(port) * 1000;
    let text = format!("[compute]\nuid_base = {uid_base}\n{settings}");
    std::fs::write(file, text).expect("write the configuration");
}

/// The first line a child prints, or nothing when it ended without one.
fn first_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take().expect("a piped stdout");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        let read = reader.read_line(&mut line).unwrap_or(0);
        let said = (read > 0).then(|| line.trim_end().to_owned());
        // The other end has given up waiting; the server is on its way down then.
        let _gone = sender.send(said).is_err();
        let mut rest = Vec::new();
        let _end = reader.read_to_end(&mut rest).is_ok();
    });
    eventually(START, "the server prints `ready`", || receiver.try_recv().ok())
}

fn number_in(socket: &Path) -> Option<String> {
    let directory = if socket.ends_with(".s.PGSQL.5432") { socket.parent()? } else { socket };
    Some(directory.file_name()?.to_str()?.to_owned())
}
