//! Every call to the disk fails once, and once from there on: whoever asked is told, and nobody
//! loses anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::io::Errno;

use super::faulty::{Fault, FaultyDisk};
use super::{OWNER, TempDir, assert_sane, assert_sound, contents, id, open, resolve};
use crate::branch::Branch;
use crate::id::FileId;
use crate::journal::Making;
use crate::store::Store;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What every branch must hold: its files.
type Expected = BTreeMap<u32, BTreeMap<&'static str, Vec<u8>>>;

struct Run {
    random: StdRng,
    store: Store,
    expected: Expected,
    next: u32,
}

impl Run {
    fn step(&mut self) {
        let branches: Vec<u32> = self.expected.keys().copied().collect();
        let at = branches[self.random.random_range(0..branches.len())];
        match self.random.random_range(0..14) {
            0 => {
                let child = self.next;
                self.next += 1;
                let forked = self.store.fork(id(at), id(child), OWNER);
                // One whose record did not get to the medium may be there all the same.
                if forked.is_ok() || self.store.branch(id(child)).is_ok() {
                    self.expected.insert(child, self.expected[&at].clone());
                }
            }
            1 if branches.len() > 2 => {
                let deleted = self.store.delete(id(at));
                if deleted.is_ok() || self.store.branch(id(at)).is_err() {
                    self.expected.remove(&at);
                }
            }
            2 => self.store.settle(),
            _ => self.change(at),
        }
    }

    fn change(&mut self, at: u32) {
        let branch = self.store.branch(id(at)).unwrap();
        let files = self.expected.get_mut(&at).unwrap();
        let name = NAMES[self.random.random_range(0..NAMES.len())];
        let Some(file) = resolve(&branch, name) else {
            if branch.make(FileId::ROOT, name.as_bytes(), Making::File, 0o600).is_ok() {
                files.insert(name, Vec::new());
            }
            return;
        };
        let old = files[name].clone();
        let mut new = old.clone();
        let offset: usize = self.random.random_range(0..30_000);
        match self.random.random_range(0..8) {
            0..4 => {
                let data = vec![self.random.random(); self.random.random_range(1..12_000)];
                new.resize(new.len().max(offset + data.len()), 0);
                new[offset..offset + data.len()].copy_from_slice(&data);
                let written = branch.write(file, offset as u64, &data);
                keep(&branch, files, name, (old, new), written.is_ok());
            }
            4 => {
                let size = if self.random.random() { 0 } else { offset };
                new.resize(size, 0);
                let cut = branch.set_size(file, size as u64);
                keep(&branch, files, name, (old, new), cut.is_ok());
            }
            5 => {
                new.resize(new.len().max(offset + 9000), 0);
                let grown = branch.allocate(file, offset as u64, 9000, false);
                keep(&branch, files, name, (old, new), grown.is_ok());
            }
            6 => {
                if branch.remove(FileId::ROOT, name.as_bytes(), false).is_ok() {
                    files.remove(name);
                }
            }
            _ => drop(branch.fsync(file)),
        }
    }

    fn check(&self, context: &str) {
        for (at, files) in &self.expected {
            let branch = self.store.branch(id(*at)).unwrap();
            for name in NAMES {
                let found = contents(&branch, name);
                assert!(found.as_ref() == files.get(name), "{context}: {name} of {at}");
            }
        }
    }
}

/// Takes the file as it is now into the books: as told if all went well; else each byte is the old
/// or the new one, and the length as well.
fn keep(
    branch: &Branch,
    files: &mut BTreeMap<&'static str, Vec<u8>>,
    name: &'static str,
    (old, new): (Vec<u8>, Vec<u8>),
    done: bool,
) {
    let found = contents(branch, name).unwrap();
    if done {
        assert!(found == new, "what was done is there");
    } else {
        assert!([old.len(), new.len()].contains(&found.len()), "a length that never was");
        for (at, byte) in found.iter().enumerate() {
            let fits = old.get(at) == Some(byte) || new.get(at) == Some(byte);
            assert!(fits, "byte {at} of {name} was never there");
        }
    }
    files.insert(name, found);
}

/// Runs with the fault. False if there were not so many calls.
fn run(seed: u64, fault: Fault) -> bool {
    let context = format!("seed {seed}, {fault:?}");
    let dir = TempDir::new();
    {
        let store = open(dir.path());
        store.create(id(1), OWNER).unwrap();
    }
    let disk = FaultyDisk::new(dir.path(), fault);
    // A start that meets the fault is tested by the crash images: it changes nothing.
    let Ok(store) = super::try_open(Arc::new(disk.clone())) else { return true };
    if store.branch(id(1)).is_err() {
        return true;
    }
    let expected = Expected::from([(1, BTreeMap::new())]);
    let mut run = Run { random: StdRng::seed_from_u64(seed), store, expected, next: 2 };
    for _ in 0..60 {
        run.step();
    }
    run.check(&context);
    let struck = disk.mend();
    run.go_on(&context, fault);
    let Run { store, expected, random, next } = run;
    drop(store);
    assert_sound(dir.path(), &context);
    let run = Run { store: open(dir.path()), expected, random, next };
    run.check(&format!("{context}, reopened"));
    run.store.settle();
    assert_sane(&run.store, &context);
    struck
}

impl Run {
    /// What had no failed sync goes on as if nothing had been.
    fn go_on(&mut self, context: &str, fault: Fault) {
        self.store.settle();
        let mut whole = 0;
        let list = self.store.list().unwrap();
        for summary in &list {
            let branch = self.store.branch(summary.branch).unwrap();
            let files = self.expected.get_mut(&summary.branch.get()).unwrap();
            let made = branch.make(FileId::ROOT, b"after", Making::File, 0o600);
            let synced = made.and_then(|made| {
                branch.write(made.node.file, 0, &[1; 5000])?;
                branch.fsync(made.node.file)?;
                branch.remove(FileId::ROOT, b"after", false)
            });
            assert_eq!(synced.is_ok(), branch.failure().is_none(), "{context}");
            files.remove("after");
            whole += usize::from(synced.is_ok());
        }
        if !fault.syncs {
            assert_eq!(whole, list.len(), "{context}: a full disk poisons nobody");
            self.store.fork(id(list[0].branch.get()), id(self.next), OWNER).unwrap();
            assert_sane(&self.store, context);
            self.store.delete(id(self.next)).unwrap();
        }
        self.check(context);
    }
}

fn fail_everywhere(error: Errno, lasts: bool, syncs: bool) {
    let seeds = std::env::var("ARDENT_SEEDS").unwrap_or_else(|_| "0..3".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        let mut after = 0;
        while run(seed, Fault { after, error, lasts, syncs }) {
            // Every call of the first seed, a part of those of the others.
            after += if seed == 0 { 1 } else { 7 };
        }
        println!("seed {seed}: {after} calls");
    }
}

#[test]
fn a_full_disk_is_told_to_whoever_asked_and_harms_nobody() {
    fail_everywhere(Errno::NOSPC, true, false);
}

#[test]
fn a_write_that_fails_once_harms_nobody() {
    fail_everywhere(Errno::IO, false, false);
}

/// Branches whose sync failed are read-only, and say so; all hold what they held.
#[test]
fn a_failed_sync_poisons_what_it_concerns_and_nothing_is_lost() {
    fail_everywhere(Errno::IO, false, true);
}
