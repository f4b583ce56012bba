//! The store as a process, through the real mount. Needs root and `/dev/fuse`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conformance;
mod files;
mod lifecycle;
mod mirror;
mod postgres;
mod served;
mod snapshots;
mod space;
mod zombies;
