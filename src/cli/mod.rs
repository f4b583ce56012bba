//! The `ardent` command: a verb is one admin statement sent over the wire.

pub mod report;
mod style;
