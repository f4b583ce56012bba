//! The store as a process, through the real mount. Needs root and `/dev/fuse`.

mod files;
mod lifecycle;
mod mirror;
mod postgres;
mod served;
