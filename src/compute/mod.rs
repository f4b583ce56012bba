//! Which computes run.
