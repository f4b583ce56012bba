//! Schema changes: captured on the source in order, replayed in the trunk at the same position.
//!
//! ```text
//!   source                                            trunk
//!   any DDL -> event trigger -> describe(touched)      describe(same names)
//!                 |  signed transactional message           |
//!                 +------------- stream ------------> difference -> statements, until none is left
//! ```
//!
//! What travels is never the customer's text but what came of it: each touched object as facts,
//! read from the source's catalog inside its transaction by the same query that reads the trunk's
//! ([`describe`]). So it does not matter whether a statement came alone, in a string of many, from
//! a function or from a DO block, and the comparison after a replay is the replay's own last round.
//!
//! Invariants:
//! * statements run as `ardent_apply`, in the trunk transaction of the change's own position; what
//!   needs a superuser is the closed list in [`extension`] and [`role`], on its own connection;
//! * a message counts only if the key in the source's schema `ardent` signed it;
//! * an object that cannot be made equal is named: a table whose columns differ is quarantined.

mod capture;
mod captured;
mod describe;
mod difference;
mod extension;
mod hold;
mod known;
mod object;
mod poll;
mod repair;
mod replay;
mod rewrite;
mod role;
mod undo;

pub(super) use capture::{Capture, MODE_POLLING, drop_capture, drop_schema_sql, install};
pub(super) use hold::Held;
pub(super) use known::{known_table, remember_all};
pub(super) use poll::{Poll, Poller};
pub(super) use replay::Replay;
pub(super) use role::FINGERPRINT_SQL as ROLES_FINGERPRINT_SQL;
