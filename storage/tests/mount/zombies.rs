//! A process of an old compute that outlives a store reaches no byte of what the next one serves.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, openat};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use crate::served::{Served, id, root};

/// Files of every class that a Postgres holds open.
const FILES: [&str; 4] =
    ["PG_VERSION", "base/5/16384", "pg_wal/000000010000000000000001", "global/pg_control"];

fn make(dir: &Path) -> Vec<File> {
    for name in ["base/5", "pg_wal", "global"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let open = |name| {
        fs::write(dir.join(name), vec![1; 64 << 10]).unwrap();
        File::options().read(true).write(true).open(dir.join(name)).unwrap()
    };
    FILES.into_iter().map(open).collect()
}

#[test]
fn what_a_killed_store_had_open_reaches_nothing() {
    let mut served = Served::new();
    served.client().create(id(1), root()).unwrap();
    let dir = served.branch(1);
    let files = make(&dir);
    files.iter().for_each(|file| file.sync_all().unwrap());
    let old_dir = File::open(&dir).unwrap();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of a file that is held open; nothing else points into it.
    let map = unsafe {
        mmap(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE, &files[0], 0).unwrap()
    };
    // A zombie writes all the time, before, while and after the store goes.
    let (halt, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let zombie = {
        let (halt, tried) = (halt.clone(), tried.clone());
        let files: Vec<_> = files.iter().map(|file| file.try_clone().unwrap()).collect();
        std::thread::spawn(move || {
            while !halt.load(Ordering::Relaxed) {
                for file in &files {
                    // The second half of each file is the zombie's.
                    drop(file.write_all_at(&[9; 4096], 32 << 10));
                    drop(file.sync_data());
                }
                tried.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let turn = |count: u64| {
        let now = tried.load(Ordering::Relaxed);
        crate::served::eventually(|| tried.load(Ordering::Relaxed) > now + count);
    };
    turn(3);
    served.kill();
    served.start();
    // The next compute takes the whole files for its own.
    for name in FILES {
        fs::write(dir.join(name), vec![2; 64 << 10]).unwrap();
    }
    turn(20);
    for (file, name) in files.iter().zip(FILES) {
        // The kernel takes it, and has nobody to give it to.
        drop(file.write_all_at(&[9; 4096], 0));
        assert!(file.sync_all().is_err() && file.set_len(0).is_err(), "{name}");
        assert!(fs::read(dir.join(name)).unwrap() == vec![2; 64 << 10], "{name}");
    }
    // The kernel opens what it has in mind without asking; that reaches nothing either.
    let opened = File::from(openat(&old_dir, "PG_VERSION", OFlags::RDWR, Mode::empty()).unwrap());
    drop(opened.write_all_at(&[9; 4096], 0));
    assert!(opened.sync_all().is_err());
    assert!(fs::read(dir.join("PG_VERSION")).unwrap() == vec![2; 64 << 10]);
    assert!(openat(&old_dir, "new", OFlags::RDWR | OFlags::CREATE, Mode::RWXU).is_err());
    assert!(!map.is_null() && !dir.join("new").exists());
    halt.store(true, Ordering::Relaxed);
    zombie.join().unwrap();
    served.assert_sound();
}
