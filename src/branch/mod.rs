//! branch.
