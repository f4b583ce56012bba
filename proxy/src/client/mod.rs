//! The client end of the Postgres wire: how Ardent reaches servers that are not its own clients.
//!
//! Owns dialing (TCP or unix socket, TLS as libpq's `sslmode` means it), SQL sessions through
//! tokio-postgres over such a stream, and a connection of our own for what tokio-postgres lacks:
//! replication mode, a text run with every message handed on as it arrives, and COPY without an
//! object for each row.
//!
//! Must never: put a password into an error, a log line or a `Debug` form; slice by a length that
//! came from the wire without checking it.
//!
//! To run one SQL text and see notices as they come:
//!
//! ```no_run
//! # async fn example() -> Result<(), proxy::client::Error> {
//! use proxy::client::{Event, Target, run};
//! let target = Target::unix("/var/lib/ardent/run", 6432, "ardent", "ardent");
//! run(&target, "ARDENT CONNECTOR LIST", |event| match event {
//!     Event::Notice(notice) => drop(notice.message),
//!     Event::Columns(names) => drop(names),
//!     Event::Row(values) => drop(values),
//!     Event::Complete(tag) => drop(tag),
//! })
//! .await
//! # }
//! ```

mod auth;
mod connection;
mod copy_in;
mod copy_out;
mod dial;
mod error;
mod message;
mod replication;
mod session;
mod target;
mod tls;
mod window;

pub use connection::{Connection, Event, run};
pub use copy_in::CopyIn;
pub use copy_out::CopyOut;
pub use dial::{ByteStream, Stream, dial, reach};
pub use error::{Error, Verdict};
pub use message::ServerMessage;
pub use replication::{ReplicationConnection, ReplicationEvent, StandbyStatus, quote_identifier};
pub use session::Session;
pub use target::{Host, InvalidUrl, Target, TlsMode, Via};
