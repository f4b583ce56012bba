//! A store process for one test, in a directory that goes with it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{UnmountFlags, unmount};
use storage::wire::Owner;
use storage::{BranchId, StoreClient, StoreConfig};

/// Tells a copy of this program to be the store of that directory.
const VARIABLE: &str = "ARDENT_TEST_STORE";

/// Tells it to serve over `/dev/fuse` alone.
const DEVICE: &str = "ARDENT_TEST_STORE_OVER_DEVICE";

/// Small, so that a small disk can be filled.
pub(crate) const RESERVE: u64 = 32 << 20;

pub(crate) fn root() -> Owner {
    Owner { uid: 0, gid: 0 }
}

pub(crate) fn id(number: u32) -> BranchId {
    BranchId::new(number).unwrap()
}

/// Waits for what the store does in the background.
#[track_caller]
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed().as_secs() < 60, "it does not come to hold");
        std::thread::yield_now();
    }
}

pub(crate) struct Served {
    pub(crate) dir: PathBuf,
    child: Option<Child>,
    output: Option<BufReader<ChildStdout>>,
    over_device: bool,
}

pub(crate) fn config(dir: &std::path::Path) -> StoreConfig {
    StoreConfig {
        store_dir: dir.join("store"),
        mount_dir: dir.join("mnt"),
        wal_dir: dir.join("wal"),
        socket: dir.join("store.sock"),
        reserve_bytes: RESERVE,
        io_uring: std::env::var_os(DEVICE).is_none(),
        hold_back: std::env::var_os(DEVICE).is_none(),
    }
}

/// Not a test: the store process itself, when the variable says so.
#[test]
fn serve_as_child() {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        storage::daemon::run(config(&PathBuf::from(dir))).unwrap();
    }
}

impl Served {
    /// Over `io_uring`, if the kernel can.
    pub(crate) fn new() -> Self {
        Self::at(Self::fresh_dir(), false)
    }

    /// As on a kernel without rings, where every write is written at once.
    pub(crate) fn over_device() -> Self {
        Self::at(Self::fresh_dir(), true)
    }

    fn fresh_dir() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ardent-mount-{}-{number}", std::process::id());
        std::env::temp_dir().join(name)
    }

    /// In a directory of that name, which must not exist.
    pub(crate) fn in_dir(dir: PathBuf) -> Self {
        Self::at(dir, false)
    }

    fn at(dir: PathBuf, over_device: bool) -> Self {
        std::fs::create_dir(&dir).unwrap();
        // Tests of Postgres put sockets and logs here.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&dir, mode).unwrap();
        let mut served = Self { dir, child: None, output: None, over_device };
        served.start();
        served
    }

    pub(crate) fn start(&mut self) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "served::serve_as_child", "--nocapture"])
            .env(VARIABLE, &self.dir)
            .envs(self.over_device.then_some((DEVICE, "1")))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let ready =
            output.by_ref().lines().map_while(Result::ok).any(|line| line.ends_with("ready"));
        self.child = Some(child);
        // The test harness in the child ends it when it cannot write any more.
        self.output = Some(output);
        assert!(ready, "the store did not start");
    }

    pub(crate) fn client(&self) -> StoreClient {
        StoreClient::connect(&config(&self.dir).socket).unwrap()
    }

    pub(crate) fn branch(&self, number: u32) -> PathBuf {
        config(&self.dir).mount_dir.join(number.to_string())
    }

    /// SIGKILL, as the kernel or an operator would. The mount stays behind, dead.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn stop(&mut self) {
        self.client().shutdown().unwrap();
        assert!(self.child.take().unwrap().wait().unwrap().success());
    }

    /// The store proves itself, in service or not.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let findings = match &self.child {
            Some(_) => self.client().check().unwrap(),
            None => storage::offline::check(&config(&self.dir).store_dir).unwrap(),
        };
        assert!(findings.is_empty(), "{findings:#?}");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self) -> bool {
        self.child.take().unwrap().wait().unwrap().success()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let _ = unmount(config(&self.dir).mount_dir, UnmountFlags::DETACH);
        drop(std::fs::remove_dir_all(&self.dir));
    }
}
