//! The lock file of a running Postgres costs no sync, any other file does.

use std::sync::Arc;

use super::recording::RecordingDisk;
use super::{OWNER, TempDir, id, open_on};
use crate::id::FileId;

#[test]
fn the_lock_file_is_not_synced() {
    let dir = TempDir::new();
    let disk = RecordingDisk::new(dir.path());
    let store = open_on(Arc::new(disk.clone()), false);
    store.create(id(1), OWNER).unwrap();
    let branch = store.branch(id(1)).unwrap();
    let syncs = |name: &[u8]| {
        let file = branch.create(FileId::ROOT, name, 0o600).unwrap().node.file;
        branch.write(file, 0, b"4711\n").unwrap();
        let before = disk.count();
        branch.fsync(file).unwrap();
        disk.count() - before
    };
    assert_eq!(syncs(b"postmaster.pid"), 0);
    assert!(syncs(b"PG_VERSION") > 0);
}
