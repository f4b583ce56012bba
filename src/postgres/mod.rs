//! Computes: the stock Postgres process trees that serve a trunk or a branch.
//!
//! Owns: which binaries serve a source's major, what a fresh data directory holds, how a server is
//! started, watched, stopped and found again, where its write-ahead log lies, the settings it runs
//! with, and the role model.
//! Knows nothing of the store (a data directory is a path), of connectors or of endpoints.
//!
//! Invariants:
//! 1. A [`Compute`] exists only once `SELECT 1` was answered through its socket.
//! 2. No compute starts while a process of its predecessor lives; `stop` and `kill` return only
//!    after every process of the compute was seen gone.
//! 3. A signal goes through a pidfd whose process was checked after the descriptor was opened:
//!    a reused pid is never signalled.
//! 4. Dropping a [`Compute`] stops nothing: computes outlive the server and are adopted.
//! 5. No role a client can reach is superuser or may touch files or programs of the host.

mod activity;
mod compute;
mod error;
mod installation;
mod locale;
mod precheck;
mod process;
mod ready;
mod remains;
mod roles;
mod session;
mod settings;
mod shared_memory;
mod spare;
mod state;
mod template;
pub mod wal;
#[cfg(test)]
mod tests;

pub use activity::{Activity, activity};
pub use compute::{Compute, ComputeSpec};
pub use error::PostgresError;
pub use installation::{Installation, choose, find};
pub use locale::local as local_locale;
pub use precheck::SOCKET_NAME;
pub use process::{Account, Exit, parent_of};
pub use roles::{
    APPLY_ROLE, OWNER_ROLE, RoleVerifier, SYSTEM_DATABASE, SYSTEM_ROLE, forget_passwords,
    grant_mirrored_roles, is_reserved_role, prepare_database, verifiers,
};
pub use session::Session;
pub use settings::ComputeKind;
pub use spare::Spares;
pub use template::{Template, TemplateSpec};
