//! The processes of this machine as /proc shows them, and signals to single ones of them.
//!
//! Never signals a group or a name: only a pid that the caller has found to be the test's own.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait::{eventually, within};

/// A process that was alive when it was listed.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

impl Process {
    /// Kills this process the hard way and returns once it is gone.
    pub(crate) fn kill_and_wait(&self) {
        signal(self.pid, Signal::KILL);
        let what = format!("{} ({}) is gone after SIGKILL", self.command, self.pid);
        eventually(Duration::from_secs(10), &what, || (!is_alive(self.pid)).then_some(()));
    }
}

/// Every process that names a path below `directory` on its command line or works in one.
pub(crate) fn below(directory: &Path) -> Vec<Process> {
    let prefix = directory.to_string_lossy().into_owned();
    let mut found: Vec<Process> = pids().filter_map(|pid| touching(pid, &prefix)).collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Sends one signal to one process; a process already gone is no error.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid of this machine");
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("signal {pid:?}: {error}"),
    }
}

/// Waits for a child of ours to end, and kills it when it does not in time.
pub(crate) fn wait_for(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let status = within(deadline, || child.try_wait().expect("wait for a child"));
    if status.is_none() {
        child.kill().expect("kill a child");
        child.wait().expect("reap a child");
    }
    status
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("list /proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn touching(pid: u32, prefix: &str) -> Option<Process> {
    if pid == std::process::id() || !is_alive(pid) {
        return None;
    }
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&raw).replace('\0', " ").trim().to_owned();
    let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let names_it = command.contains(prefix) || cwd.starts_with(prefix);
    names_it.then_some(Process { pid, command })
}
