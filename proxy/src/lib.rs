//! The Postgres wire, both ends: the front door for applications and operators, and the client
//! that talks to servers.
//!
//! This crate owns every byte between a client and Ardent: the phase before authentication
//! (startup, cancel, limits), SCRAM, routing by name, the relay to a compute, and the admin
//! console. It knows nothing of branches, connectors or storage: what a name means is asked of
//! [`Route`], what an admin statement does is asked of [`Console`].
//!
//! Invariants:
//! * No unauthenticated byte wakes a compute: [`Route::wake`] is called only after SCRAM.
//! * Before authentication the client socket is read byte-exactly and within [`Limits`].
//! * Secrets reach neither a log line nor an error text.
//!
//! Modules are declared lowest first; a module uses only those above it.

pub mod client;
mod refusal;
mod limits;
mod meters;
mod scram;
mod wire;
mod route;
mod sessions;
mod crowd;
mod throttle;
mod socket;
mod tls;
mod policy;
mod stream;
mod naming;
mod cancel;
mod settings;
mod preauth;
mod console;
mod home;
mod backend;
mod process;
mod handoff;
mod relay;
mod lanes;
mod record;
mod door;
mod session;
mod connection;
mod listener;

pub use cancel::{AskedCancel, Cancels};
pub use console::{
    Answer, Column, ColumnKind, Console, ConsoleSession, Description, Notice, NoticeLevel,
    NoticeSender, Statement, TransactionEffect, Value,
};
pub use handoff::LIBRARY as HANDOFF_LIBRARY;
pub use limits::Limits;
pub use listener::{Listener, serve};
pub use meters::{Meters, Sample};
pub use policy::{LivePolicy, Policy};
pub use refusal::{Refusal, Severity};
pub use route::{Backend, Route};
pub use scram::{InvalidVerifier, ScramVerifier};
pub use sessions::{Peer, SessionInfo, SessionState, Sessions};
pub use settings::{Entrants, Settings, Stop};
pub use tls::{Tls, TlsError};
