//! What a branch made of a directory holds, and what is not taken in.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::{OWNER, TempDir, assert_sane, assert_sound, contents, id, open, resolve};
use crate::error::Error;
use crate::import::incoming_dir;
use crate::store::Store;

struct Scene {
    store: Store,
    dir: TempDir,
    incoming: PathBuf,
}

impl Scene {
    /// An open store, and a directory for its branch 7.
    fn new() -> Self {
        let dir = TempDir::new();
        let store = open(dir.path());
        let incoming = incoming_dir(dir.path(), id(7));
        fs::create_dir_all(incoming.join("base/1")).unwrap();
        fs::write(incoming.join("PG_VERSION"), "15\n").unwrap();
        Self { store, dir, incoming }
    }

    fn refusal(&self) -> Error {
        self.store.import(id(7), OWNER).unwrap_err()
    }
}

#[test]
fn a_directory_becomes_a_branch() {
    let scene = Scene::new();
    let heap = scene.incoming.join("base/1/1259");
    let file = fs::File::create(&heap).unwrap();
    file.write_all_at(&[7; 100], 10 * 4096).unwrap();
    fs::set_permissions(&heap, fs::Permissions::from_mode(0o640)).unwrap();
    fs::write(scene.incoming.join("base/1/1260"), "").unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    scene.store.import(id(7), OWNER).unwrap();

    let branch = scene.store.branch(id(7)).unwrap();
    let mut expected = vec![0; 10 * 4096];
    expected.extend([7; 100]);
    assert_eq!(contents(&branch, "base/1/1259").unwrap(), expected);
    assert_eq!(contents(&branch, "base/1/1260").unwrap(), b"");
    assert_eq!(contents(&branch, "PG_VERSION").unwrap(), b"15\n");
    let stat = branch.stat(resolve(&branch, "base/1/1259").unwrap()).unwrap();
    assert_eq!((stat.mode, stat.links, stat.owner), (0o640, 1, OWNER));
    assert_eq!(stat.modified, crate::inode::nanoseconds(modified));
    let usage = scene.store.usage(id(7)).unwrap();
    assert_eq!(usage.logical_bytes, expected.len() as u64 + 3);
    assert!(usage.unique_bytes < 4 * 4096, "holes stay holes: {usage:?}");
    assert!(!heap.exists());
    assert_sane(&scene.store, "after an import");
    drop(scene.store);
    assert_sound(scene.dir.path(), "after an import");
    let branch = open(scene.dir.path()).branch(id(7)).unwrap();
    assert_eq!(contents(&branch, "base/1/1259").unwrap(), expected);
}

#[test]
fn a_branch_of_a_directory_can_be_changed_and_forked() {
    let scene = Scene::new();
    scene.store.import(id(7), OWNER).unwrap();
    scene.store.fork(id(7), id(8), OWNER).unwrap();
    let parent = scene.store.branch(id(7)).unwrap();
    let file = resolve(&parent, "PG_VERSION").unwrap();
    parent.write(file, 0, b"16").unwrap();
    assert_eq!(contents(&parent, "PG_VERSION").unwrap(), b"16\n");
    let child = scene.store.branch(id(8)).unwrap();
    assert_eq!(contents(&child, "PG_VERSION").unwrap(), b"15\n");
    scene.store.settle();
    assert_sane(&scene.store, "after a fork");
}

/// A tablespace would lead out of the branch, and a second name would be a file of another.
#[test]
fn links_are_refused_before_anything_is_moved() {
    for hard in [false, true] {
        let scene = Scene::new();
        let (from, to) = (scene.incoming.join("PG_VERSION"), scene.incoming.join("base/link"));
        if hard { fs::hard_link(&from, &to) } else { symlink("/", &to) }.unwrap();
        assert!(matches!(scene.refusal(), Error::NotPlain { .. }));
        assert!(from.exists() && scene.store.branch(id(7)).is_err());
        scene.store.settle();
        assert_sane(&scene.store, "after a refusal");
    }
}

#[test]
fn a_number_that_is_used_is_refused_before_anything_is_moved() {
    let scene = Scene::new();
    scene.store.create(id(7), OWNER).unwrap();
    assert!(matches!(scene.refusal(), Error::BranchExists { branch: 7 }));
    assert!(scene.incoming.join("PG_VERSION").exists());
    scene.store.delete(id(7)).unwrap();
    assert!(matches!(scene.refusal(), Error::BranchExists { branch: 7 }), "nor one used once");
}
