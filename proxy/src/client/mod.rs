//! The client end: connections of ours to Postgres servers.
