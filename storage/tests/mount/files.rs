//! What files must do, above all where copy-on-write file systems have gone wrong before.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::served::{Served, eventually, id, root};

/// Branch 1 with a file of three values and a bit, and branch 2 forked from it.
fn forked() -> Served {
    let served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    fs::write(served.branch(1).join("file"), original()).unwrap();
    client.fork(id(1), id(2), root()).unwrap();
    served
}

fn original() -> Vec<u8> {
    let mut bytes = vec![b'a'; 8192];
    bytes.extend(vec![b'b'; 8192]);
    bytes.extend(vec![b'c'; 8192]);
    bytes.extend(b"end");
    bytes
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// fuse-overlayfs 1.16 served old bytes, or zeros up to the new size, after such overwrites.
#[test]
fn a_lower_file_overwritten_shorter_or_longer_holds_just_the_new_bytes() {
    let served = forked();
    let file = served.branch(2).join("file");
    for new in [vec![b'x'; 100], vec![b'y'; 100_000], vec![], vec![b'z'; 8192]] {
        fs::write(&file, &new).unwrap();
        assert_eq!(fs::read(&file).unwrap(), new);
        assert_eq!(fs::metadata(&file).unwrap().len(), new.len() as u64);
    }
    assert_eq!(fs::read(served.branch(1).join("file")).unwrap(), original());
}

#[test]
fn truncate_then_extend_shows_zeros() {
    let served = forked();
    let file = open(&served.branch(2).join("file"));
    let mut expected = original();
    for size in [9000, 20_000, 4096, 30_000, 0, 5000] {
        file.set_len(size).unwrap();
        let size = usize::try_from(size).unwrap();
        expected.resize(size, 0);
        assert_eq!(fs::read(served.branch(2).join("file")).unwrap(), expected);
    }
    assert_eq!(fs::read(served.branch(1).join("file")).unwrap(), original());
}

#[test]
fn a_small_write_keeps_the_rest_of_its_page() {
    let served = forked();
    let file = open(&served.branch(2).join("file"));
    file.write_all_at(b"XY", 8191).unwrap();
    file.write_all_at(b"Z", 24_579).unwrap();
    let mut expected = original();
    expected.resize(24_580, 0);
    expected[8191..8193].copy_from_slice(b"XY");
    expected[24_579] = b'Z';
    assert_eq!(fs::read(served.branch(2).join("file")).unwrap(), expected);
    assert_eq!(fs::read(served.branch(1).join("file")).unwrap(), original());
}

#[test]
fn files_outlive_their_names_while_they_are_open() {
    let served = forked();
    let dir = served.branch(2);
    let mut over = open(&dir.join("file"));
    fs::write(dir.join("new"), b"new").unwrap();
    fs::rename(dir.join("new"), dir.join("file")).unwrap();
    over.write_all_at(b"still", 3).unwrap();
    let mut bytes = Vec::new();
    over.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..8], *b"aaastill");
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"new");

    let mut gone = open(&dir.join("file"));
    fs::remove_file(dir.join("file")).unwrap();
    assert!(!dir.join("file").exists());
    gone.write_all_at(&[7; 10_000], 5).unwrap();
    // A fork in the meantime takes nothing of it along.
    served.client().fork(id(2), id(3), root()).unwrap();
    gone.write_all_at(b"more", 10_005).unwrap();
    bytes.clear();
    gone.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 10_009);
    assert_eq!(gone.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_dir(served.branch(3)).unwrap().count(), 0);
}

#[test]
fn one_of_many_wins_an_exclusive_creation() {
    let served = forked();
    for round in 0..20 {
        let path = served.branch(2).join(format!("excl-{round}"));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || File::create_new(path).is_ok())
            })
            .collect();
        let winners = threads.into_iter().map(|thread| thread.join().unwrap());
        assert_eq!(winners.filter(|won| *won).count(), 1);
    }
}

#[test]
fn sparse_files_span_the_border_of_a_segment() {
    let served = forked();
    let path = served.branch(2).join("segment");
    let file = File::create_new(&path).unwrap();
    let border = 1 << 30;
    file.write_all_at(&[1; 16_384], border - 8192).unwrap();
    drop(file);
    served.client().fork(id(2), id(3), root()).unwrap();
    let file = open(&served.branch(3).join("segment"));
    let mut bytes = [9; 32_768];
    file.read_exact_at(&mut bytes[..24_576], border - 16_384).unwrap();
    assert!(bytes[..8192].iter().all(|byte| *byte == 0));
    assert!(bytes[8192..24_576].iter().all(|byte| *byte == 1));
    // Nobody is told of holes: what the kernel holds back may lie in them.
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)), Ok(0));
    assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)), Ok(border + 8192));
    assert!(served.client().usage(id(3)).unwrap().unique_bytes < 65_536);
}

#[test]
fn ranges_are_allocated_zeroed_and_copied() {
    let served = forked();
    let path = served.branch(2).join("file");
    let file = open(&path);
    let mut expected = original();
    fallocate(&file, FallocateFlags::empty(), 20_000, 30_000).unwrap();
    expected.resize(50_000, 0);
    assert_eq!(fs::read(&path).unwrap(), expected);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 4000, 9000).unwrap();
    expected[4000..13_000].fill(0);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 49_000, 2000).unwrap();
    expected.resize(51_000, 0);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 60_000, 10_000).unwrap();
    assert_eq!(fs::read(&path).unwrap(), expected);
    assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    let copy = File::create_new(served.branch(2).join("copy")).unwrap();
    let (mut from, mut to) = (1000, 0);
    while to < 40_000 {
        let rest = usize::try_from(40_000 - to).unwrap();
        rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), rest).unwrap();
    }
    assert_eq!(fs::read(served.branch(2).join("copy")).unwrap(), expected[1000..41_000]);
    assert_eq!(fs::read(served.branch(1).join("file")).unwrap(), original());
}

#[test]
fn mapped_pages_are_those_of_the_file() {
    let served = forked();
    let file = open(&served.branch(2).join("file"));
    file.write_all_at(b"mapped", 8192).unwrap();
    let len = original().len();
    // SAFETY: the mapping is private to this test, and the file keeps its length while it lives.
    let bytes = unsafe {
        let at = mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, &file, 0);
        let at = at.unwrap();
        let bytes = std::slice::from_raw_parts(at.cast::<u8>(), len).to_vec();
        munmap(at, len).unwrap();
        bytes
    };
    let mut expected = original();
    expected[8192..8198].copy_from_slice(b"mapped");
    assert_eq!(bytes, expected);
}

#[test]
fn listings_are_whole_while_entries_come_and_go() {
    let served = forked();
    let dir = served.branch(2).join("dir");
    fs::create_dir(&dir).unwrap();
    let stable: HashSet<_> = (0..1500).map(|n| format!("stable-{n}")).collect();
    for name in &stable {
        File::create_new(dir.join(name)).unwrap();
    }
    let churn = {
        let dir = dir.clone();
        std::thread::spawn(move || {
            for n in 0..2000 {
                File::create_new(dir.join(format!("churn-{n}"))).unwrap();
                if n >= 10 {
                    fs::remove_file(dir.join(format!("churn-{}", n - 10))).unwrap();
                }
            }
        })
    };
    while !churn.is_finished() {
        let mut seen = HashSet::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(seen.insert(name.clone()), "{name} is listed twice");
        }
        assert!(stable.is_subset(&seen));
    }
    churn.join().unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn names_links_and_directories() {
    let served = forked();
    let dir = served.branch(2);
    fs::create_dir(dir.join("d")).unwrap();
    fs::create_dir(dir.join("d/e")).unwrap();
    assert_eq!(fs::metadata(dir.join("d")).unwrap().nlink(), 3);
    fs::hard_link(dir.join("file"), dir.join("d/e/link")).unwrap();
    assert_eq!(fs::metadata(dir.join("file")).unwrap().nlink(), 2);
    assert_eq!(served.branch(1).join("file").metadata().unwrap().nlink(), 1);
    fs::rename(dir.join("d/e"), dir.join("moved")).unwrap();
    assert_eq!(fs::metadata(dir.join("d")).unwrap().nlink(), 2);
    assert_eq!(fs::read(dir.join("moved/link")).unwrap(), original());
    assert!(fs::remove_dir(dir.join("moved")).is_err());
    fs::remove_file(dir.join("file")).unwrap();
    assert_eq!(fs::metadata(dir.join("moved/link")).unwrap().nlink(), 1);

    symlink(dir.join("moved"), dir.join("inside")).unwrap();
    assert_eq!(fs::read(dir.join("inside/link")).unwrap(), original());
    assert!(symlink(served.branch(1), dir.join("outside")).is_err());
    let wal = |number: u32| served.dir.join("wal").join(number.to_string());
    symlink(wal(2), dir.join("log")).unwrap();
    assert!(symlink(wal(1), dir.join("outside")).is_err());
    served.client().fork(id(2), id(3), root()).unwrap();
    // The fork's links lead into the fork.
    assert_eq!(fs::read_link(served.branch(3).join("log")).unwrap(), wal(3));
    fs::write(served.branch(3).join("inside/link"), b"three").unwrap();
    assert_eq!(fs::read(served.branch(3).join("moved/link")).unwrap(), b"three");
    assert_eq!(fs::read(dir.join("moved/link")).unwrap(), original());
    assert!(fs::rename(dir.join("moved"), served.branch(3).join("moved-across")).is_err());
}

/// The store is told neither of an open nor of a close, but that the kernel forgets a file.
#[test]
fn what_lost_its_last_name_goes_with_its_last_descriptor() {
    for served in [Served::new(), Served::over_device()] {
        served.client().create(id(1), root()).unwrap();
        let dir = served.branch(1);
        let unique = || served.client().usage(id(1)).unwrap().unique_bytes;
        let held: Vec<File> = (0..50)
            .map(|number: u32| {
                let path = dir.join(number.to_string());
                fs::write(&path, vec![7; 1 << 20]).unwrap();
                File::open(&path).unwrap()
            })
            .collect();
        // Each listing tells the kernel of each file once more, and so does a second name.
        for number in 0..50 {
            let listed = fs::read_dir(&dir).unwrap();
            let bytes = listed.map(|entry| entry.unwrap().metadata().unwrap().len());
            assert_eq!(bytes.sum::<u64>(), 50 << 20);
            let path = dir.join(number.to_string());
            fs::hard_link(&path, dir.join("second")).unwrap();
            fs::remove_file(dir.join("second")).unwrap();
        }
        (0..50).for_each(|number: u32| fs::remove_file(dir.join(number.to_string())).unwrap());
        assert!(unique() > 50 << 20);
        for file in &held {
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, (1 << 20) - 4096).unwrap();
            assert_eq!(bytes, [7; 4096]);
        }
        drop(held);
        eventually(|| unique() < 1 << 20);
        served.assert_sound();
    }
}

/// Low bits of the inode number of a data directory become the key of a shared memory segment.
#[test]
fn inode_numbers_tell_branches_apart() {
    let served = forked();
    let low = |number| served.branch(number).metadata().unwrap().ino() & 0x7fff_ffff;
    assert_eq!((low(1), low(2)), (1, 2));
    let file = |number| served.branch(number).join("file").metadata().unwrap().ino();
    assert_ne!(file(1), file(2));
}

#[test]
fn a_read_after_a_write_by_another_handle_sees_it() {
    let served = forked();
    let path = served.branch(2).join("file");
    let (mut reader, writer) = (open(&path), open(&path));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    writer.write_all_at(b"fresh", 0).unwrap();
    writer.write_all_at(&[1; 10], 30_000).unwrap();
    assert_eq!(reader.seek(SeekFrom::End(0)).unwrap(), 30_010);
    reader.seek(SeekFrom::Start(0)).unwrap();
    bytes.clear();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes[..5], *b"fresh");
    assert_eq!(bytes.len(), 30_010);
    (&writer).flush().unwrap();
}
