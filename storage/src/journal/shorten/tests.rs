//! Random journals by seed: what is left of one, replayed, is what all of it is.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::filter::strip;
use crate::id::LayerId;
use crate::tree::Tree;

/// Few, so that edits meet; the identity filter hides the last.
const NAMES: [&[u8]; 4] = [b"a", b"b", b"c", b"postmaster.pid"];
const BASE: u32 = 1;
const LAYER: u32 = 2;

fn layer(number: u32) -> LayerId {
    LayerId::new(number).unwrap()
}

/// A journal as it comes to be.
struct Writing {
    tree: Tree,
    layer: LayerId,
    records: Vec<(u8, Vec<u8>)>,
    gone: Vec<FileId>,
    random: StdRng,
}

impl Writing {
    fn apply(&mut self, edit: &Edit) {
        let record = self.records.len() as u64 + 1;
        if matches!(edit, Edit::Filter) {
            strip(&mut self.tree, self.layer);
        } else {
            let gone = self.tree.apply(edit, self.layer, record).unwrap();
            self.gone.extend(gone.map(|(inode, _)| inode));
        }
        self.records.push(edit.encode());
    }

    fn inodes(&self, directories: bool) -> Vec<FileId> {
        let mut found: Vec<_> = (self.tree.cells())
            .filter(|(_, cell)| cell.inode.read().unwrap().directory().is_some() == directories)
            .map(|(inode, _)| *inode)
            .collect();
        found.sort_unstable();
        found
    }

    fn place(&mut self) -> (FileId, Name) {
        let directory = *self.inodes(true).choose(&mut self.random).unwrap();
        (directory, (*NAMES.choose(&mut self.random).unwrap()).into())
    }

    fn at(&self, place: &(FileId, Name)) -> Option<FileId> {
        self.tree.entry(place.0, &place.1).unwrap()
    }

    /// None for a file, else whether the directory is empty.
    fn is_empty(&self, inode: FileId) -> Option<bool> {
        let cell = self.tree.cell(inode).unwrap();
        let inode = cell.inode.read().unwrap();
        inode.directory().map(|directory| directory.is_empty())
    }

    fn size(&self, file: FileId) -> u64 {
        self.tree.cell(file).map_or(0, |cell| cell.inode.read().unwrap().size())
    }

    fn step(&mut self) {
        let (place, other) = (self.place(), self.place());
        let (here, there) = (self.at(&place), self.at(&other));
        let time = self.random.random_range(1..1000);
        let edit = match (self.random.random_range(0..12), here, there) {
            (0..4, None, _) => {
                let making =
                    if self.random.random_bool(0.2) { Making::Directory } else { Making::File };
                let inode = self.tree.allocate().unwrap();
                Edit::Make { parent: place.0, name: place.1, inode, making, mode: 0o600, time }
            }
            (0..4, Some(inode), _) if self.is_empty(inode) != Some(false) => {
                Edit::Remove { parent: place.0, name: place.1, time }
            }
            (4..7, Some(moved), replaced)
                if Some(moved) != replaced
                    && (self.is_empty(moved).is_none() || other.0 == FileId::ROOT)
                    && replaced.is_none_or(|replaced| {
                        self.is_empty(replaced) == self.is_empty(moved).map(|_| true)
                    }) =>
            {
                let ((parent, name), (to, new)) = (place, other);
                Edit::Rename { parent, name, to, new, exchange: false, time }
            }
            (7, Some(one), Some(two))
                if one != two && self.is_empty(one).or(self.is_empty(two)).is_none() =>
            {
                let ((parent, name), (to, new)) = (place, other);
                Edit::Rename { parent, name, to, new, exchange: true, time }
            }
            (8, Some(inode), None) if self.is_empty(inode).is_none() => {
                Edit::Link { inode, parent: other.0, name: other.1, time }
            }
            (9, ..) if self.random.random_bool(0.1) => Edit::Filter,
            _ => return self.resize(time),
        };
        self.apply(&edit);
    }

    /// Changes a file, now and then one that has no name any more.
    fn resize(&mut self, time: i64) {
        let mut files = self.inodes(false);
        files.extend(self.gone.choose(&mut self.random));
        let Some(inode) = files.choose(&mut self.random).copied() else { return };
        let size = self.size(inode);
        let edit = match self.random.random_range(0..4) {
            0 if size > 1 => Edit::Cut { inode, size: size / 2, time },
            1 => Edit::Empty { inode, contents: self.tree.allocate().unwrap(), time },
            2 => Edit::Attributes { inode, mode: 0o640, modified: time, changed: time },
            _ => Edit::Grow { inode, size: size + 5000, time },
        };
        self.apply(&edit);
    }
}

fn numbered<P: AsRef<[u8]>>(records: &[(u8, P)]) -> Vec<Entry<'_>> {
    (records.iter().zip(1..))
        .map(|((kind, payload), sequence)| Entry {
            sequence,
            kind: *kind,
            payload: payload.as_ref(),
        })
        .collect()
}

fn replay(mut tree: Tree, entries: &[Entry<'_>]) -> Tree {
    for entry in entries {
        match Edit::decode(entry).unwrap() {
            Edit::Filter => drop(strip(&mut tree, layer(LAYER))),
            edit => drop(tree.apply(&edit, layer(LAYER), entry.sequence).unwrap()),
        }
    }
    tree
}

/// All that must come out the same, and the next number.
fn described(mut tree: Tree) -> (Vec<String>, FileId) {
    let mut cells: Vec<_> = (tree.cells())
        .map(|(inode, cell)| {
            let held = cell.inode.read().unwrap();
            let inside = match (held.directory(), held.file()) {
                (Some(directory), _) => {
                    let of = |name: &Name| (name.clone(), directory.entry(name));
                    format!("{:?}", directory.names().iter().map(of).collect::<Vec<_>>())
                }
                (_, Some(file)) => format!("{} {:?} {}", file.size, file.contents, held.modified),
                _ => String::new(),
            };
            format!("{inode:?} {:o} {} {inside}", held.mode, held.links)
        })
        .collect();
    cells.sort_unstable();
    (cells, tree.allocate().unwrap())
}

/// A journal that is about to begin, and what it begins with: nothing, if it is the lowest.
fn writing(seed: u64, is_lowest: bool) -> (Tree, Writing) {
    let random = StdRng::seed_from_u64(seed);
    let tree = Tree::new(layer(BASE), 0);
    let mut base = Writing { tree, layer: layer(BASE), records: vec![], gone: vec![], random };
    (0..if is_lowest { 0 } else { 20 }).for_each(|_| base.step());
    let before = base.tree.clone();
    (before, Writing { layer: layer(LAYER), records: vec![], gone: vec![], ..base })
}

#[test]
fn what_is_left_comes_to_the_same() {
    let (mut all, mut left) = (0, 0);
    for seed in 0..400 {
        let is_lowest = seed % 4 == 0;
        let (base, mut journal) = writing(seed, is_lowest);
        for _ in 0..150 {
            journal.step();
        }
        let entries = numbered(&journal.records);
        let short = shorten(&entries, is_lowest);
        let short = numbered(&short);
        let whole = described(replay(base.clone(), &entries));
        assert_eq!(described(replay(base.clone(), &short)), whole, "seed {seed}");
        let one_by_one = one_by_one(&entries, is_lowest, seed);
        let replayed = replay(base, &numbered(&one_by_one));
        assert_eq!(described(replayed), whole, "seed {seed}: layer by layer");
        assert_eq!(
            shorten(&short, is_lowest).len(),
            short.len(),
            "seed {seed}: nothing else can go"
        );
        (all, left) = (all + entries.len(), left + short.len());
    }
    assert!(left * 3 < all * 2, "{left} of {all} records are left");
}

/// As layers are merged: what is left of the lower ones is shortened again with the next above.
fn one_by_one<'a>(entries: &[Entry<'a>], is_lowest: bool, seed: u64) -> Vec<Left<'a>> {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut left, mut rest): (Vec<Left<'a>>, _) = (Vec::new(), entries);
    while !rest.is_empty() {
        let (next, above) = rest.split_at(random.random_range(1..=rest.len().min(60)));
        left.extend(next.iter().map(|entry| (entry.kind, Cow::Borrowed(entry.payload))));
        let shorter = shorten(&numbered(&left), is_lowest);
        left = shorter
            .into_iter()
            .map(|(kind, payload)| (kind, payload.into_owned().into()))
            .collect();
        rest = above;
    }
    left
}

#[test]
fn what_came_and_went_leaves_nothing_behind() {
    let (_, mut journal) = writing(1, false);
    let (wal, state): (Name, Name) = (b"wal".as_slice().into(), b"state".as_slice().into());
    let time = 1;
    for round in 0..1000 {
        let inode = journal.tree.allocate().unwrap();
        let (parent, name) = (FileId::ROOT, Name::from(b"temporary".as_slice()));
        let making = Making::File;
        journal.apply(&Edit::Make { parent, name: name.clone(), inode, making, mode: 0, time });
        journal.apply(&Edit::Grow { inode, size: 8192, time });
        // As the kernel tells the time of what it has held back.
        let (mode, modified) = (0o700, i64::from(round));
        journal.apply(&Edit::Attributes { inode: parent, mode, modified, changed: time });
        if round % 3 == 0 {
            // A state that is replaced whole.
            let (to, new, exchange) = (parent, state.clone(), false);
            journal.apply(&Edit::Rename { parent, name, to, new, exchange, time });
            continue;
        }
        if round % 3 == 1 {
            // As a Postgres with links installs a segment, and takes it away again.
            journal.apply(&Edit::Link { inode, parent, name: wal.clone(), time });
            journal.apply(&Edit::Remove { parent, name: wal.clone(), time });
        }
        journal.apply(&Edit::Remove { parent, name, time });
    }
    let entries = numbered(&journal.records);
    let left = shorten(&entries, false).len();
    // The first state, which may have replaced another; its removal; the last state; attributes.
    assert!(left <= 8, "{left} of {} are left", entries.len());
}
