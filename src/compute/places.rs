//! Where a compute's things are and under which account it runs: all that can be said of a compute
//! from configuration alone.

use std::sync::Arc;
use std::time::Duration;

use storage::{BranchId, Owner};

use super::{ComputeError, ComputeTarget};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::postgres::{self, Account, Compute, ComputeKind, ComputeSpec, Installation};

/// Describes computes.
#[derive(Clone, Debug)]
pub struct ComputePlaces {
    /// Data directory of the server.
    pub data_dir: DataDir,
    /// Its configuration.
    pub config: Config,
    /// The Postgres installations of this host.
    pub installations: Vec<Installation>,
}

impl ComputePlaces {
    /// The owner of a branch's files and processes: its own uid where we may choose one.
    pub fn owner(&self, branch: BranchId) -> Owner {
        match self.account(branch) {
            Some(Account { uid, gid }) => Owner { uid, gid },
            None => Owner {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
        }
    }

    /// The account of a compute; none of its own unless we are root.
    pub fn account(&self, branch: BranchId) -> Option<Account> {
        let id = self.config.compute.uid_base.saturating_add(branch.get());
        rustix::process::geteuid().is_root().then_some(Account { uid: id, gid: id })
    }

    /// The installation that serves this major version.
    pub fn installation(&self, major: u32) -> Result<&Installation, ComputeError> {
        Ok(postgres::choose(&self.installations, major).map_err(Arc::new)?)
    }

    /// Ends whatever an earlier server left running for a target.
    pub async fn clear(&self, target: &ComputeTarget) -> Result<(), ComputeError> {
        Ok(Compute::clear(&self.spec(target)?).await.map_err(Arc::new)?)
    }

    /// What differs from the settings of all computes.
    fn settings(&self, target: &ComputeTarget) -> Vec<(String, String)> {
        if !self.config.compute.listen_tcp || target.kind != ComputeKind::Branch {
            return Vec::new();
        }
        let [_, _, high, low] = target.branch.get().to_be_bytes();
        vec![("listen_addresses".to_owned(), format!("127.77.{high}.{low}"))]
    }

    pub(super) fn spec(&self, target: &ComputeTarget) -> Result<ComputeSpec, ComputeError> {
        let (data_dir, branch) = (&self.data_dir, target.branch);
        Ok(ComputeSpec {
            installation: self.installation(target.major)?.clone(),
            kind: target.kind,
            data_dir: data_dir.branch(branch),
            socket_dir: data_dir.compute_socket_dir(branch),
            log_file: data_dir.compute_log(branch),
            state_file: data_dir.compute_state(branch),
            account: self.account(branch),
            database: target.database.clone(),
            settings: self.settings(target),
            start_timeout: Duration::from_secs(self.config.compute.start_timeout_s),
            stop_timeout: Duration::from_secs(self.config.compute.stop_timeout_s),
        })
    }
}
