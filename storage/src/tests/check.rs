//! The consistency check finds what is done to a store behind its back, and says whom it concerns.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{OWNER, TempDir, assert_sound, contents, id, open};
use crate::id::FileId;
use crate::offline;

/// Branch 1 with a sealed layer below, branch 2 on the same, branch 3 on nothing of theirs.
fn make(dir: &Path) {
    let store = open(dir);
    store.create(id(1), OWNER).unwrap();
    store.create(id(3), OWNER).unwrap();
    for number in [1, 3] {
        let branch = store.branch(id(number)).unwrap();
        let file = branch.create(FileId::ROOT, b"file", 0o600).unwrap().node.file;
        branch.write(file, 0, &[7; 5 * 4096]).unwrap();
    }
    store.fork(id(1), id(2), OWNER).unwrap();
    store.settle();
    store.close().unwrap();
    drop(store);
    assert_sound(dir, "untouched");
}

type Harm<'a> = &'a dyn Fn(&Path);

/// Does `harm` to a store, which the check must find; says what it found.
fn found(harm: impl FnOnce(&Path)) -> Vec<String> {
    let dir = TempDir::new();
    make(dir.path());
    harm(dir.path());
    let findings = offline::check(dir.path()).unwrap();
    findings.iter().map(ToString::to_string).collect()
}

fn data_file(dir: &Path) -> std::path::PathBuf {
    let mut names = fs::read_dir(dir.join("layers/1")).unwrap().map(|entry| entry.unwrap().path());
    names.find(|path| path.to_string_lossy().ends_with("-2")).unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn every_harm_is_found_and_named() {
    let harms: [(&str, Harm<'_>); 9] = [
        ("layers/1/2-2: 5 pages from page 0 on are gone", &|dir| {
            let file = OpenOptions::new().write(true).open(data_file(dir)).unwrap();
            file.set_len(0).unwrap();
        }),
        ("layers/1/2-2: it cannot be read", &|dir| fs::remove_file(data_file(dir)).unwrap()),
        ("layers/1/2-2: 1 pages from page 9 on belong to no page map", &|dir| {
            let file = OpenOptions::new().write(true).open(data_file(dir)).unwrap();
            file.write_all_at(&[1; 4096], 9 * 4096).unwrap();
        }),
        ("layers/1: it cannot be loaded", &|dir| flip(&dir.join("layers/1/manifest"), 20)),
        ("layers/1: it cannot be loaded", &|dir| flip(&dir.join("layers/1/journal"), 40)),
        ("layers/1: it cannot be loaded", &|dir| {
            fs::remove_file(dir.join("layers/1/journal")).unwrap();
        }),
        ("notes: nothing in the store refers to it", &|dir| {
            fs::write(dir.join("notes"), "x").unwrap();
        }),
        ("branches.journal: no branch can be served", &|dir| {
            flip(&dir.join("branches.journal"), 30);
        }),
        ("layers/2", &|dir| fs::remove_dir_all(dir.join("layers/2")).unwrap()),
    ];
    for (expected, harm) in harms {
        let findings = found(harm);
        // The last cannot be told from what a power cut may leave.
        let is_crash = expected == "layers/2";
        let told = findings.iter().any(|finding| finding.starts_with(expected));
        assert!(told != is_crash, "{expected}: {findings:#?}");
    }
}

/// What only some branches stand on takes only those with it.
#[test]
fn a_damaged_layer_takes_only_the_branches_above_it() {
    let dir = TempDir::new();
    make(dir.path());
    flip(&dir.path().join("layers/1/manifest"), 20);
    let findings = offline::check(dir.path()).unwrap();
    assert!(findings[0].remedy.contains("branch 1, 2") || findings[0].remedy.contains("2, 1"));
    let store = open(dir.path());
    for lost in [1, 2] {
        let error = store.branch(id(lost)).err().unwrap().to_string();
        assert!(error.contains("layer") && error.contains("damaged"), "{error}");
    }
    assert_eq!(contents(&store.branch(id(3)).unwrap(), "file"), Some(vec![7; 5 * 4096]));
    let listed = store.list().unwrap();
    let failed: Vec<_> = listed.iter().map(|branch| branch.failed.is_some()).collect();
    assert_eq!(failed, [true, true, false]);
    store.delete(id(1)).unwrap();
    store.delete(id(2)).unwrap();
    store.settle();
    assert!(store.check().unwrap().is_empty());
    assert_eq!(store.list().unwrap().len(), 1);
}

/// A store of format 1 may have sealed a layer whose fork a power cut undid. It is read, what is
/// stale in it is not believed, and it is of the present format then.
#[test]
fn a_store_of_format_1_is_raised() {
    let dir = TempDir::new();
    {
        let store = open(dir.path());
        store.create(id(1), OWNER).unwrap();
        let branch = store.branch(id(1)).unwrap();
        let file = branch.create(FileId::ROOT, b"file", 0o600).unwrap().node.file;
        branch.write(file, 0, &[7; 4096]).unwrap();
        branch.fsync(file).unwrap();
    }
    fs::write(dir.path().join("format"), "1\n").unwrap();
    fs::write(dir.path().join("layers/1/manifest"), "of a fork that never was").unwrap();
    let store = open(dir.path());
    assert_eq!(contents(&store.branch(id(1)).unwrap(), "file"), Some(vec![7; 4096]));
    drop(store);
    assert_eq!(fs::read(dir.path().join("format")).unwrap(), b"2\n");
    assert!(!dir.path().join("layers/1/manifest").exists());
    assert_sound(dir.path(), "raised");
}
