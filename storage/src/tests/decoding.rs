//! Bytes from disk never panic: every truncation, and mutations by seed, also under a checksum that
//! is right. `ARDENT_SEEDS=0..1000000 cargo test -p ardent-storage mutated` searches further.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{OWNER, TempDir, id};
use crate::disk::{Disk, Open, RealDisk, read_all};
use crate::graph::Graph;
use crate::id::{DataName, FileId, LayerId};
use crate::journal::{BranchEdit, Edit, Entry, ForkLayers, Log, LogKind, Making, Seat};
use crate::manifest::{DataPages, Manifest};
use crate::tree::Tree;

fn file(number: u64) -> FileId {
    FileId::new(number).unwrap()
}

fn layer(number: u32) -> LayerId {
    LayerId::new(number).unwrap()
}

/// One of each kind, which fit each other in this order.
fn edits() -> Vec<Edit> {
    let make = |inode, name: &[u8], making| {
        let (parent, inode) = (FileId::ROOT, file(inode));
        Edit::Make { parent, name: name.into(), inode, making, mode: 0o600, time: -5 }
    };
    let (parent, time) = (FileId::ROOT, 7);
    let rename = |name: &[u8], new: &[u8], exchange| {
        let (name, new) = (name.into(), new.into());
        Edit::Rename { parent, name, to: parent, new, exchange, time }
    };
    vec![
        make(2, b"file", Making::File),
        make(3, b"directory", Making::Directory),
        make(4, b"link", Making::Symlink(b"file".as_slice().into())),
        Edit::Grow { inode: file(2), size: 9000, time },
        Edit::Cut { inode: file(2), size: 5000, time },
        Edit::Link { inode: file(2), parent: file(3), name: b"again".as_slice().into(), time },
        Edit::Attributes { inode: file(2), mode: 0o400, modified: 1, changed: 2 },
        Edit::Empty { inode: file(2), contents: file(9), time },
        rename(b"file", b"other", false),
        rename(b"other", b"link", true),
        Edit::Remove { parent, name: b"link".as_slice().into(), time },
        Edit::Filter,
    ]
}

fn branch_edits() -> Vec<BranchEdit> {
    let owner = OWNER;
    let layers = ForkLayers { base: layer(1), parent_top: layer(2), child_top: layer(3) };
    let seat = Seat { top: layer(4), max_bytes: Some(5) };
    vec![
        BranchEdit::State { records: 3, next_layer: Some(layer(1)) },
        BranchEdit::Create { branch: id(1), owner, top: layer(1) },
        BranchEdit::Fork { parent: id(1), child: id(2), owner, layers },
        BranchEdit::SetOwner { branch: id(2), owner },
        BranchEdit::Limit { branch: id(2), max_bytes: None },
        BranchEdit::Layer { layer: layer(4), base: None, filtered: true, face: layer(4) },
        BranchEdit::Branch { branch: id(7), parent: Some(id(1)), owner, seat },
        BranchEdit::Used { first: id(10), last: id(12) },
        BranchEdit::Merge { lower: layer(1), upper: layer(2) },
        BranchEdit::Delete { branch: id(2) },
    ]
}

fn entry((kind, payload): &(u8, Vec<u8>)) -> Entry<'_> {
    Entry { sequence: 1, kind: *kind, payload }
}

#[test]
fn every_edit_reads_as_it_was_written_and_no_part_of_it_does() {
    for edit in edits() {
        let encoded = edit.encode();
        assert_eq!(Edit::decode(&entry(&encoded)), Ok(edit));
        for len in 0..encoded.1.len() {
            assert!(Edit::decode(&entry(&(encoded.0, encoded.1[..len].to_vec()))).is_err());
        }
    }
    for edit in branch_edits() {
        let encoded = edit.encode();
        assert_eq!(BranchEdit::decode(&entry(&encoded)), Ok(edit));
        for len in 0..encoded.1.len() {
            assert!(BranchEdit::decode(&entry(&(encoded.0, encoded.1[..len].to_vec()))).is_err());
        }
    }
}

/// Changes, adds or takes away some bytes.
fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..5) {
            0 => bytes.insert(at, random.random()),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0xff, random.random()][at % 5],
            _ => {}
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let seeds = std::env::var("ARDENT_SEEDS").unwrap_or_else(|_| "0..5000".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

/// Whatever a checksum lets pass is applied or refused, and leaves a tree that can be looked at.
#[test]
fn mutated_edits_do_not_panic() {
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut tree, mut graph) = (Tree::new(layer(1), 0), Graph::new());
        let edits = edits().iter().map(Edit::encode).collect::<Vec<_>>();
        let branch_edits = branch_edits().iter().map(BranchEdit::encode).collect::<Vec<_>>();
        let mut each = |encoded: &[(u8, Vec<u8>)], apply: &mut dyn FnMut(&Entry<'_>)| {
            for (kind, payload) in encoded {
                let (mut kind, mut payload) = (*kind, payload.clone());
                if random.random_bool(0.3) {
                    mutate(&mut payload, &mut random);
                }
                if random.random_bool(0.05) {
                    kind = random.random_range(0..12);
                }
                apply(&entry(&(kind, payload)));
            }
        };
        each(&edits, &mut |entry| {
            if let Ok(edit) = Edit::decode(entry) {
                drop(tree.apply(&edit, layer(1), 1));
            }
        });
        each(&branch_edits, &mut |entry| {
            if let Ok(edit) = BranchEdit::decode(entry) {
                drop(graph.apply(&edit));
            }
        });
        for number in 1..5 {
            graph.branches_above(layer(number));
            graph.chain(id(number)).take(10).count();
        }
        graph.state();
        graph.flaw();
        tree.cells().count();
    }
}

#[test]
fn mutated_files_are_refused_or_read() {
    let manifest = Manifest {
        layer: layer(7),
        last_record: 9,
        files: vec![DataPages {
            name: DataName { inode: file(4), contents: file(5) },
            modified: -3,
            runs: vec![0..3, 9..10],
        }],
    };
    let encoded: Vec<_> = edits().iter().map(Edit::encode).collect();
    let records = encoded.iter().map(|(kind, payload)| (*kind, payload.as_slice()));
    let (log, _) = Log::compose(LogKind::Layer(7), records).unwrap();
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = manifest.encode();
        mutate(&mut bytes, &mut random);
        let read = Manifest::decode(&bytes);
        assert!(read.is_err() || bytes == manifest.encode(), "seed {seed}");
        // Under a checksum that is right.
        let mut covered = manifest.encode();
        covered.truncate(covered.len() - 4);
        mutate(&mut covered, &mut random);
        let crc = crc32c::crc32c(&covered);
        covered.extend_from_slice(&crc.to_le_bytes());
        drop(Manifest::decode(&covered));
        let mut bytes = log.clone();
        mutate(&mut bytes, &mut random);
        let found = Log::entries(&bytes, LogKind::Layer(7));
        let whole = Log::entries(&log, LogKind::Layer(7));
        assert!(whole.starts_with(&found), "seed {seed}: a prefix of what was written");
    }
}

/// A whole store whose journal of branches is cut anywhere opens, or is refused with nothing lost.
#[test]
fn a_journal_of_branches_cut_anywhere_is_refused_or_read() {
    let dir = TempDir::new();
    {
        let store = super::open(dir.path());
        store.create(id(1), OWNER).unwrap();
        for number in 2..12 {
            let branch = store.branch(id(1)).unwrap();
            branch
                .make(FileId::ROOT, &[b'a' + u8::try_from(number).unwrap()], Making::File, 0o600)
                .unwrap();
            store.fork(id(1), id(number), OWNER).unwrap();
        }
        store.settle();
    }
    let disk = RealDisk::new(dir.path());
    let path = Path::new("branches.journal");
    let whole = read_all(&*disk.open(path, Open::Reading).unwrap()).unwrap();
    let layers = disk.list(Path::new("layers")).unwrap().len();
    // Zeros stand behind the records.
    let records = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for len in 0..records {
        std::fs::write(dir.path().join(path), &whole[..len]).unwrap();
        let refused = super::try_open(std::sync::Arc::new(RealDisk::new(dir.path())));
        assert!(refused.is_err(), "every record is older than some sealed layer: {len}");
        assert_eq!(disk.list(Path::new("layers")).unwrap().len(), layers);
    }
    std::fs::write(dir.path().join(path), &whole).unwrap();
    assert_eq!(super::open(dir.path()).list().unwrap().len(), 11);
}
