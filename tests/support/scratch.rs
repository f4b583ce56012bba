//! A directory for one server or source, and the proof that nothing of it outlives the test.
//!
//! Its unique path is how leftovers are recognised: processes that name it, mounts below it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use super::processes;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Removed when dropped, with every process and mount that still uses it; those fail the test.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(label: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ardent-{label}-{}-{number}.d", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("create a scratch directory");
        // Computes and the source run under other uids and must pass through.
        let passable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, passable).expect("open the scratch directory");
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What still lives here, one line each: processes and mounts.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let processes = processes::below(&self.path).into_iter();
        let mut lines: Vec<String> =
            processes.map(|process| format!("{} {}", process.pid, process.command)).collect();
        lines.extend(self.mounts().into_iter().map(|mount| format!("mount {mount}")));
        lines
    }

    /// Mount points below this directory, the innermost first.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points.filter(|point| Path::new(point).starts_with(&self.path));
        let mut mounts: Vec<String> = below.map(str::to_owned).collect();
        mounts.reverse();
        mounts
    }

    fn clear(&self) {
        for process in processes::below(&self.path) {
            processes::signal(process.pid, Signal::KILL);
        }
        for mount in self.mounts() {
            let unmounted = Command::new("umount").args(["--lazy", &mount]).status();
            assert!(unmounted.is_ok_and(|status| status.success()), "unmount {mount}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("remove {}: {error}", self.path.display());
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let leftovers = self.leftovers();
        self.clear();
        if !std::thread::panicking() {
            assert!(leftovers.is_empty(), "left behind:\n{}", leftovers.join("\n"));
        }
    }
}
