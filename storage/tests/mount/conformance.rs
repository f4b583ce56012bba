//! System calls on the mount and on the ext4 beside it, which must answer alike: the error of each
//! call that must fail, as pjdfstest asks, and random changes of one file, as fsx makes them.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{self as sys, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::served::{Served, id, root};

type Outcome = Result<String, Errno>;
type Call = fn(&Path) -> Outcome;

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    sys::open(path, flags, Mode::from_raw_mode(0o644))
}

fn done<T>(outcome: Result<T, Errno>) -> Outcome {
    outcome.map(|_| String::new())
}

fn stat(path: &Path) -> Outcome {
    let stat = sys::lstat(path)?;
    // Sizes of directories are each file system's own.
    let size = if sys::FileType::from_raw_mode(stat.st_mode).is_dir() { 0 } else { stat.st_size };
    Ok(format!("{:o} {} {size}", stat.st_mode, stat.st_nlink))
}

/// Makes `file`, `directory/inner`, `empty` and `link`.
fn furnish(dir: &Path) {
    fs::write(dir.join("file"), b"contents").unwrap();
    fs::create_dir_all(dir.join("directory")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    fs::write(dir.join("directory/inner"), b"inner").unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    for name in ["file", "directory", "empty", "directory/inner"] {
        let mode = if name.contains("file") || name.contains("inner") { 0o644 } else { 0o755 };
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

const CALLS: [(&str, Call); 46] = [
    ("open without a file", |d| done(open(&d.join("none"), OFlags::RDWR))),
    ("open a directory to write", |d| done(open(&d.join("directory"), OFlags::RDWR))),
    ("open below a file", |d| done(open(&d.join("file/x"), OFlags::RDWR))),
    ("create what is there", |d| {
        done(open(&d.join("file"), OFlags::RDWR | OFlags::CREATE | OFlags::EXCL))
    }),
    ("create below nothing", |d| done(open(&d.join("no/x"), OFlags::RDWR | OFlags::CREATE))),
    ("create over a link", |d| {
        done(open(&d.join("link"), OFlags::RDWR | OFlags::CREATE | OFlags::EXCL))
    }),
    ("open a link as no link", |d| done(open(&d.join("link"), OFlags::RDONLY | OFlags::NOFOLLOW))),
    ("open a file as a directory", |d| {
        done(open(&d.join("file"), OFlags::RDONLY | OFlags::DIRECTORY))
    }),
    ("truncate at open", |d| {
        done(open(&d.join("file"), OFlags::RDWR | OFlags::TRUNC))?;
        stat(&d.join("file"))
    }),
    ("a name too long", |d| done(open(&d.join("n".repeat(256)), OFlags::RDWR | OFlags::CREATE))),
    ("the longest name", |d| done(open(&d.join("n".repeat(255)), OFlags::RDWR | OFlags::CREATE))),
    ("mkdir over a file", |d| done(sys::mkdir(d.join("file"), Mode::RWXU))),
    ("mkdir over a directory", |d| done(sys::mkdir(d.join("empty"), Mode::RWXU))),
    ("mkdir over a link", |d| done(sys::mkdir(d.join("link"), Mode::RWXU))),
    ("mkdir below nothing", |d| done(sys::mkdir(d.join("no/x"), Mode::RWXU))),
    ("mkdir", |d| {
        sys::mkdir(d.join("new"), Mode::from_raw_mode(0o750))?;
        Ok(stat(&d.join("new"))? + &stat(d)?)
    }),
    ("rmdir a file", |d| done(sys::rmdir(d.join("file")))),
    ("rmdir what is not empty", |d| done(sys::rmdir(d.join("directory")))),
    ("rmdir nothing", |d| done(sys::rmdir(d.join("none")))),
    ("rmdir", |d| {
        sys::rmdir(d.join("empty"))?;
        stat(d)
    }),
    ("unlink nothing", |d| done(sys::unlink(d.join("none")))),
    ("unlink a directory", |d| done(sys::unlink(d.join("empty")))),
    ("unlink a link", |d| {
        sys::unlink(d.join("link"))?;
        stat(&d.join("file"))
    }),
    ("unlink below a file", |d| done(sys::unlink(d.join("file/x")))),
    ("link", |d| {
        sys::link(d.join("file"), d.join("again"))?;
        stat(&d.join("again"))
    }),
    ("link over a file", |d| done(sys::link(d.join("file"), d.join("directory/inner")))),
    ("link a directory", |d| done(sys::link(d.join("empty"), d.join("again")))),
    ("link nothing", |d| done(sys::link(d.join("none"), d.join("again")))),
    ("symlink over a file", |d| done(sys::symlink("x", d.join("file")))),
    ("readlink a file", |d| done(sys::readlink(d.join("file"), Vec::new()))),
    ("readlink", |d| {
        Ok(format!("{:?} {}", sys::readlink(d.join("link"), Vec::new())?, stat(&d.join("link"))?))
    }),
    ("a link to itself", |d| {
        sys::symlink("loop", d.join("loop"))?;
        done(open(&d.join("loop"), OFlags::RDONLY))
    }),
    ("rename nothing", |d| done(sys::rename(d.join("none"), d.join("x")))),
    ("rename a file over a directory", |d| done(sys::rename(d.join("file"), d.join("empty")))),
    ("rename a directory over a file", |d| done(sys::rename(d.join("empty"), d.join("file")))),
    ("rename over what is not empty", |d| done(sys::rename(d.join("empty"), d.join("directory")))),
    ("rename a directory over an empty one", |d| {
        sys::rename(d.join("directory"), d.join("empty"))?;
        Ok(stat(&d.join("empty"))? + &stat(&d.join("empty/inner"))? + &stat(d)?)
    }),
    ("rename into itself", |d| done(sys::rename(d.join("directory"), d.join("directory/x")))),
    ("rename between two names of a file", |d| {
        sys::link(d.join("file"), d.join("again"))?;
        sys::rename(d.join("file"), d.join("again"))?;
        Ok(stat(&d.join("file"))? + &stat(&d.join("again"))?)
    }),
    ("rename without replacing", |d| {
        let (from, to) = (d.join("file"), d.join("directory/inner"));
        done(sys::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE))
    }),
    ("exchange", |d| {
        let (from, to) = (d.join("file"), d.join("directory"));
        sys::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE)?;
        Ok(stat(&from)? + &stat(&to)?)
    }),
    ("truncate a directory", |d| {
        let path = std::ffi::CString::new(d.join("empty").to_str().unwrap()).unwrap();
        done(open(Path::new(path.to_str().unwrap()), OFlags::WRONLY | OFlags::TRUNC))
    }),
    ("chmod", |d| {
        sys::chmod(d.join("file"), Mode::from_raw_mode(0o640))?;
        stat(&d.join("file"))
    }),
    ("chmod nothing", |d| done(sys::chmod(d.join("none"), Mode::RWXU))),
    ("write to what is open to read", |d| {
        let file = open(&d.join("file"), OFlags::RDONLY)?;
        done(rustix::io::write(&file, b"x"))
    }),
    ("access nothing", |d| {
        done(sys::accessat(CWD, d.join("none"), sys::Access::EXISTS, AtFlags::empty()))
    }),
];

#[test]
fn calls_answer_as_on_ext4() {
    for served in [Served::new(), Served::over_device()] {
        served.client().create(id(1), root()).unwrap();
        let plain = served.dir.join("plain");
        for (name, call) in CALLS {
            for dir in [served.branch(1).join("case"), plain.clone()] {
                drop(fs::remove_dir_all(&dir));
                fs::create_dir(&dir).unwrap();
                furnish(&dir);
            }
            assert_eq!(call(&served.branch(1).join("case")), call(&plain), "{name}");
        }
    }
}

/// One random change or look, which both files must answer alike.
fn exercise(file: &File, random: &mut StdRng) -> Outcome {
    let offset: u64 = random.random_range(0..300_000);
    let offset = if random.random() { offset / 4096 * 4096 } else { offset };
    let len: u64 = random.random_range(1..70_000);
    match random.random_range(0..12) {
        0..3 => {
            let byte = random.random();
            let data = vec![byte; usize::try_from(len).unwrap()];
            done(file.write_all_at(&data, offset).map_err(|_| Errno::IO))
        }
        3 => done(sys::ftruncate(file, offset)),
        4 => done(sys::fallocate(file, FallocateFlags::empty(), offset, len)),
        5 => done(sys::fallocate(file, FallocateFlags::KEEP_SIZE, offset, len)),
        6 => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            done(sys::fallocate(file, how, offset, len))
        }
        7 => {
            let mut how = FallocateFlags::ZERO_RANGE;
            how.set(FallocateFlags::KEEP_SIZE, random.random());
            done(sys::fallocate(file, how, offset, len))
        }
        8 => {
            // Ranges that lie apart: the copy of one onto itself is refused by the kernel.
            let (mut from, mut to) = (offset, offset + 80_000);
            let copied = sys::copy_file_range(file, Some(&mut from), file, Some(&mut to), 60_000);
            Ok(format!("{}", copied?))
        }
        9 => {
            let size = file.metadata().map_err(|_| Errno::IO)?.size();
            Ok(sys::seek(file, SeekFrom::Start(offset.min(size)))?.to_string())
        }
        10 => done(sys::fsync(file)),
        _ => {
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            let count = file.read_at(&mut bytes, offset).map_err(|_| Errno::IO)?;
            Ok(format!("{count} {:x}", crc(&bytes[..count])))
        }
    }
}

fn crc(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte))
}

#[test]
fn one_file_changes_as_on_ext4() {
    let mut served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    for seed in 0..4u32 {
        let mut random = StdRng::seed_from_u64(seed.into());
        let plain = served.dir.join("plain");
        drop(File::create(&plain).unwrap());
        let mut branch = seed * 100 + 1;
        if seed > 0 {
            served.client().fork(id(1), id(branch), root()).unwrap();
        }
        drop(File::create(served.branch(branch).join("file")).unwrap());
        for step in 0..600 {
            let both = [served.branch(branch).join("file"), plain.clone()]
                .map(|path| File::options().read(true).write(true).open(path).unwrap());
            let mut same = random.clone();
            let ours = exercise(&both[0], &mut random);
            assert_eq!(ours, exercise(&both[1], &mut same), "seed {seed} step {step}");
            let size = |file: &File| file.metadata().unwrap().size();
            assert_eq!(size(&both[0]), size(&both[1]), "seed {seed} step {step}");
            if step % 60 == 59 {
                // On in a fork of it, so that most pages lie below. It holds what was synced.
                both[0].sync_all().unwrap();
                served.client().fork(id(branch), id(branch + 1), root()).unwrap();
                branch += 1;
            }
            if step % 200 == 199 {
                drop(both);
                served.kill();
                served.assert_sound();
                served.start();
            }
            if step % 20 == 19 {
                let found = fs::read(served.branch(branch).join("file")).unwrap();
                assert!(found == fs::read(&plain).unwrap(), "seed {seed} step {step}");
            }
        }
    }
}
