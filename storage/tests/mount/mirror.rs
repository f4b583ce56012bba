//! The same random operations on the mount and on a plain directory, which must stay alike; a fork
//! is a copy, and the store is killed or stopped in between.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::served::{Served, id, root};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

enum Operation {
    Write(PathBuf, u64, Vec<u8>),
    Create(PathBuf),
    Truncate(PathBuf, u64),
    Directory(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
}

fn path(random: &mut StdRng) -> PathBuf {
    (0..random.random_range(1..3)).map(|_| *NAMES.choose(random).unwrap()).collect()
}

fn operation(random: &mut StdRng) -> Operation {
    let at = path(random);
    let offset = random.random_range(0..400_000);
    match random.random_range(0..10) {
        0..3 => {
            let len = *[10, 4096, 8192, 50_000].choose(random).unwrap();
            let mut data = vec![0; len];
            random.fill(&mut data[..]);
            let offset = if random.random() { offset / 8192 * 8192 } else { offset };
            Operation::Write(at, offset, data)
        }
        3 => Operation::Create(at),
        4 => Operation::Truncate(at, if random.random() { 0 } else { offset }),
        5 => Operation::Directory(at),
        6 => Operation::Remove(at),
        7 | 8 => Operation::Rename(at, path(random)),
        _ => Operation::Link(at, path(random)),
    }
}

fn carry_out(root: &Path, operation: &Operation) -> io::Result<()> {
    match operation {
        Operation::Write(path, offset, data) => {
            OpenOptions::new().write(true).open(root.join(path))?.write_all_at(data, *offset)
        }
        Operation::Create(path) => File::create_new(root.join(path)).map(drop),
        Operation::Truncate(path, size) => {
            OpenOptions::new().write(true).open(root.join(path))?.set_len(*size)
        }
        Operation::Directory(path) => fs::create_dir(root.join(path)),
        Operation::Remove(path) if root.join(path).is_dir() => fs::remove_dir(root.join(path)),
        Operation::Remove(path) => fs::remove_file(root.join(path)),
        Operation::Rename(path, to) => fs::rename(root.join(path), root.join(to)),
        Operation::Link(path, to) => fs::hard_link(root.join(path), root.join(to)),
    }
}

fn tree(root: &Path) -> Vec<(PathBuf, Option<Vec<u8>>, u64)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_path_buf();
            let metadata = path.metadata().unwrap();
            if metadata.is_dir() {
                found.push((name, None, metadata.nlink()));
                open.push(path);
            } else {
                found.push((name, Some(fs::read(&path).unwrap()), metadata.nlink()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_mount_does_what_a_plain_directory_does() {
    for seed in 0..3 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut served = if seed == 2 { Served::over_device() } else { Served::new() };
        served.client().create(id(1), root()).unwrap();
        let mirror = |number: u32| format!("mirror-{number}");
        fs::create_dir(served.dir.join(mirror(1))).unwrap();
        let mut last = 1;
        for step in 0..400 {
            let number = random.random_range(1..=last);
            let (branch, plain) = (served.branch(number), served.dir.join(mirror(number)));
            let operation = operation(&mut random);
            let kind = |done: io::Result<()>| done.map_err(|error| error.kind());
            let (ours, theirs) =
                (kind(carry_out(&branch, &operation)), kind(carry_out(&plain, &operation)));
            assert_eq!(ours, theirs, "seed {seed} step {step}");
            if step % 80 == 40 {
                last += 1;
                served.client().fork(id(number), id(last), root()).unwrap();
                let copied = Command::new("cp")
                    .arg("-a")
                    .args([&plain, &served.dir.join(mirror(last))])
                    .status();
                assert!(copied.unwrap().success());
            }
            if step % 100 == 99 {
                if random.random() {
                    served.kill();
                } else {
                    served.stop();
                }
                served.assert_sound();
                served.start();
            }
            if step % 50 == 49 {
                served.assert_sound();
                for number in 1..=last {
                    let expected = tree(&served.dir.join(mirror(number)));
                    assert!(tree(&served.branch(number)) == expected, "seed {seed} step {step}");
                }
            }
        }
    }
}
