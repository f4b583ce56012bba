//! Leads the front door to branches: which endpoint exists, whose password counts there, and the
//! socket of its compute.
//!
//! Must never: wake a compute to answer who may log in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proxy::{Backend, Refusal, Route, ScramVerifier};

use crate::branch::{BranchError, Branches};
use crate::catalog::{BranchRecord, Catalog, RoleVerifier};
use crate::cause::Causes;
use crate::compute::{ComputeError, Computes};
use crate::postgres;

/// SQLSTATE `58000`: the system under the database failed.
const SYSTEM_ERROR: &str = "58000";
/// SQLSTATE `57P03`: try again in a moment.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// SQLSTATE `28P01`, and the text that drivers look for.
const INVALID_PASSWORD: &str = "28P01";

/// What it takes to ask a running compute about a role, with something to spare.
const LOOKUP: Duration = Duration::from_millis(6);

/// The front door's view of branches.
pub struct Router {
    branches: Arc<Branches>,
    computes: Computes,
    catalog: Arc<Catalog>,
}

impl Router {
    /// Routes to these branches.
    pub fn new(branches: Arc<Branches>, computes: Computes, catalog: Arc<Catalog>) -> Self {
        Self { branches, computes, catalog }
    }

    /// A role that the branch's own Postgres knows: asked there while it runs, else as it was
    /// when it was suspended.
    async fn role(
        &self,
        branch: &BranchRecord,
        role: &str,
    ) -> Result<Option<RoleVerifier>, Refusal> {
        let roles = self.computes.verifiers(branch.number).await.map_err(|error| {
            tracing::warn!(branch = %branch.made.name, error = %Causes(&error), "read verifiers of branch");
            Refusal::fatal(CANNOT_CONNECT_NOW, "credentials of the branch cannot be read now")
        })?;
        if let Some(roles) = roles {
            return Ok(roles.into_iter().find(|found| found.role == role));
        }
        self.catalog.role_verifier(branch.number, role).map_err(|error| {
            tracing::error!(error = %Causes(&error), "read stored verifier");
            Refusal::fatal(SYSTEM_ERROR, "stored credentials cannot be read")
        })
    }
}

impl Route for Router {
    fn is_endpoint(&self, name: &str) -> bool {
        self.branches.by_endpoint(name).is_some()
    }

    /// The owner's verifier is at hand, whether the branch exists or not. All others take their
    /// time, so that it does not tell which branches and roles exist.
    async fn verifier(&self, endpoint: &str, role: &str) -> Result<Option<ScramVerifier>, Refusal> {
        let at_least = tokio::time::Instant::now() + LOOKUP;
        let found = self.verifier_again(endpoint, role).await;
        if role != postgres::OWNER_ROLE {
            tokio::time::sleep_until(at_least).await;
        }
        found
    }

    async fn verifier_again(
        &self,
        endpoint: &str,
        role: &str,
    ) -> Result<Option<ScramVerifier>, Refusal> {
        let Some(branch) = self.branches.by_endpoint(endpoint) else { return Ok(None) };
        let stored = if branch.made.role == role {
            branch.made.verifier.clone()
        } else if postgres::is_reserved_role(role) {
            None
        } else {
            let role = self.role(&branch, role).await?;
            role.filter(|role| may_log_in(role, SystemTime::now())).and_then(|role| role.verifier)
        };
        Ok(stored.and_then(|text| text.parse().ok()))
    }

    async fn wake(&self, endpoint: &str, role: &str) -> Result<Backend, Refusal> {
        let Some(branch) = self.branches.by_endpoint(endpoint) else {
            let message = format!("password authentication failed for user \"{role}\"");
            return Err(Refusal::fatal(INVALID_PASSWORD, message));
        };
        let lease =
            self.branches.wake(&branch).await.map_err(|error| refuse_wake(endpoint, &error))?;
        let socket = lease.compute().socket_dir().join(postgres::SOCKET_NAME);
        Ok(Backend { socket, session: Box::new(lease) })
    }

    fn compute_of(&self, backend_pid: i32) -> Option<PathBuf> {
        let directory = self.computes.socket_dir_of(u32::try_from(backend_pid).ok()?)?;
        Some(directory.join(postgres::SOCKET_NAME))
    }
}

fn may_log_in(role: &RoleVerifier, now: SystemTime) -> bool {
    role.can_login && role.valid_until.is_none_or(|until| now < until)
}

fn refuse_wake(endpoint: &str, error: &BranchError) -> Refusal {
    tracing::error!(endpoint, error = %Causes(error), "wake branch");
    match error {
        BranchError::Compute(ComputeError::Stopping) | BranchError::Stopping => {
            Refusal::fatal(CANNOT_CONNECT_NOW, "the server is shutting down")
        }
        error => Refusal::fatal(SYSTEM_ERROR, format!("branch \"{endpoint}\" did not start"))
            .with_detail(format!("{error}."))
            .with_hint("Run ARDENT BRANCH INFO for the branch, or delete and create it again."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honours_nologin_and_valid_until() {
        let now = SystemTime::now();
        let role = |can_login, valid_until| RoleVerifier {
            role: "app".to_owned(),
            verifier: None,
            valid_until,
            can_login,
        };
        assert!(may_log_in(&role(true, None), now));
        assert!(may_log_in(&role(true, Some(now + Duration::from_secs(1))), now));
        assert!(!may_log_in(&role(true, Some(now)), now));
        assert!(!may_log_in(&role(false, None), now));
    }
}
