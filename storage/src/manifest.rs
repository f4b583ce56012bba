//! The manifest of a sealed layer: which pages each of its data files holds.
//!
//! ```text
//!  0  8  magic "ARDMANIF"
//!  8  4  format version
//! 12  4  layer number
//! 16  8  number of the last record of the layer's journal
//! 24  8  number of data files n
//! 32     n times: inode 8, contents 8, modified 8 (ns since 1970), number of runs r 8,
//!                 r times: first page 8, number of pages 8
//!  .  4  CRC32C of all bytes before
//! ```
//! Little-endian. Runs rise and do not touch. A manifest is written as `manifest.tmp`, synced,
//! renamed and its directory synced, after everything it speaks of is durable. A layer that has one
//! is durable, and holes of its data files are never asked again.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::disk::{Disk, Open, read_all, write_all};
use crate::files::layer_dir;
use crate::id::{DataName, LayerId};
use crate::journal::{Malformed, Reader, Writer};

/// Name of a layer's manifest in its directory.
pub(crate) const MANIFEST: &str = "manifest";
/// Name of a layer's journal in its directory.
pub(crate) const JOURNAL: &str = "journal";

const MAGIC: &[u8; 8] = b"ARDMANIF";
const VERSION: u32 = 1;

/// What is known of one data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataPages {
    pub(crate) name: DataName,
    pub(crate) modified: i64,
    pub(crate) runs: Vec<Range<u64>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) layer: LayerId,
    pub(crate) last_record: u64,
    pub(crate) files: Vec<DataPages>,
}

impl Manifest {
    /// What it says of data file `name`.
    pub(crate) fn file(&self, name: DataName) -> Option<&DataPages> {
        self.files.get(self.files.binary_search_by_key(&name, |file| file.name).ok()?)
    }

    /// Whether it speaks of data file `name`.
    pub(crate) fn names(&self, name: DataName) -> bool {
        self.file(name).is_some()
    }

    /// Pages of all its data files.
    pub(crate) fn pages(&self) -> u64 {
        self.files.iter().flat_map(|file| &file.runs).map(|run| run.end - run.start).sum()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(MAGIC).u32(VERSION).u32(self.layer.get()).u64(self.last_record);
        out.u64(self.files.len() as u64);
        for file in &self.files {
            out.file(file.name.inode).file(file.name.contents).i64(file.modified);
            out.u64(file.runs.len() as u64);
            for run in &file.runs {
                out.u64(run.start).u64(run.end.saturating_sub(run.start));
            }
        }
        let mut bytes = out.into_bytes();
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(covered) {
            return Err(Malformed);
        }
        let mut from = Reader::new(covered);
        if from.take(MAGIC.len())? != MAGIC || from.u32()? != VERSION {
            return Err(Malformed);
        }
        let (layer, last_record, count) = (from.layer()?, from.u64()?, from.u64()?);
        let mut files = Vec::new();
        for _ in 0..count {
            files.push(decode_file(&mut from)?);
        }
        from.end()?;
        Ok(Self { layer, last_record, files })
    }

    /// Publishes the manifest as that of `face`. Returns its length.
    pub(crate) fn publish(&self, disk: &dyn Disk, face: LayerId) -> io::Result<u64> {
        let dir = layer_dir(self.layer);
        let temporary = dir.join("manifest.tmp");
        let bytes = self.encode();
        let medium = disk.open(&temporary, Open::OrCreate)?;
        medium.set_len(0)?;
        write_all(&*medium, &bytes, 0)?;
        medium.sync()?;
        disk.rename(&temporary, &face_path(self.layer, face, MANIFEST))?;
        disk.sync_dir(&dir)?;
        Ok(bytes.len() as u64)
    }

    /// The manifest of `layer` as of `face`, if it was sealed.
    pub(crate) fn read(disk: &dyn Disk, layer: LayerId, face: LayerId) -> io::Result<Option<Self>> {
        let path = face_path(layer, face, MANIFEST);
        let medium = match disk.open(&path, Open::Existing) {
            Ok(medium) => medium,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::decode(&read_all(&*medium)?)
            .ok()
            .filter(|manifest| manifest.layer == layer)
            .map(Some)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged manifest"))
    }
}

/// Where the journal or the manifest of `layer` is since `face` was merged into it.
pub(crate) fn face_path(layer: LayerId, face: LayerId, name: &str) -> PathBuf {
    layer_dir(layer).join(face_name(layer, face, name))
}

/// The name of that file.
pub(crate) fn face_name(layer: LayerId, face: LayerId, name: &str) -> String {
    if face == layer { name.to_owned() } else { format!("{name}.{face}") }
}

fn decode_file(from: &mut Reader<'_>) -> Result<DataPages, Malformed> {
    let name = DataName { inode: from.file()?, contents: from.file()? };
    let (modified, count) = (from.i64()?, from.u64()?);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for _ in 0..count {
        let (start, len) = (from.u64()?, from.u64()?);
        let end = start.checked_add(len).filter(|end| *end > start).ok_or(Malformed)?;
        if runs.last().is_some_and(|last| last.end >= start) {
            return Err(Malformed);
        }
        runs.push(start..end);
    }
    Ok(DataPages { name, modified, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FileId;

    fn example() -> Manifest {
        let id = |number| FileId::new(number).unwrap();
        Manifest {
            layer: LayerId::new(7).unwrap(),
            last_record: 9,
            files: vec![
                DataPages {
                    name: DataName { inode: id(4), contents: id(5) },
                    modified: -3,
                    runs: vec![0..3, 9..10],
                },
                DataPages {
                    name: DataName { inode: id(6), contents: id(6) },
                    modified: 0,
                    runs: vec![],
                },
            ],
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn refuses_every_truncation_and_every_flipped_bit() {
        let bytes = example().encode();
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped).is_err());
        }
    }
}
