//! Where a compute's things are and under which account it runs: all that can be said of a compute
//! from configuration alone.

use std::sync::Arc;
use std::time::Duration;

use storage::{BranchId, Owner};

use super::{ComputeError, ComputeTarget};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::postgres::{self, Account, Compute, ComputeKind, ComputeSpec, Installation};

/// First major that notices by itself that a client is gone while it runs its query.
const CONNECTION_CHECK_SINCE: u32 = 14;

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
        let mut settings = Vec::new();
        if self.config.compute.listen_tcp && target.kind == ComputeKind::Branch {
            let [_, _, high, low] = target.branch.get().to_be_bytes();
            settings.push(("listen_addresses".to_owned(), format!("127.77.{high}.{low}")));
        }
        if self.hands_off(target) && target.major >= CONNECTION_CHECK_SINCE {
            // Else a client that is gone is noticed only when its query has ended.
            settings.push(("client_connection_check_interval".to_owned(), "1s".to_owned()));
        }
        settings
    }

    /// Whether clients of this compute may be handed to it.
    fn hands_off(&self, target: &ComputeTarget) -> bool {
        self.config.proxy.handoff && target.kind == ComputeKind::Branch
    }

    pub(super) fn spec(&self, target: &ComputeTarget) -> Result<ComputeSpec, ComputeError> {
        let (data_dir, branch) = (&self.data_dir, target.branch);
        Ok(ComputeSpec {
            installation: self.installation(target.major)?.clone(),
            kind: target.kind,
            data_dir: match target.kind {
                ComputeKind::Load => data_dir.incoming(branch),
                ComputeKind::Trunk | ComputeKind::Branch => data_dir.branch(branch),
            },
            wal_dir: (target.kind != ComputeKind::Load).then(|| data_dir.wal(branch)),
            socket_dir: data_dir.compute_socket_dir(branch),
            log_file: data_dir.compute_log(branch),
            state_file: data_dir.compute_state(branch),
            account: self.account(branch),
            database: target.database.clone(),
            preload: self.hands_off(target).then(|| data_dir.handoff_library()),
            settings: self.settings(target),
            start_timeout: Duration::from_secs(self.config.compute.start_timeout_s),
            stop_timeout: Duration::from_secs(self.config.compute.stop_timeout_s),
        })
    }
}
