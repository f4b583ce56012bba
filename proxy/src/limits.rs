//! Every bound of the front door in one place.

use std::time::Duration;

/// Bounds on clients. The defaults are the documented ones.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Silence after which a new connection is closed without a word (health checks).
    pub first_byte: Duration,
    /// From accept to the end of authentication, waking not included.
    pub preauth: Duration,
    /// Connections that have not authenticated yet, in total.
    pub preauth_connections: usize,
    /// Connections of one address, sessions included; an IPv6 /64 counts as one.
    pub connections_per_address: usize,
    /// Failed logins in a row that an address may make at an endpoint before it has to wait.
    pub failed_logins: u32,
    /// Sessions that wait for a compute to wake, in total.
    pub wakes_waiting: usize,
    /// Authenticated sessions in total, admin console included.
    pub sessions: usize,
    /// Authenticated sessions of one endpoint.
    pub sessions_per_endpoint: usize,
    /// How long a compute may take to answer a startup packet once it accepts connections.
    pub backend_startup: Duration,
    /// A client that waits for a wake longer than this gets a NOTICE.
    pub wake_notice: Duration,
    /// From the stop signal to the hard end of sessions.
    pub stop_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            preauth: Duration::from_secs(30),
            preauth_connections: 1000,
            connections_per_address: 1000,
            failed_logins: 10,
            wakes_waiting: 1000,
            sessions: 10_000,
            sessions_per_endpoint: 1000,
            backend_startup: Duration::from_secs(30),
            wake_notice: Duration::from_secs(2),
            stop_grace: Duration::from_secs(5),
        }
    }
}
