//! Forks of one branch that run side by side.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{OWNER, TempDir, assert_sane, contents, id, open};
use crate::id::FileId;
use crate::store::Store;

const FORKS: u32 = 300;

/// Whichever of them freezes first: the numbers of its layers may be the larger ones.
#[test]
fn forks_of_one_branch_at_a_time_outlive_the_store() {
    let dir = TempDir::new();
    let store = open(dir.path());
    store.create(id(1), OWNER).unwrap();
    fork_from_all_sides(&store);
    assert_sane(&store, "before");
    drop(store);
    let store = open(dir.path());
    assert_sane(&store, "after");
    for child in 1..=4 * FORKS {
        let found = store.branch(id(child + 1)).unwrap();
        assert!(contents(&found, "file").is_some_and(|bytes| bytes.len() == 8));
    }
}

fn fork_from_all_sides(store: &Store) {
    let parent = store.branch(id(1)).unwrap();
    let file = parent.create(FileId::ROOT, b"file", 0o600).unwrap().node.file;
    parent.write(file, 0, &[0; 8]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !done.load(Ordering::Acquire) {
                parent.write(file, 0, &turn.to_le_bytes()).unwrap();
                turn += 1;
            }
        });
        let sides = [0, 1, 2, 3].map(|side| {
            scope.spawn(move || {
                for turn in 0..FORKS {
                    store.fork(id(1), id(2 + side * FORKS + turn), OWNER).unwrap();
                }
            })
        });
        for side in sides {
            side.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
}
