//! Copy-on-write page store.
