//! Every page carries the mark of the branch that wrote it, and when. A branch sees its own pages
//! and those that its ancestors wrote before it was cut from them, and no other, whatever happens.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{OWNER, TempDir, contents, id, open};
use crate::id::FileId;
use crate::journal::Making;
use crate::store::Store;

const NAMES: [&str; 3] = ["a", "b", "c"];
const PAGES: u64 = 300;

/// Branches, each with its parent and when it was cut.
type Lineage = BTreeMap<u32, Option<(u32, u64)>>;

struct Run {
    random: StdRng,
    store: Option<Store>,
    dir: TempDir,
    lineage: Lineage,
    alive: Vec<u32>,
    clock: u64,
}

/// Whether a page that `writer` wrote at `time` may be seen in `branch`.
fn may_see(lineage: &Lineage, branch: u32, writer: u32, time: u64) -> bool {
    let (mut at, mut until) = (branch, u64::MAX);
    loop {
        if at == writer {
            return time < until;
        }
        let Some((parent, cut)) = lineage[&at] else { return false };
        (at, until) = (parent, until.min(cut));
    }
}

impl Run {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn step(&mut self) {
        self.clock += 1;
        let at = self.alive[self.random.random_range(0..self.alive.len())];
        match self.random.random_range(0..40) {
            0 if self.alive.len() < 10 => {
                let child = u32::try_from(self.lineage.len()).unwrap() + 1;
                self.store().fork(id(at), id(child), OWNER).unwrap();
                self.lineage.insert(child, Some((at, self.clock)));
                self.alive.push(child);
            }
            1 if self.alive.len() > 3 => {
                self.store().delete(id(at)).unwrap();
                self.alive.retain(|branch| *branch != at);
            }
            2 => {
                // As a kill would; the next one finds what the kernel has.
                drop(self.store.take());
                self.store = Some(open(self.dir.path()));
            }
            3 => self.store().settle(),
            _ => self.mark(at),
        }
    }

    fn mark(&mut self, at: u32) {
        let branch = self.store().branch(id(at)).unwrap();
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        let found = branch.lookup(FileId::ROOT, name.as_bytes());
        let made =
            found.or_else(|_| branch.make(FileId::ROOT, name.as_bytes(), Making::File, 0o600));
        let file = made.unwrap().node.file;
        match self.random.random_range(0..20) {
            0 => branch.set_size(file, self.random.random_range(0..PAGES) * 4096).unwrap(),
            1 => branch.set_size(file, 0).unwrap(),
            _ => {
                let mut page = [0; 4096];
                for place in page.chunks_exact_mut(16) {
                    place[..8].copy_from_slice(&u64::from(at).to_le_bytes());
                    place[8..].copy_from_slice(&self.clock.to_le_bytes());
                }
                let pages = self.random.random_range(1..4);
                let first = self.random.random_range(0..PAGES - 4);
                branch.write(file, first * 4096, &page.repeat(pages)).unwrap();
            }
        }
    }

    fn check(&self) {
        for at in &self.alive {
            let branch = self.store().branch(id(*at)).unwrap();
            for bytes in NAMES.iter().filter_map(|name| contents(&branch, name)) {
                for page in bytes.chunks(4096) {
                    let mark = |place: &[u8]| u64::from_le_bytes(place.try_into().unwrap());
                    let (writer, time) = (mark(&page[..8]), mark(&page[8..16]));
                    assert!(page.chunks_exact(16).all(|place| place == &page[..16]), "mixed");
                    let writer = u32::try_from(writer).unwrap();
                    let seen = writer == 0 || may_see(&self.lineage, *at, writer, time);
                    assert!(seen, "branch {at} sees what {writer} wrote at {time}");
                }
            }
        }
    }
}

#[test]
fn no_branch_sees_a_page_of_another() {
    for seed in 0..6 {
        let dir = TempDir::new();
        let store = open(dir.path());
        store.create(id(1), OWNER).unwrap();
        let mut run = Run {
            random: StdRng::seed_from_u64(seed),
            dir,
            store: Some(store),
            lineage: Lineage::from([(1, None)]),
            alive: vec![1],
            clock: 0,
        };
        for step in 0..1500 {
            run.step();
            if step % 250 == 249 {
                run.check();
            }
        }
    }
}

/// Each a branch of the one before, to depth 100; then all but the last go.
#[test]
fn a_hundred_branches_deep_everything_is_there() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    for depth in 1..=100u32 {
        let branch = store.branch(id(depth)).unwrap();
        let found = branch.lookup(FileId::ROOT, b"file");
        let made = found.or_else(|_| branch.make(FileId::ROOT, b"file", Making::File, 0o600));
        let file = made.unwrap().node.file;
        branch.write(file, u64::from(depth) * 4096, &[u8::try_from(depth).unwrap(); 4096]).unwrap();
        if depth < 100 {
            store.fork(id(depth), id(depth + 1), OWNER).unwrap();
        }
    }
    let check = |store: &Store, depth: u32| {
        let bytes = contents(&store.branch(id(depth)).unwrap(), "file").unwrap();
        assert_eq!(bytes.len(), (depth as usize + 1) * 4096);
        for (page, bytes) in bytes.chunks(4096).enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == page), "page {page} of {depth}");
        }
    };
    (1..=100).for_each(|depth| check(&store, depth));
    drop(store);
    let store = open(dir.path());
    (1..100).for_each(|depth| store.delete(id(depth)).unwrap());
    store.settle();
    super::assert_sane(&store, "deep");
    assert!(store.depth(id(100)) <= 3, "{} layers", store.depth(id(100)));
    check(&store, 100);
    drop(store);
    check(&open(dir.path()), 100);
}
