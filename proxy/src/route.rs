//! The one question the front door asks of the rest of Ardent about applications: where does this
//! name lead, who may enter, and is it awake.

use std::any::Any;
use std::future::Future;
use std::path::PathBuf;

use crate::refusal::Refusal;
use crate::scram::ScramVerifier;

/// Leads endpoints to computes.
pub trait Route: Send + Sync + 'static {
    /// Whether the name is an endpoint. A suffix of a user or database name counts only if it is.
    /// Called on the connection's task: it must be quick and must not block.
    fn is_endpoint(&self, name: &str) -> bool;

    /// The credential of a role that may log in. Never wakes a compute. `None` if there is no
    /// such role, or it may not log in: the client then sees a mock exchange and 28P01. How long
    /// it takes must not tell which.
    fn verifier(
        &self,
        endpoint: &str,
        role: &str,
    ) -> impl Future<Output = Result<Option<ScramVerifier>, Refusal>> + Send;

    /// The credential as it is now, asked after a wake about a client that has proved itself.
    /// Unlike [`Route::verifier`] it need not hide whether there is one.
    fn verifier_again(
        &self,
        endpoint: &str,
        role: &str,
    ) -> impl Future<Output = Result<Option<ScramVerifier>, Refusal>> + Send {
        self.verifier(endpoint, role)
    }

    /// Returns once the endpoint's compute accepts connections; single flight and the bound on
    /// waiting are inside. Called only for an authenticated client; [`Route::verifier_again`] is
    /// asked afterwards, and the client is refused if the credential is no longer the same.
    /// Dropped when the client leaves while it waits.
    fn wake(
        &self,
        endpoint: &str,
        role: &str,
    ) -> impl Future<Output = Result<Backend, Refusal>> + Send;

    /// The unix socket of the compute that this process is a backend of. Asked for a cancel of a
    /// session that is not ours: an earlier server may have handed it off.
    fn compute_of(&self, backend_pid: i32) -> Option<PathBuf>;
}

/// A compute that accepts connections.
pub struct Backend {
    /// The compute's unix socket, file included (`.../.s.PGSQL.5432`). It trusts who can enter.
    pub socket: PathBuf,
    /// Dropped when the session has ended, so that the router can count what is in use.
    pub session: Box<dyn Any + Send>,
}
