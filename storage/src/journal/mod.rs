//! Append-only journals: framing, the edits of a layer, the edits of the branch tree.

mod branches;
mod bytes;
mod edit;
mod log;
mod record;
mod shorten;

pub(crate) use branches::{BranchEdit, ForkLayers, Seat};
pub(crate) use bytes::{Malformed, Reader, Writer};
pub(crate) use edit::{Edit, Making, Name};
pub(crate) use log::Log;
pub(crate) use record::{Entry, LogKind};
pub(crate) use shorten::shorten;
