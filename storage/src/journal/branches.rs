//! The edits of the branch tree: what `branches.journal` holds.
//!
//! ```text
//! type        payload
//! 1 create    branch 4, uid 4, gid 4, top layer 4
//! 2 fork      parent 4, child 4, uid 4, gid 4, base layer 4, parent's top 4, child's top 4,
//!             filter version 1
//! 3 delete    branch 4
//! 4 owner     branch 4, uid 4, gid 4
//! 5 merge     lower layer 4, upper layer 4: the lower one holds both from now on, as its files
//!             with the upper one's number behind their name say; the upper one is no more
//! 6 limit     branch 4, most bytes of its own 8; all bits set if there is no limit
//! 7 state     number of records that follow and are part of it 8, next layer 4
//! 8 layer     layer 4, base 4 or 0, filtered 1, last layer merged into it 4 or itself
//! 9 branch    branch 4, parent 4 or 0, uid 4, gid 4, top layer 4, most bytes of its own 8
//! 10 used     first branch number 4, last 4: all of these were used once
//! ```
//! A journal that was compacted begins with a `state` and the records of types 8 to 10 that it
//! counts, which together are all that its former records told. They were durable before it took
//! the place of that; so if one of them does not read well the file is damaged, not torn.

use crate::id::{BranchId, LayerId};
use crate::journal::bytes::{Malformed, Reader, Writer};
use crate::journal::record::Entry;
use crate::wire::Owner;

/// Version of the identity filter that a child's first namespace goes through.
pub(super) const FILTER: u8 = 1;

/// One change of the branch tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BranchEdit {
    Create { branch: BranchId, owner: Owner, top: LayerId },
    Fork { parent: BranchId, child: BranchId, owner: Owner, layers: ForkLayers },
    Delete { branch: BranchId },
    SetOwner { branch: BranchId, owner: Owner },
    Merge { lower: LayerId, upper: LayerId },
    Limit { branch: BranchId, max_bytes: Option<u64> },
    State { records: u64, next_layer: Option<LayerId> },
    Layer { layer: LayerId, base: Option<LayerId>, filtered: bool, face: LayerId },
    Branch { branch: BranchId, parent: Option<BranchId>, owner: Owner, seat: Seat },
    Used { first: BranchId, last: BranchId },
}

/// Where a branch stands and what it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) top: LayerId,
    pub(crate) max_bytes: Option<u64>,
}

/// The layers of a fork. Parent and child continue above `base`, each in a top of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForkLayers {
    pub(crate) base: LayerId,
    /// The old top itself, if nothing was written to it; then `base` is the layer below it.
    pub(crate) parent_top: LayerId,
    pub(crate) child_top: LayerId,
}

impl BranchEdit {
    /// Type and payload of the journal record.
    pub(crate) fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer::default();
        let kind = match self {
            Self::Create { branch, owner, top } => {
                out.u32(branch.get()).u32(owner.uid).u32(owner.gid).u32(top.get());
                1
            }
            Self::Fork { parent, child, owner, layers } => {
                out.u32(parent.get()).u32(child.get()).u32(owner.uid).u32(owner.gid);
                out.u32(layers.base.get()).u32(layers.parent_top.get());
                out.u32(layers.child_top.get()).u8(FILTER);
                2
            }
            Self::Delete { branch } => {
                out.u32(branch.get());
                3
            }
            Self::SetOwner { branch, owner } => {
                out.u32(branch.get()).u32(owner.uid).u32(owner.gid);
                4
            }
            Self::Merge { lower, upper } => {
                out.u32(lower.get()).u32(upper.get());
                5
            }
            Self::Limit { branch, max_bytes } => {
                out.u32(branch.get()).u64(max_bytes.unwrap_or(u64::MAX));
                6
            }
            Self::State { records, next_layer } => {
                out.u64(*records).u32(next_layer.map_or(0, LayerId::get));
                7
            }
            Self::Layer { layer, base, filtered, face } => {
                out.u32(layer.get()).u32(base.map_or(0, LayerId::get));
                out.u8(u8::from(*filtered)).u32(face.get());
                8
            }
            Self::Branch { branch, parent, owner, seat } => {
                out.u32(branch.get()).u32(parent.map_or(0, BranchId::get));
                out.u32(owner.uid).u32(owner.gid).u32(seat.top.get());
                out.u64(seat.max_bytes.unwrap_or(u64::MAX));
                9
            }
            Self::Used { first, last } => {
                out.u32(first.get()).u32(last.get());
                10
            }
        };
        (kind, out.into_bytes())
    }

    pub(crate) fn decode(entry: &Entry<'_>) -> Result<Self, Malformed> {
        let mut from = Reader::new(entry.payload);
        let edit = match entry.kind {
            1 => Self::Create {
                branch: from.branch()?,
                owner: owner(&mut from)?,
                top: from.layer()?,
            },
            2 => {
                let (parent, child) = (from.branch()?, from.branch()?);
                let owner = owner(&mut from)?;
                let layers = ForkLayers {
                    base: from.layer()?,
                    parent_top: from.layer()?,
                    child_top: from.layer()?,
                };
                if from.u8()? != FILTER {
                    return Err(Malformed);
                }
                Self::Fork { parent, child, owner, layers }
            }
            3 => Self::Delete { branch: from.branch()? },
            4 => Self::SetOwner { branch: from.branch()?, owner: owner(&mut from)? },
            5 => Self::Merge { lower: from.layer()?, upper: from.layer()? },
            6 => Self::Limit { branch: from.branch()?, max_bytes: max_bytes(&mut from)? },
            7 => Self::State { records: from.u64()?, next_layer: LayerId::new(from.u32()?) },
            8 => Self::Layer {
                layer: from.layer()?,
                base: LayerId::new(from.u32()?),
                filtered: from.u8()? != 0,
                face: from.layer()?,
            },
            9 => {
                let (branch, parent) = (from.branch()?, BranchId::new(from.u32()?).ok());
                let owner = owner(&mut from)?;
                let seat = Seat { top: from.layer()?, max_bytes: max_bytes(&mut from)? };
                Self::Branch { branch, parent, owner, seat }
            }
            10 => Self::Used { first: from.branch()?, last: from.branch()? },
            _ => return Err(Malformed),
        };
        from.end()?;
        Ok(edit)
    }
}

fn max_bytes(from: &mut Reader<'_>) -> Result<Option<u64>, Malformed> {
    Ok(Some(from.u64()?).filter(|max| *max != u64::MAX))
}

fn owner(from: &mut Reader<'_>) -> Result<Owner, Malformed> {
    Ok(Owner { uid: from.u32()?, gid: from.u32()? })
}
