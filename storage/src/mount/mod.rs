//! Requests of the kernel, answered from the store.
//!
//! The kernel caches names, attributes, listings and pages of a branch for as long as it likes:
//! nobody else changes them, and every change passes here. Branches come and go by the control
//! socket, which has the kernel forget the name of one that is gone and list the root anew. A name
//! that was asked for just then may still be kept, so it is for a second only: a starting Postgres
//! goes through it dozens of times. What it leads to is gone all the same.
//!
//! It opens and closes files without a word. What it was told of it may have open, until it says
//! that it forgets it; a file that lost its last name lives as long.
//!
//! What Postgres writes may wait in the kernel, see `held_back.rs`.
//!
//! A panic in a request is EIO for that request; what it may have left half done is behind a
//! poisoned lock (see `locks`).

mod answer;
mod held_back;
mod links;
mod syncs;
mod requests;
mod filesystem;
mod ring;
mod session;

pub(crate) use session::{Kernel, Mounted};
