//! The one integration binary: the product as its users meet it, against real Postgres servers.
//!
//! Every test starts what it needs under `support` and leaves nothing behind.

#[cfg(test)]
mod support;

#[cfg(test)]
mod admin;
#[cfg(test)]
mod branches;
#[cfg(test)]
mod broken_sources;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod driver_matrix;
#[cfg(test)]
mod environments;
#[cfg(test)]
mod front_door;
#[cfg(test)]
mod handoff;
#[cfg(test)]
mod newer_major;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod preflight;
#[cfg(test)]
mod privileges;
#[cfg(test)]
mod replication;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod schema_changes;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod setup_stages;
#[cfg(test)]
mod sqlx;
#[cfg(test)]
mod start;
#[cfg(test)]
mod tokio_postgres;
