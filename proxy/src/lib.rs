//! The Postgres wire, both ends.
