//! All that takes part on one processor.
//!
//! Where several are free, the kernel wakes each of client, relay and backend on one that rests.
//! On a virtual machine that alone takes some 20 us, four times a transaction, and by its mood:
//! then a few percent between two sides take hundreds of rounds to be seen. On one processor they
//! take five.

use std::process::{Command, Stdio};

/// Until dropped.
pub(crate) struct OneProcessor(Vec<u32>);

impl OneProcessor {
    /// Puts these processes, their children and our own future ones there.
    pub(crate) fn of(processes: &[u32]) -> Self {
        let children = processes.iter().flat_map(|pid| children(*pid));
        let all = processes.iter().copied().chain(children).chain([std::process::id()]).collect();
        let processes = Self(all);
        processes.may_use("0");
        processes
    }

    fn may_use(&self, processors: &str) {
        for pid in &self.0 {
            let mut command = Command::new("taskset");
            command.args(["--all-tasks", "--cpu-list", "--pid", processors, &pid.to_string()]);
            // One that has ended needs none.
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("run taskset");
        }
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        self.may_use("0-1023");
    }
}

fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
