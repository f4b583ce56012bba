//! Long operations that are under way, for whoever asks what the server is doing.
//!
//! A job is listed from [`Jobs::begin`] until its guard is dropped; nothing is kept of it then.
//! It belongs to the task that does the work, not to the client that asked for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

/// All jobs of this server. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Arc<watch::Sender<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    last: u64,
    jobs: BTreeMap<u64, JobInfo>,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Number, unique while this server runs.
    pub number: u64,
    /// What is done: `create branch`, ...
    pub kind: &'static str,
    /// The name of what it is done to.
    pub object: String,
    /// When it began.
    pub since: SystemTime,
}

/// Keeps a job in the list.
#[derive(Debug)]
pub struct Job {
    jobs: Jobs,
    number: u64,
}

impl Jobs {
    /// Lists a job until the guard is dropped.
    pub fn begin(&self, kind: &'static str, object: impl Into<String>) -> Job {
        let (object, since) = (object.into(), SystemTime::now());
        let mut number = 0;
        self.0.send_modify(|registry| {
            registry.last += 1;
            number = registry.last;
            registry.jobs.insert(number, JobInfo { number, kind, object, since });
        });
        Job { jobs: self.clone(), number }
    }

    /// The jobs under way, oldest first.
    pub fn list(&self) -> Vec<JobInfo> {
        self.0.borrow().jobs.values().cloned().collect()
    }

    /// Returns once no job is under way.
    pub async fn all_done(&self) {
        let mut changes = self.0.subscribe();
        // The sender lives as long as `self`.
        let _ = changes.wait_for(|registry| registry.jobs.is_empty()).await;
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.jobs.0.send_modify(|registry| {
            registry.jobs.remove(&self.number);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_while_under_way() {
        let jobs = Jobs::default();
        let first = jobs.begin("create branch", "b1");
        let second = jobs.begin("delete branch", "b2");
        drop(first);
        let listed: Vec<_> = jobs.list().into_iter().map(|job| (job.number, job.object)).collect();
        assert_eq!(listed, [(2, "b2".to_owned())]);
        drop(second);
        assert!(jobs.list().is_empty());
    }
}
