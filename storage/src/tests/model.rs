//! Random operations on a tree of branches against an oracle in memory, by seed.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::{OWNER, TempDir, assert_sane, assert_sound, contents, id, open, resolve};
use crate::branch::{Branch, NewAttributes, Renaming};
use crate::id::{BranchId, FileId};
use crate::import::incoming_dir;
use crate::journal::Making;
use crate::store::Store;

/// What one branch must hold: names, and the contents behind them, which links share.
#[derive(Clone, Default)]
struct Oracle {
    names: BTreeMap<String, Node>,
    files: HashMap<u64, Vec<u8>>,
    next: u64,
}

impl Oracle {
    /// Bytes of all files that have a name, each once.
    fn bytes(&self) -> u64 {
        let named: std::collections::BTreeSet<_> = self
            .names
            .values()
            .filter_map(|node| if let Node::File(number) = node { Some(number) } else { None })
            .collect();
        named.into_iter().map(|number| self.files[number].len() as u64).sum()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Node {
    Directory,
    File(u64),
}

/// Names are few, so that operations meet.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SIZE_MAX: u64 = 3 << 20;

struct Run {
    random: StdRng,
    store: Store,
    dir: TempDir,
    oracles: BTreeMap<BranchId, Oracle>,
    next: u32,
}

impl Run {
    fn new(seed: u64) -> Self {
        let dir = TempDir::new();
        let store = open(dir.path());
        store.create(id(1), OWNER).unwrap();
        let oracles = BTreeMap::from([(id(1), Oracle::default())]);
        Self { random: StdRng::seed_from_u64(seed), dir, store, oracles, next: 2 }
    }

    fn path(&mut self) -> String {
        let depth = self.random.random_range(1..3);
        let names: Vec<_> = (0..depth).map(|_| *NAMES.choose(&mut self.random).unwrap()).collect();
        names.join("/")
    }

    /// A place in a file: often at a page or megabyte border, or the end.
    fn place(&mut self, size: u64) -> u64 {
        match self.random.random_range(0..5) {
            0 => size,
            1 => self.random.random_range(0..SIZE_MAX / 4096) * 4096,
            2 => (1 << 20) + self.random.random_range(0..3) * 4096 - 4096,
            3 => size.saturating_sub(self.random.random_range(0..5000)),
            _ => self.random.random_range(0..SIZE_MAX),
        }
    }

    fn step(&mut self) {
        let branches: Vec<_> = self.oracles.keys().copied().collect();
        let at = *branches.choose(&mut self.random).unwrap();
        match self.random.random_range(0..100) {
            0..3 if self.oracles.len() < 8 => self.fork(at),
            3..4 if self.oracles.len() > 2 => {
                self.store.delete(at).unwrap();
                self.oracles.remove(&at);
            }
            4..6 => self.reopen(),
            6 if self.oracles.len() < 8 => self.import(),
            6..8 => self.store.begin_compute(at).unwrap(),
            _ => self.change(at),
        }
    }

    fn fork(&mut self, parent: BranchId) {
        let child = id(self.next);
        self.next += 1;
        self.store.fork(parent, child, OWNER).unwrap();
        let copy = self.oracles[&parent].clone();
        self.oracles.insert(child, copy);
    }

    /// Makes a branch of a directory with a file that has a hole, and an empty one.
    fn import(&mut self) {
        let made = id(self.next);
        self.next += 1;
        let dir = incoming_dir(self.dir.path(), made);
        std::fs::create_dir_all(dir.join("a")).unwrap();
        let mut bytes = vec![0; self.random.random_range(0..20_000)];
        let file = std::fs::File::create(dir.join("a/b")).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let data: Vec<u8> =
            (0..self.random.random_range(1..9000)).map(|_| self.random.random()).collect();
        file.write_all_at(&data, bytes.len() as u64).unwrap();
        bytes.extend(data);
        std::fs::write(dir.join("c"), "").unwrap();
        self.store.import(made, OWNER).unwrap();
        let names = [("a", Node::Directory), ("a/b", Node::File(0)), ("c", Node::File(1))];
        let names = names.map(|(name, node)| (name.to_owned(), node)).into();
        let files = HashMap::from([(0, bytes), (1, Vec::new())]);
        self.oracles.insert(made, Oracle { names, files, next: 2 });
    }

    /// Ends the store without closing it, as a kill would, and opens it again.
    fn reopen(&mut self) {
        let empty = TempDir::new();
        drop(std::mem::replace(&mut self.store, open(empty.path())));
        assert_sound(self.dir.path(), "between two stores");
        let store = open(self.dir.path());
        drop(std::mem::replace(&mut self.store, store));
    }

    fn change(&mut self, at: BranchId) {
        let branch = self.store.branch(at).unwrap();
        let mut oracle = self.oracles.remove(&at).unwrap();
        let path = self.path();
        match self.random.random_range(0..13) {
            0..2 => make(&branch, &mut oracle, &path, Making::File),
            2 => make(&branch, &mut oracle, &path, Making::Directory),
            3 => remove(&branch, &mut oracle, &path),
            4 => {
                let to = self.path();
                rename(&branch, &mut oracle, &path, &to);
            }
            5 => {
                let to = self.path();
                link(&branch, &mut oracle, &path, &to);
            }
            6 => self.tell_time(&branch),
            _ => self.change_contents(&branch, &mut oracle, &path),
        }
        self.oracles.insert(at, oracle);
    }

    /// Of any file that the kernel knows, whether or not it has a name any more.
    fn tell_time(&mut self, branch: &Branch) {
        let mut known = branch.known_files().unwrap();
        known.sort_unstable();
        let Some(file) = known.choose(&mut self.random) else { return };
        let modified = Some(self.random.random_range(1..1 << 60));
        branch.set_attributes(*file, NewAttributes { mode: None, modified }).unwrap();
    }

    fn change_contents(&mut self, branch: &Branch, oracle: &mut Oracle, path: &str) {
        let Some(Node::File(number)) = oracle.names.get(path).copied() else { return };
        let file = resolve(branch, path).unwrap();
        let bytes = oracle.files.get_mut(&number).unwrap();
        let place = self.place(bytes.len() as u64);
        let len = match self.random.random_range(0..3) {
            0 => 8192,
            1 => self.random.random_range(1..20_000),
            _ => self.random.random_range(1..100),
        };
        let end = usize::try_from(place).unwrap() + len;
        let start = end - len;
        match self.random.random_range(0..9) {
            0..4 => {
                let data: Vec<u8> = (0..len).map(|_| self.random.random()).collect();
                branch.write(file, place, &data).unwrap();
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(&data);
            }
            4 => {
                branch.set_size(file, place).unwrap();
                bytes.resize(start, 0);
            }
            5 => {
                branch.set_size(file, 0).unwrap();
                bytes.clear();
            }
            6 => {
                branch.allocate(file, place, len as u64, false).unwrap();
                bytes.resize(bytes.len().max(end), 0);
            }
            7 => {
                branch.zero(file, place, len as u64, true).unwrap();
                let size = bytes.len();
                bytes[start.min(size)..end.min(size)].fill(0);
            }
            _ => branch.fsync(file).unwrap(),
        }
    }

    fn check(&self) {
        assert_sane(&self.store, "in service");
        for (at, oracle) in &self.oracles {
            let usage = self.store.usage(*at).unwrap();
            let [kept, walked] = self.store.both_counts(*at);
            assert_eq!(kept, walked, "cost of {at}");
            assert_eq!(usage.logical_bytes, oracle.bytes(), "size of {at}");
            let branch = self.store.branch(*at).unwrap();
            let mut expected = BTreeMap::new();
            for (path, node) in &oracle.names {
                let bytes = if let Node::File(number) = node { Some(*number) } else { None };
                expected.insert(path.clone(), bytes);
            }
            let mut found = Vec::new();
            walk(&branch, FileId::ROOT, "", &mut found);
            found.sort();
            assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>(), "names of {at}");
            for (path, number) in expected {
                if let Some(number) = number {
                    let bytes = contents(&branch, &path).unwrap();
                    assert!(bytes == oracle.files[&number], "contents of {path} in {at}");
                }
            }
        }
    }
}

fn walk(branch: &Branch, directory: FileId, prefix: &str, found: &mut Vec<String>) {
    let mut below = Vec::new();
    let mut after = 0;
    loop {
        // Few at a time, so that listings go on where they stopped.
        let mut batch = Vec::new();
        branch
            .read_dir(directory, after, |item| {
                batch.push(item);
                batch.len() < 2
            })
            .unwrap();
        let Some(last) = batch.last() else { break };
        after = last.cookie;
        below.append(&mut batch);
    }
    for item in below {
        let path = format!("{prefix}{}", String::from_utf8(item.name.to_vec()).unwrap());
        if item.attributes.kind == crate::branch::Kind::Directory {
            walk(branch, item.attributes.node.file, &format!("{path}/"), found);
        }
        found.push(path);
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn make(branch: &Branch, oracle: &mut Oracle, path: &str, making: Making) {
    let (parent, name) = split(path);
    let Some(directory) = resolve(branch, parent) else { return };
    let is_directory = parent.is_empty() || oracle.names.get(parent) == Some(&Node::Directory);
    let expected = is_directory && !oracle.names.contains_key(path);
    let node = if making == Making::Directory { Node::Directory } else { Node::File(oracle.next) };
    let made = branch.make(directory, name.as_bytes(), making, 0o600);
    assert_eq!(made.is_ok(), expected, "make {path}: {made:?}");
    if expected {
        oracle.names.insert(path.to_owned(), node);
        if let Node::File(number) = node {
            oracle.files.insert(number, Vec::new());
            oracle.next += 1;
        }
    }
}

fn has_children(oracle: &Oracle, path: &str) -> bool {
    oracle.names.keys().any(|name| name.starts_with(&format!("{path}/")))
}

fn remove(branch: &Branch, oracle: &mut Oracle, path: &str) {
    let (parent, name) = split(path);
    let Some(node) = oracle.names.get(path).copied() else { return };
    let directory = node == Node::Directory;
    let expected = !directory || !has_children(oracle, path);
    let removed = branch.remove(resolve(branch, parent).unwrap(), name.as_bytes(), directory);
    assert_eq!(removed.is_ok(), expected, "remove {path}: {removed:?}");
    if expected {
        oracle.names.remove(path);
    }
}

fn rename(branch: &Branch, oracle: &mut Oracle, path: &str, to: &str) {
    let Some(node) = oracle.names.get(path).copied() else { return };
    // The kernel refuses to move a directory below itself before it asks.
    if to == path || to.starts_with(&format!("{path}/")) || path.starts_with(&format!("{to}/")) {
        return;
    }
    let (parent, name) = split(path);
    let (to_parent, to_name) = split(to);
    let Some(to_directory) = resolve(branch, to_parent) else { return };
    let fits = to_parent.is_empty() || oracle.names.get(to_parent) == Some(&Node::Directory);
    let target = oracle.names.get(to).copied();
    let free = target.is_none_or(|target| {
        (target == Node::Directory) == (node == Node::Directory) && !has_children(oracle, to)
    });
    let from = (resolve(branch, parent).unwrap(), name.as_bytes());
    let renamed = branch.rename(from, (to_directory, to_name.as_bytes()), Renaming::Replace);
    assert_eq!(renamed.is_ok(), fits && free, "rename {path} {to}: {renamed:?}");
    let same_file = target == Some(node) && node != Node::Directory;
    if fits && free && !same_file {
        let moved: Vec<_> = oracle
            .names
            .extract_if(.., |name, _| name == path || name.starts_with(&format!("{path}/")))
            .collect();
        for (name, node) in moved {
            oracle.names.insert(format!("{to}{}", &name[path.len()..]), node);
        }
    }
}

fn link(branch: &Branch, oracle: &mut Oracle, path: &str, to: &str) {
    let Some(node @ Node::File(_)) = oracle.names.get(path).copied() else { return };
    let (parent, name) = split(to);
    let Some(directory) = resolve(branch, parent) else { return };
    let fits = parent.is_empty() || oracle.names.get(parent) == Some(&Node::Directory);
    let expected = fits && !oracle.names.contains_key(to);
    let linked = branch.link(resolve(branch, path).unwrap(), directory, name.as_bytes());
    assert_eq!(linked.is_ok(), expected, "link {path} {to}: {linked:?}");
    if expected {
        oracle.names.insert(to.to_owned(), node);
    }
}

/// Seeds and steps can be set to replay or to search: `ARDENT_SEEDS=from..to`, `ARDENT_STEPS=n`.
#[test]
fn branches_hold_what_an_oracle_holds() {
    let seeds = std::env::var("ARDENT_SEEDS").unwrap_or_else(|_| "0..12".to_owned());
    let (from, to) = seeds.split_once("..").unwrap();
    let steps = std::env::var("ARDENT_STEPS").map_or(600, |steps| steps.parse().unwrap());
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        let mut run = Run::new(seed);
        for step in 0..steps {
            run.step();
            if step % 50 == 49 {
                println!("seed {seed} step {step}");
                if step % 100 == 99 {
                    // The keeper may work on while the others are checked.
                    run.store.settle();
                }
                run.check();
            }
        }
        run.reopen();
        run.check();
    }
}

/// What is done to a file without a name leaves records that a replay must pass over, for whatever
/// follows them was acknowledged.
#[test]
fn a_file_that_lost_its_name_does_not_end_the_journal() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let made = branch.create(FileId::ROOT, b"orphan", 0o600).unwrap().node.file;
    branch.write(made, 0, &[1; 9000]).unwrap();
    branch.remove(FileId::ROOT, b"orphan", false).unwrap();
    branch.write(made, 9000, &[2; 9000]).unwrap();
    branch.set_size(made, 100).unwrap();
    branch.set_size(made, 0).unwrap();
    branch.set_attributes(made, NewAttributes { mode: Some(0o400), modified: None }).unwrap();
    branch.create(FileId::ROOT, b"later", 0o600).unwrap();
    branch.fsync_dir().unwrap();
    drop((branch, store));
    assert!(resolve(&open(dir.path()).branch(id(1)).unwrap(), "later").is_some());
}
