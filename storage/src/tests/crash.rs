//! Crashes at every system call of the store: whatever was acknowledged before must be there, and
//! nothing may be there that never was.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::recording::{Call, Crash, RecordingDisk, make_image};
use super::slow::SlowDisk;
use super::{OWNER, TempDir, assert_sane, assert_sound, contents, id, open, open_on, resolve};
use crate::branch::{Branch, Renaming};
use crate::disk::{Disk, Open, write_all};
use crate::id::FileId;
use crate::import::{INCOMING, incoming};
use crate::journal::Making;
use crate::store::Store;

/// What must hold once the store acknowledged something.
enum Promise {
    Exists(u32),
    Gone(u32),
    /// The file begins with these bytes.
    Begins(u32, &'static str, Vec<u8>),
    /// From here on the file is one of these.
    OneOf(u32, &'static str, Vec<Vec<u8>>),
    /// The file is this until it is changed again.
    Is(u32, &'static str, Vec<u8>),
    /// What was said of the file before does not hold from here on.
    Changing(u32, &'static str),
}

struct Story {
    disk: RecordingDisk,
    store: Store,
    /// How many calls had been made when a promise was given.
    promises: Vec<(usize, Promise)>,
}

impl Story {
    fn promise(&mut self, promise: Promise) {
        self.promises.push((self.disk.count(), promise));
    }

    fn branch(&self, number: u32) -> Arc<Branch> {
        self.store.branch(id(number)).unwrap()
    }

    fn create(&mut self, number: u32) {
        self.store.create(id(number), OWNER).unwrap();
        self.promise(Promise::Exists(number));
    }

    fn fork(&mut self, parent: u32, child: u32) {
        self.store.fork(id(parent), id(child), OWNER).unwrap();
        self.promise(Promise::Exists(child));
    }

    /// Makes a branch of a directory, nothing of which but the names is durable before.
    fn import(&mut self, number: u32) {
        let (dir, sub) = (incoming(id(number)), incoming(id(number)).join("sub"));
        let parent = Path::new(INCOMING);
        for made in [parent, &dir, &sub] {
            self.disk.create_dir(made).unwrap();
        }
        for (name, parts) in IMPORTED {
            let file = self.disk.open(&dir.join(name), Open::OrCreate).unwrap();
            write_all(&*file, &filled(parts), 0).unwrap();
        }
        for made in [Path::new("."), parent, &dir, &sub] {
            self.disk.sync_dir(made).unwrap();
        }
        self.store.import(id(number), OWNER).unwrap();
        self.promise(Promise::Exists(number));
        for (name, parts) in IMPORTED {
            self.promise(Promise::Is(number, name, filled(parts)));
        }
    }

    fn write(&self, number: u32, name: &str, offset: u64, bytes: &[u8]) -> FileId {
        let branch = self.branch(number);
        let file = resolve(&branch, name).unwrap_or_else(|| {
            let made = branch.make(FileId::ROOT, name.as_bytes(), Making::File, 0o600);
            made.unwrap().node.file
        });
        branch.write(file, offset, bytes).unwrap();
        file
    }

    /// Appends a record of odd length, as a log would, and makes it durable.
    fn append(&mut self, number: u32, record: u8) {
        let before = contents(&self.branch(number), "log").unwrap_or_default();
        let file = self.write(number, "log", before.len() as u64, &[record; 1500]);
        self.branch(number).fsync(file).unwrap();
        let after = contents(&self.branch(number), "log").unwrap();
        self.promise(Promise::Begins(number, "log", after));
    }
}

const IMPORTED: [(&str, &[(u8, usize)]); 3] =
    [("whole", &[(1, 8192)]), ("sub/odd", &[(0, 4096), (2, 5000)]), ("empty", &[])];

fn filled(parts: &[(u8, usize)]) -> Vec<u8> {
    parts.iter().flat_map(|(byte, len)| vec![*byte; *len]).collect()
}

/// A life of three branches. Every rule of `branch/durability.rs` is needed somewhere in it.
fn tell(background: bool) -> (TempDir, Story) {
    let dir = TempDir::new();
    let disk = RecordingDisk::new(dir.path());
    let store = open_on(Arc::new(disk.clone()), background);
    let mut story = Story { disk, store, promises: Vec::new() };
    story.create(1);
    // Written, never synced by itself; then a fork, whose first fsync must vouch for it.
    story.write(1, "data", 0, &filled(&[(1, 9000)]));
    story.write(1, "both", 0, &filled(&[(1, 3 * 4096)]));
    story.append(1, 1);
    story.write(1, "late", 0, &filled(&[(2, 20_000)]));
    story.fork(1, 2);
    story.append(2, 2);
    story.promise(Promise::Begins(2, "late", filled(&[(2, 20_000)])));
    story.promise(Promise::Begins(2, "data", filled(&[(1, 9000)])));
    story.append(1, 3);
    story.promise(Promise::Begins(1, "late", filled(&[(2, 20_000)])));
    // Held when a compute starts, skipped by its recovery, and moved past by its checkpoint.
    story.write(2, "held", 4096, &filled(&[(4, 5000)]));
    story.store.begin_compute(id(2)).unwrap();
    story.append(2, 4);
    story.promise(Promise::Begins(2, "held", filled(&[(0, 4096), (4, 5000)])));
    replace(&mut story);
    start_over(&mut story);
    shrink_and_grow(&mut story, 2, "data", 9000, 1);
    shrink_and_grow(&mut story, 2, "held", 9096, 4);
    // A page of its own over one of the parent's, which must not come back.
    story.write(2, "both", 8192, &filled(&[(7, 4096)]));
    shrink_and_grow(&mut story, 2, "both", 3 * 4096, 7);
    story.fork(2, 3);
    let file = story.write(3, "late", 100, &filled(&[(9, 3)]));
    story.append(3, 5);
    story.branch(3).fsync(file).unwrap();
    let late = filled(&[(2, 100), (9, 3), (2, 19_897)]);
    story.promise(Promise::Begins(3, "late", late));
    story.store.delete(id(2)).unwrap();
    story.promise(Promise::Gone(2));
    story.append(3, 6);
    for round in 0..7 {
        fork_and_forget(&mut story, round);
    }
    story.store.delete(id(3)).unwrap();
    story.promise(Promise::Gone(3));
    story.append(1, 20);
    for _ in 0..20 {
        let branch = story.branch(1);
        branch.create(FileId::ROOT, b"passing", 0o600).unwrap();
        branch.remove(FileId::ROOT, b"passing", false).unwrap();
    }
    story.store.settle();
    if background {
        assert_eq!(story.store.depth(id(1)), 2, "all frozen layers are one");
        for journal in ["branches.journal", "journal"] {
            let compacted =
                |call: &Call| matches!(call, Call::Rename { to, .. } if to.ends_with(journal));
            assert!(story.disk.calls().iter().any(compacted), "{journal} was compacted");
        }
    }
    story.append(1, 21);
    story.import(40);
    story.append(40, 1);
    story.promise(Promise::Changing(40, "whole"));
    story.write(40, "whole", 4096, &filled(&[(3, 9000)]));
    story.fork(40, 41);
    story.append(41, 2);
    story.promise(Promise::Is(41, "whole", filled(&[(1, 4096), (3, 9000)])));
    confirm_late(&mut story);
    story.store.close().unwrap();
    (dir, story)
}

/// A tentative fork promises nothing until it is confirmed, and everything from then on.
fn confirm_late(story: &mut Story) {
    story.write(41, "unsynced", 0, &filled(&[(5, 9000)]));
    story.store.fork_tentative(id(41), id(42), OWNER).unwrap();
    story.store.begin_compute(id(42)).unwrap();
    let calls = story.disk.count();
    let file = story.write(42, "early", 0, &filled(&[(6, 7000)]));
    story.branch(42).fsync(file).unwrap();
    story.branch(42).fsync_dir().unwrap();
    let since = story.disk.calls().split_off(calls);
    let is_data = |path: &Path| path.ends_with(format!("{file}-{file}"));
    let data = since.iter().find_map(|call| match call {
        Call::CreateFile { file, path } if is_data(path) => Some(*file),
        _ => None,
    });
    let data = data.expect("its data file was made");
    let is_synced = |call: &Call| matches!(call, Call::Sync { file } if *file == data);
    assert!(!since.iter().any(is_synced), "{since:?}");
    story.store.confirm(id(42)).unwrap();
    story.promise(Promise::Exists(42));
    story.promise(Promise::Is(42, "early", filled(&[(6, 7000)])));
    story.promise(Promise::Is(42, "unsynced", filled(&[(5, 9000)])));
    story.append(42, 1);
    // What the parent promises holds, though this fork is not durably known before.
    story.store.fork_tentative(id(41), id(43), OWNER).unwrap();
    story.append(41, 1);
}

/// Changes branch 1 in every way that a merge must keep, and lets a fork of it come and go, so that
/// there is something to merge. Two files take turns: what one round leaves, ragged ends too, is
/// merged before it changes again.
fn fork_and_forget(story: &mut Story, round: u8) {
    let (child, name) = (u32::from(round) + 10, ["even", "odd"][usize::from(round % 2)]);
    story.promise(Promise::Changing(1, name));
    let mut bytes = contents(&story.branch(1), name).unwrap_or_default();
    let file = story.write(1, name, 4096, &filled(&[(round + 10, 2 * 4096)]));
    bytes.resize(bytes.len().max(3 * 4096), 0);
    bytes[4096..3 * 4096].fill(round + 10);
    let branch = story.branch(1);
    let mut set_size = |pages: usize, more: usize| {
        branch.set_size(file, (pages * 4096 + more) as u64).unwrap();
        bytes.resize(pages * 4096 + more, 0);
    };
    match round {
        0 | 1 => {
            story.write(1, name, 5 * 4096, &[round + 10; 100]);
            bytes.resize(5 * 4096, 0);
            bytes.resize(5 * 4096 + 100, round + 10);
        }
        2 => set_size(5, 50),
        3 => {
            set_size(5, 50);
            set_size(7, 0);
        }
        4 => set_size(7, 0),
        _ => set_size(1, 10),
    }
    branch.fsync(file).unwrap();
    story.promise(Promise::Is(1, name, bytes.clone()));
    story.write(1, "gone", 0, &filled(&[(round, 6000)]));
    story.fork(1, child);
    // The first thing a new layer holds is a name.
    let (from, to) = ((FileId::ROOT, &b"gone"[..]), (FileId::ROOT, &b"kept"[..]));
    story.branch(child).rename(from, to, Renaming::Replace).unwrap();
    story.branch(child).fsync_dir().unwrap();
    story.promise(Promise::Is(child, "kept", filled(&[(round, 6000)])));
    story.append(child, round);
    story.promise(Promise::Is(child, name, bytes));
    story.append(1, round);
    branch.remove(FileId::ROOT, b"gone", false).unwrap();
    story.store.delete(id(child)).unwrap();
    story.promise(Promise::Gone(child));
    story.store.settle();
}

/// Replaces a file by renaming another over it.
fn replace(story: &mut Story) {
    let (old, new) = (filled(&[(5, 6000)]), filled(&[(6, 700)]));
    let file = story.write(1, "map", 0, &old);
    story.branch(1).fsync(file).unwrap();
    story.promise(Promise::OneOf(1, "map", vec![old, new.clone()]));
    let file = story.write(1, "map.tmp", 0, &new);
    let branch = story.branch(1);
    branch.fsync(file).unwrap();
    let (from, to) = ((FileId::ROOT, &b"map.tmp"[..]), (FileId::ROOT, &b"map"[..]));
    branch.rename(from, to, Renaming::Replace).unwrap();
    branch.fsync_dir().unwrap();
    story.promise(Promise::OneOf(1, "map", vec![new]));
}

/// Truncates a file to nothing, never synced; its old data goes only when the record that says so is
/// durable.
fn start_over(story: &mut Story) {
    let old = filled(&[(8, 9000)]);
    let file = story.write(1, "over", 0, &old);
    story.branch(1).fsync(file).unwrap();
    story.promise(Promise::OneOf(1, "over", vec![old, Vec::new()]));
    story.branch(1).set_size(file, 0).unwrap();
    story.store.settle();
}

/// Cuts a file of one byte value inside a page and grows it again over the cut.
fn shrink_and_grow(story: &mut Story, number: u32, name: &'static str, size: usize, byte: u8) {
    let branch = story.branch(number);
    let file = resolve(&branch, name).unwrap();
    let whole = contents(&branch, name).unwrap();
    assert_eq!(whole.len(), size);
    let cut = whole[..5000].to_vec();
    let mut grown = cut.clone();
    grown.resize(size, 0);
    assert_eq!(whole.last(), Some(&byte));
    branch.fsync(file).unwrap();
    story.promise(Promise::OneOf(number, name, vec![whole, cut, grown.clone()]));
    branch.set_size(file, 5000).unwrap();
    branch.set_size(file, size as u64).unwrap();
    branch.fsync(file).unwrap();
    story.promise(Promise::OneOf(number, name, vec![grown]));
}

fn check(store: &Store, promises: &[(usize, Promise)], calls: usize, context: &str) {
    let given = |at: &usize| *at <= calls;
    for (at, promise) in promises.iter().filter(|(at, _)| given(at)) {
        let is_gone = |number: u32| {
            // A deletion may have taken effect before it was acknowledged.
            promises.iter().any(|(_, later)| matches!(later, Promise::Gone(n) if *n == number))
                && store.branch(id(number)).is_err()
        };
        match promise {
            Promise::Exists(number) => {
                assert!(store.branch(id(*number)).is_ok() || is_gone(*number), "{context} {at}");
            }
            Promise::Gone(number) => assert!(store.branch(id(*number)).is_err(), "{context}"),
            Promise::Begins(number, name, bytes) if !is_gone(*number) => {
                let found = contents(&store.branch(id(*number)).unwrap(), name).unwrap_or_default();
                let fits = found.starts_with(bytes) || superseded(promises, promise, &found);
                assert!(fits, "{context}: {name} in {number}, promised at {at}");
            }
            Promise::OneOf(number, name, any) if !is_gone(*number) => {
                let found = contents(&store.branch(id(*number)).unwrap(), name).unwrap_or_default();
                assert!(any.contains(&found), "{context}: {name} in {number}, promised at {at}");
            }
            Promise::Is(number, name, bytes) if !is_gone(*number) => {
                let changes = promises.iter().any(|(later, change)| {
                    matches!(change, Promise::Changing(n, l) if n == number && l == name)
                        && (*at..calls).contains(later)
                });
                let found = contents(&store.branch(id(*number)).unwrap(), name).unwrap_or_default();
                assert!(changes || found == *bytes, "{context}: {name} in {number} at {at}");
            }
            _ => {}
        }
    }
}

/// Whether the file was changed on purpose after the promise, and is now as it was then allowed to
/// be.
fn superseded(promises: &[(usize, Promise)], promise: &Promise, found: &Vec<u8>) -> bool {
    let Promise::Begins(number, name, _) = promise else { return false };
    promises.iter().any(|(_, later)| {
        matches!(later, Promise::OneOf(n, l, any) if n == number && l == name && any.contains(found))
    })
}

fn crash_everywhere(background: bool) {
    let (_dir, story) = tell(background);
    let calls = story.disk.calls();
    println!("{} calls, {} promises", calls.len(), story.promises.len());
    for count in 0..=calls.len() {
        for crash in [Crash::Killed, Crash::PowerLost, Crash::PowerTorn] {
            let context = format!("{crash:?} after {count} calls");
            let image = TempDir::new();
            let mut random = StdRng::seed_from_u64(count as u64);
            make_image(&calls[..count], crash, &mut random, image.path());
            assert_sound(image.path(), &context);
            let store = open(image.path());
            check(&store, &story.promises, count, &context);
            assert_sane(&store, &context);
            drop(store);
            assert_sound(image.path(), &context);
            // What recovery did must not undo anything either.
            check(&open(image.path()), &story.promises, count, &format!("{context}, reopened"));
        }
    }
}

#[test]
fn whatever_was_acknowledged_survives_a_crash_at_any_call() {
    crash_everywhere(true);
}

/// The fsync of a child must vouch for its parent's layer even if nobody sealed that yet.
#[test]
fn whatever_was_acknowledged_survives_without_a_keeper() {
    crash_everywhere(false);
}

/// A commit is a write in place and its sync, whatever else happened in the branch since the last.
#[test]
fn a_commit_in_place_costs_one_sync() {
    let dir = TempDir::new();
    let disk = RecordingDisk::new(dir.path());
    let store = open_on(Arc::new(disk.clone()), false);
    let mut story = Story { disk, store, promises: Vec::new() };
    story.create(1);
    story.append(1, 1);
    story.fork(1, 2);
    story.append(1, 2);
    let file = story.write(1, "log", 0, &[3; 1000]);
    story.write(1, "another", 0, &[3; 1000]);
    let before = story.disk.count();
    story.branch(1).fsync(file).unwrap();
    let calls = story.disk.calls().split_off(before);
    assert!(matches!(calls[..], [Call::Sync { .. }]), "{calls:?}");
}

/// While a fork's record is on its way to the medium, its parent goes on in a layer that a power
/// cut would undo. So no fsync of the parent may return before that record is durable.
#[test]
fn an_fsync_waits_for_the_record_of_the_fork_before_it() {
    let dir = TempDir::new();
    let disk = SlowDisk::new(dir.path());
    let store = open_on(Arc::new(disk.clone()), false);
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let file = branch.create(FileId::ROOT, b"file", 0o600).unwrap().node.file;
    branch.write(file, 0, &[1; 4096]).unwrap();
    disk.arrived.store(false, Ordering::Release);
    let shut = disk.door.write().unwrap();
    std::thread::scope(|scope| {
        let fork = scope.spawn(|| store.fork(id(1), id(2), OWNER));
        while !disk.arrived.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let (done, synced) = std::sync::mpsc::channel();
        let branch = branch.clone();
        scope.spawn(move || {
            branch.write(file, 0, &[2; 4096]).unwrap();
            branch.fsync(file).unwrap();
            done.send(()).unwrap();
        });
        // Nothing can be awaited that must not happen; a sync that does not wait takes no time.
        let early = synced.recv_timeout(Duration::from_millis(300));
        drop(shut);
        fork.join().unwrap().unwrap();
        assert!(early.is_err(), "the fsync returned before the fork was durable");
        synced.recv().unwrap();
    });
}
