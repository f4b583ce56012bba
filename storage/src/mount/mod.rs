//! Requests of the kernel, answered from the store.
//!
//! The kernel caches names, attributes and pages of a branch for as long as it likes: nobody else
//! changes them, and every change passes here. The root directory, which lists the branches, is
//! not cached at all, since branches come and go by the control socket.
//!
//! A panic in a request is EIO for that request; what it may have left half done is behind a
//! poisoned lock (see `locks`).

mod answer;
mod links;
mod syncs;
mod requests;
mod filesystem;
mod ring;
mod session;

pub(crate) use session::Mounted;
