//! The edits of a layer's namespace: what its journal holds.
//!
//! ```text
//! type          payload
//! 1 make        parent 8, inode 8, kind 1 (1 file, 2 directory, 3 symlink), mode 4, time 8,
//!               name string, target string (symlink only, else empty)
//! 2 remove      parent 8, time 8, name string
//! 3 rename      parent 8, new parent 8, exchange 1, time 8, name string, new name string
//! 4 link        inode 8, parent 8, time 8, name string
//! 5 attributes  inode 8, mode 4, modified 8, changed 8
//! 6 grow        inode 8, size 8, time 8
//! 7 cut         inode 8, size 8, time 8
//! 8 empty       inode 8, new contents number 8, time 8
//! 9 filter        version 1: what the identity filter hides goes; written by merges only
//! ```
//! A string is 2 bytes of length and that many bytes; times are nanoseconds since 1970, signed.
//! A running branch and a replay both change the namespace by applying these and by nothing else.

use std::sync::Arc;

use crate::id::FileId;
use crate::journal::branches::FILTER;
use crate::journal::bytes::{Malformed, Reader, Writer};
use crate::journal::record::Entry;

/// A file name: any bytes but `/` and NUL.
pub(crate) type Name = Arc<[u8]>;

/// What kind of thing an edit makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    File,
    Directory,
    Symlink(Arc<[u8]>),
}

/// One change of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Make { parent: FileId, name: Name, inode: FileId, making: Making, mode: u32, time: i64 },
    Remove { parent: FileId, name: Name, time: i64 },
    Rename { parent: FileId, name: Name, to: FileId, new: Name, exchange: bool, time: i64 },
    Link { inode: FileId, parent: FileId, name: Name, time: i64 },
    Attributes { inode: FileId, mode: u32, modified: i64, changed: i64 },
    Grow { inode: FileId, size: u64, time: i64 },
    Cut { inode: FileId, size: u64, time: i64 },
    Empty { inode: FileId, contents: FileId, time: i64 },
    Filter,
}

impl Edit {
    /// Type and payload of the journal record.
    pub(crate) fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer::default();
        let kind = match self {
            Self::Make { parent, name, inode, making, mode, time } => {
                let (kind, target): (u8, &[u8]) = match making {
                    Making::File => (1, b""),
                    Making::Directory => (2, b""),
                    Making::Symlink(target) => (3, target),
                };
                out.file(*parent).file(*inode).u8(kind).u32(*mode).i64(*time);
                out.string(name).string(target);
                1
            }
            Self::Remove { parent, name, time } => {
                out.file(*parent).i64(*time).string(name);
                2
            }
            Self::Rename { parent, name, to, new, exchange, time } => {
                out.file(*parent).file(*to).u8(u8::from(*exchange)).i64(*time);
                out.string(name).string(new);
                3
            }
            Self::Link { inode, parent, name, time } => {
                out.file(*inode).file(*parent).i64(*time).string(name);
                4
            }
            Self::Attributes { inode, mode, modified, changed } => {
                out.file(*inode).u32(*mode).i64(*modified).i64(*changed);
                5
            }
            Self::Grow { inode, size, time } => {
                out.file(*inode).u64(*size).i64(*time);
                6
            }
            Self::Cut { inode, size, time } => {
                out.file(*inode).u64(*size).i64(*time);
                7
            }
            Self::Empty { inode, contents, time } => {
                out.file(*inode).file(*contents).i64(*time);
                8
            }
            Self::Filter => {
                out.u8(FILTER);
                9
            }
        };
        (kind, out.into_bytes())
    }

    pub(crate) fn decode(entry: &Entry<'_>) -> Result<Self, Malformed> {
        let mut from = Reader::new(entry.payload);
        let edit = match entry.kind {
            1 => Self::decode_make(&mut from)?,
            2 => {
                let (parent, time) = (from.file()?, from.i64()?);
                Self::Remove { parent, time, name: name(&mut from)? }
            }
            3 => {
                let (parent, to) = (from.file()?, from.file()?);
                let exchange = match from.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed),
                };
                let time = from.i64()?;
                let (name, new) = (name(&mut from)?, name(&mut from)?);
                Self::Rename { parent, name, to, new, exchange, time }
            }
            4 => {
                let (inode, parent, time) = (from.file()?, from.file()?, from.i64()?);
                Self::Link { inode, parent, time, name: name(&mut from)? }
            }
            5 => {
                let (inode, mode) = (from.file()?, from.u32()?);
                Self::Attributes { inode, mode, modified: from.i64()?, changed: from.i64()? }
            }
            6 => Self::Grow { inode: from.file()?, size: from.u64()?, time: from.i64()? },
            7 => Self::Cut { inode: from.file()?, size: from.u64()?, time: from.i64()? },
            8 => Self::Empty { inode: from.file()?, contents: from.file()?, time: from.i64()? },
            9 if from.u8()? == FILTER => Self::Filter,
            _ => return Err(Malformed),
        };
        from.end()?;
        Ok(edit)
    }

    fn decode_make(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (parent, inode) = (from.file()?, from.file()?);
        let (kind, mode, time) = (from.u8()?, from.u32()?, from.i64()?);
        let name = name(from)?;
        let target = from.string()?;
        let making = match kind {
            1 => Making::File,
            2 => Making::Directory,
            3 => Making::Symlink(target.into()),
            _ => return Err(Malformed),
        };
        Ok(Self::Make { parent, name, inode, making, mode, time })
    }
}

fn name(from: &mut Reader<'_>) -> Result<Name, Malformed> {
    Ok(from.string()?.into())
}
