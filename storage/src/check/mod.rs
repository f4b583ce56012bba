//! The consistency check: proves what is on disk and what is in memory against each other.
//!
//! It looks at a store that is open, be it in service or only rehearsed from its files
//! (`offline.rs`), and changes nothing. What it proves:
//!
//! | file | what |
//! |---|---|
//! | `shape.rs` | `branches.journal`, what stands on each layer, the ledger, the directories |
//! | `layer.rs` | a layer's journal, manifest and data files, page by page |
//! | `namespace.rs` | names, links, sizes and page maps of a branch |
//!
//! A store in service goes on: each layer and each branch is looked at in a pause of the keeper, so
//! nothing is sealed, merged or removed meanwhile. Changes of one file wait while that file is
//! looked at, changes of names while those of their branch are, all changes of a branch while its
//! sizes are added up.
//!
//! What a crash may leave and the next start puts right is not a finding.

mod layer;
mod namespace;
mod shape;

use crate::holdings::Holdings;
use crate::id::{BranchId, LayerId};
use crate::wire::Finding;

pub(crate) use layer::check_layer;
pub(crate) use namespace::check_branch;
pub(crate) use shape::check_shape;

impl Finding {
    /// Bytes that cannot be had any more.
    fn lost(place: impl Into<String>, problem: impl Into<String>, readers: &[BranchId]) -> Self {
        let numbers: Vec<_> = readers.iter().map(BranchId::to_string).collect();
        let remedy = match numbers.as_slice() {
            [] => "no branch reads it: restart the store, which removes it".to_owned(),
            numbers => format!(
                "delete branch {}, or bring the store directory back from a backup",
                numbers.join(", ")
            ),
        };
        Self { place: place.into(), problem: problem.into(), remedy }
    }

    /// Something that takes up space for nobody.
    fn stray(place: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: "nothing in the store refers to it, so it only takes up space".to_owned(),
            remedy: "restart the store, which removes what is left over; if it stays, move it away"
                .to_owned(),
        }
    }

    /// The store in memory is not what it is on disk.
    fn confused(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
            remedy: "restart the store, which reads everything anew, and report it".to_owned(),
        }
    }
}

/// What is to be looked at, each in a pause of its own.
pub(crate) fn subjects(holdings: &Holdings) -> Option<(Vec<LayerId>, Vec<BranchId>)> {
    let shape = crate::locks::lock(&holdings.shape).ok()?;
    let layers = shape.graph.layers().map(|(layer, _)| layer).collect();
    let branches = shape.graph.branches().map(|(branch, _)| branch).collect();
    Some((layers, branches))
}
