//! What merged layers must still hold, beside what the model and the crash images look at.

use super::{OWNER, TempDir, assert_sound, contents, id, open, resolve};
use crate::branch::{Branch, NewAttributes};
use crate::id::FileId;
use crate::journal::Making;
use crate::store::Store;

fn make(branch: &Branch, name: &str, bytes: &[u8]) -> FileId {
    let file = branch.create(FileId::ROOT, name.as_bytes(), 0o600).unwrap().node.file;
    branch.write(file, 0, bytes).unwrap();
    file
}

/// Freezes what branch 1 holds; nobody but it stands on that then.
fn freeze(store: &Store, round: u32) {
    store.fork(id(1), id(100 + round), OWNER).unwrap();
    store.delete(id(100 + round)).unwrap();
    store.settle();
}

/// The lower layer's page has old bytes behind the place where the upper one cut the file.
#[test]
fn old_bytes_behind_a_cut_do_not_come_back_after_a_merge() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let file = make(&branch, "file", &[7; 9000]);
    freeze(&store, 1);
    branch.set_size(file, 5000).unwrap();
    freeze(&store, 2);
    assert_eq!(store.depth(id(1)), 2);
    drop((branch, store));
    let store = open(dir.path());
    let branch = store.branch(id(1)).unwrap();
    branch.set_size(file, 9000).unwrap();
    let found = contents(&branch, "file").unwrap();
    assert!(found[..5000] == [7; 5000] && found[5000..] == [0; 4000]);
}

#[test]
fn a_file_without_a_name_is_there_until_it_is_closed() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let read = |file| {
        let mut bytes = Vec::new();
        branch.read(file, 0, 20_000, &mut bytes).unwrap();
        bytes
    };
    let early = make(&branch, "early", &[1; 6000]);
    freeze(&store, 1);
    let late = make(&branch, "late", &[2; 6000]);
    branch.write(early, 4096, &[3; 100]).unwrap();
    branch.remove(FileId::ROOT, b"early", false).unwrap();
    freeze(&store, 2);
    branch.remove(FileId::ROOT, b"late", false).unwrap();
    branch.write(early, 0, &[4; 10]).unwrap();
    for round in 3..6 {
        freeze(&store, round);
        assert_eq!(read(early)[..20], [[4; 10], [1; 10]].concat());
        assert_eq!(read(early)[4096..4196], [3; 100]);
        assert_eq!(read(late), [2; 6000]);
    }
    assert!(store.depth(id(1)) > 2, "merging waits");
    branch.forget(early, 1).unwrap();
    branch.forget(late, 1).unwrap();
    // What could not be merged is tried again at the next tidying or start.
    drop((branch, store));
    let store = open(dir.path());
    store.settle();
    assert_eq!(store.depth(id(1)), 2);
    assert_eq!(resolve(&store.branch(id(1)).unwrap(), "early"), None);
}

/// Its merged journal says nothing any more of a file that came and went in a layer, but was open
/// and is changed in those above.
#[test]
fn changes_of_a_file_that_lost_its_name_below_do_not_end_a_journal() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    make(&branch, "first", &[1; 100]);
    freeze(&store, 1);
    let lost = branch.create(FileId::ROOT, b"lost", 0o600).unwrap().node.file;
    branch.remove(FileId::ROOT, b"lost", false).unwrap();
    for round in 2..6 {
        // Bears the highest number, and says so, while it does.
        branch.create(FileId::ROOT, b"passing", 0o600).unwrap();
        branch.remove(FileId::ROOT, b"passing", false).unwrap();
        freeze(&store, round);
    }
    branch.set_attributes(lost, NewAttributes { mode: Some(0o400), modified: None }).unwrap();
    for round in 6..10 {
        make(&branch, &format!("later-{round}"), &[1; 100]);
        freeze(&store, round);
    }
    assert!(store.depth(id(1)) < 5, "layers were merged");
    drop((branch, store));
    let store = open(dir.path());
    let branch = store.branch(id(1)).unwrap();
    assert!((6..10).all(|round| resolve(&branch, &format!("later-{round}")).is_some()));
}

/// Layers between those that forks stand on are merged, and no fork sees a difference.
#[test]
fn forks_above_merged_layers_hold_what_they_held() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let file = make(&branch, "file", &[0; 40_000]);
    for round in 1..10u8 {
        let at = usize::from(round) * 4096;
        branch.write(file, at as u64, &[round; 100]).unwrap();
        store.fork(id(1), id(u32::from(round) + 1), OWNER).unwrap();
    }
    let before: Vec<_> = (2..11).map(|n| contents(&store.branch(id(n)).unwrap(), "file")).collect();
    for gone in [3, 4, 6, 7, 8] {
        store.delete(id(gone)).unwrap();
    }
    store.settle();
    for left in [2u32, 5, 9, 10] {
        let found = contents(&store.branch(id(left)).unwrap(), "file");
        assert_eq!(found, before[left as usize - 2]);
    }
    assert_eq!(store.depth(id(1)), 5);
}

/// A branch of a branch of a branch whose parents are gone is one layer, and what the filter hid
/// once stays hidden, while files of that name made since stay.
#[test]
fn layers_on_both_sides_of_the_filter_become_one() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    for number in 1..6 {
        let branch = store.branch(id(number)).unwrap();
        if number == 1 {
            make(&branch, "PG_VERSION", b"15\n");
            branch.make(FileId::ROOT, b"pg_notify", Making::Directory, 0o700).unwrap();
        }
        let notify = resolve(&branch, "pg_notify").unwrap();
        branch.make(notify, b"0000", Making::File, 0o600).unwrap();
        make(&branch, "postmaster.pid", &[u8::try_from(number).unwrap(); 5000]);
        make(&branch, &format!("of-{number}"), &[u8::try_from(number).unwrap(); 5000]);
        store.fork(id(number), id(number + 1), OWNER).unwrap();
    }
    let last = store.branch(id(6)).unwrap();
    make(&last, "postmaster.pid", b"mine");
    (1..6).for_each(|number| store.delete(id(number)).unwrap());
    store.fork(id(6), id(7), OWNER).unwrap();
    store.settle();
    let check = |store: &Store| {
        let (last, child) = (store.branch(id(6)).unwrap(), store.branch(id(7)).unwrap());
        for branch in [&last, &child] {
            for number in 1..6 {
                let bytes = contents(branch, &format!("of-{number}")).unwrap();
                assert_eq!(bytes, [u8::try_from(number).unwrap(); 5000]);
            }
            assert!(resolve(branch, "pg_notify").is_some());
            assert_eq!(resolve(branch, "pg_notify/0000"), None);
        }
        assert_eq!(contents(&last, "postmaster.pid"), Some(b"mine".to_vec()));
        assert_eq!(resolve(&child, "postmaster.pid"), None);
        super::assert_sane(store, "merged");
    };
    assert_eq!((store.depth(id(6)), store.depth(id(7))), (2, 2));
    check(&store);
    drop((last, store));
    assert_sound(dir.path(), "merged");
    check(&open(dir.path()));
}

/// Its journal would tell of every one of them for as long as the branch lives.
#[test]
fn files_that_come_and_go_leave_nothing_in_the_journal_of_a_top() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    make(&branch, "kept", &[1; 5000]);
    for _ in 0..500 {
        let file = make(&branch, "temporary", &[2; 5000]);
        branch.set_size(file, 9000).unwrap();
        branch.remove(FileId::ROOT, b"temporary", false).unwrap();
    }
    store.settle();
    let journal = dir.path().join("layers/1/journal");
    let len = std::fs::metadata(&journal).unwrap().len();
    assert!(len < 500, "{len} bytes");
    make(&branch, "later", &[3; 100]);
    freeze(&store, 1);
    drop((branch, store));
    let store = open(dir.path());
    let branch = store.branch(id(1)).unwrap();
    assert_eq!(contents(&branch, "kept").unwrap(), [1; 5000]);
    assert_eq!(contents(&branch, "later").unwrap(), [3; 100]);
    assert_eq!(contents(&branch, "temporary"), None);
    drop((branch, store));
    assert_sound(dir.path(), "compacted");
}
