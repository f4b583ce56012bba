//! Branches come and go, and the process ends in every way a process can.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use storage::{Error, RefusalCode, StoreClient};

use crate::served::{Served, config, id, root};

fn refusal(error: &Error) -> RefusalCode {
    match error {
        Error::Refused { code, .. } => *code,
        other => panic!("{other}"),
    }
}

#[test]
fn branches_appear_and_vanish_at_once() {
    let served = Served::new();
    let mut client = served.client();
    assert!(!served.branch(5).exists());
    client.create(id(5), root()).unwrap();
    fs::write(served.branch(5).join("file"), b"five").unwrap();
    client.fork(id(5), id(6), root()).unwrap();
    let names = || {
        let entries = fs::read_dir(config(&served.dir).mount_dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["5", "6"]);
    let open = File::open(served.branch(5).join("file")).unwrap();
    client.delete(id(5)).unwrap();
    assert!(!served.branch(5).exists());
    assert!(fs::read(served.branch(5).join("file")).is_err());
    assert!(open.write_at(b"x", 0).is_err());
    assert!(open.sync_all().is_err());
    // The child does not mind.
    assert_eq!(fs::read(served.branch(6).join("file")).unwrap(), b"five");
    assert_eq!(names(), ["6"]);
    let list = client.list().unwrap();
    assert_eq!((list[0].branch, list[0].parent), (id(6), Some(id(5))));
    assert!(fs::create_dir(config(&served.dir).mount_dir.join("7")).is_err());
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    assert_eq!(refusal(&client.create(id(1), root()).unwrap_err()), RefusalCode::BranchExists);
    let missing = [
        client.fork(id(8), id(9), root()).unwrap_err(),
        client.delete(id(8)).unwrap_err(),
        client.usage(id(8)).unwrap_err(),
        client.begin_compute(id(8)).unwrap_err(),
    ];
    assert!(missing.iter().all(|error| refusal(error) == RefusalCode::NoSuchBranch));
    client.fork(id(1), id(2), root()).unwrap();
    client.delete(id(2)).unwrap();
    // Numbers are not reused, also not after a restart.
    assert_eq!(refusal(&client.fork(id(1), id(2), root()).unwrap_err()), RefusalCode::BranchExists);
    served.stop();
    served.start();
    let error = served.client().create(id(2), root()).unwrap_err();
    assert_eq!(refusal(&error), RefusalCode::BranchExists);
    assert_eq!(served.client().list().unwrap().len(), 1);
}

#[test]
fn another_protocol_version_is_told_so() {
    let served = Served::new();
    let stream = UnixStream::connect(config(&served.dir).socket).unwrap();
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"{\"request\":\"hello\",\"version\":99}\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let ours = format!("{{\"reply\":\"hello\",\"version\":{}}}", storage::wire::PROTOCOL_VERSION);
    assert_eq!(line.trim(), ours);
    line.clear();
    assert_eq!(stream.read_line(&mut line).unwrap(), 0);

    for garbage in ["{\"request\":\"list\"}\n", "hello\n", "\u{1}\n"] {
        let stream = UnixStream::connect(config(&served.dir).socket).unwrap();
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(garbage.as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.contains("bad_request"), "{line}");
    }
    served.client().list().unwrap();
}

#[test]
fn a_directory_in_use_or_of_another_format_is_refused() {
    let mut served = Served::new();
    let again = storage::daemon::run(config(&served.dir)).unwrap_err();
    assert!(matches!(again, Error::InUse { .. }), "{again}");
    served.stop();
    fs::write(served.dir.join("store/format"), "9\n").unwrap();
    let other = storage::daemon::run(config(&served.dir)).unwrap_err();
    assert!(matches!(other, Error::Format { .. }), "{other}");
}

#[test]
fn a_signal_stops_it_cleanly_with_everything_there() {
    let mut served = Served::new();
    served.client().create(id(1), root()).unwrap();
    fs::write(served.branch(1).join("file"), b"kept").unwrap();
    let pid = Pid::from_raw(served.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(served.wait());
    assert_eq!(fs::read_dir(config(&served.dir).mount_dir).unwrap().count(), 0);
    assert!(StoreClient::connect(&config(&served.dir).socket).is_err());
    served.start();
    assert_eq!(fs::read(served.branch(1).join("file")).unwrap(), b"kept");
}

/// By file: which writer's it is, and how many records it was told are durable.
type Acknowledged = Arc<Mutex<HashMap<String, (u8, u64)>>>;

/// Appends records, and syncs each, until that fails or `halt` is set.
fn append(file: &File, name: &str, writer: u8, acknowledged: &Acknowledged, halt: &AtomicBool) {
    for record in 0u64.. {
        let written = file.write_all_at(&[writer + 1; 3000], record * 3000);
        let synced = written.and_then(|()| file.sync_data());
        if synced.is_err() || halt.load(Ordering::Relaxed) {
            return;
        }
        acknowledged.lock().unwrap().insert(name.to_owned(), (writer, record + 1));
    }
}

/// Writers note what they were told is durable; the store is killed; all of it must be there.
#[test]
fn a_killed_store_loses_nothing_that_was_synced() {
    let mut served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    for number in 1..4 {
        let acknowledged = Acknowledged::default();
        let halt = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4u8)
            .map(|writer| {
                let name = format!("writer-{number}-{writer}");
                let file = File::create_new(served.branch(number).join(&name)).unwrap();
                let (acknowledged, halt) = (acknowledged.clone(), halt.clone());
                std::thread::spawn(move || append(&file, &name, writer, &acknowledged, &halt))
            })
            .collect();
        while acknowledged.lock().unwrap().values().any(|(_, records)| *records < 100)
            || acknowledged.lock().unwrap().len() < 4
        {
            std::thread::yield_now();
        }
        // A fork of a branch that is being written to holds all that was acknowledged before.
        served.assert_sound();
        let before = acknowledged.lock().unwrap().clone();
        client.fork(id(number), id(number + 1), root()).unwrap();
        served.kill();
        halt.store(true, Ordering::Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        served.assert_sound();
        served.start();
        client = served.client();
        let all = acknowledged.lock().unwrap().clone();
        for (branch, promised) in [(number, all), (number + 1, before)] {
            for (name, (writer, records)) in promised {
                let bytes = fs::read(served.branch(branch).join(&name)).unwrap();
                let len = usize::try_from(records * 3000).unwrap();
                assert!(bytes.len() >= len, "{name} in {branch}: {} of {len}", bytes.len());
                assert!(bytes[..len].iter().all(|byte| *byte == writer + 1), "{name}");
            }
        }
    }
}

#[test]
fn space_comes_back_when_branches_go() {
    let served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    fs::write(served.branch(1).join("base"), vec![1; 1 << 20]).unwrap();
    let before = client.usage(id(1)).unwrap();
    assert!(before.unique_bytes >= 1 << 20 && before.shared_bytes == 0);
    assert_eq!(before.logical_bytes, 1 << 20);
    client.fork(id(1), id(2), root()).unwrap();
    let parent = client.usage(id(1)).unwrap();
    assert!(parent.unique_bytes < 4096 && parent.shared_bytes >= 1 << 20, "{parent:?}");
    fs::write(served.branch(2).join("own"), vec![2; 100 * 4096]).unwrap();
    let child = client.usage(id(2)).unwrap();
    assert!((409_600..420_000).contains(&child.unique_bytes), "{child:?}");
    assert_eq!(child.reclaimable_bytes, child.unique_bytes);
    client.delete(id(1)).unwrap();
    let child = client.usage(id(2)).unwrap();
    assert!(child.unique_bytes > 1 << 20 && child.shared_bytes == 0, "{child:?}");
    client.delete(id(2)).unwrap();
    let mut served = served;
    served.stop();
    // A stop does not wait for directories to be removed; the next start does.
    served.start();
    served.stop();
    assert_eq!(fs::read_dir(served.dir.join("store/layers")).unwrap().count(), 0);
}

/// What the store process holds: open descriptors, resident KiB, layers on disk.
fn holds(served: &Served) -> [usize; 3] {
    let process = format!("/proc/{}", served.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    [
        fs::read_dir(format!("{process}/fd")).unwrap().count(),
        resident.trim().trim_end_matches(" kB").parse().unwrap(),
        fs::read_dir(served.dir.join("store/layers")).unwrap().count(),
    ]
}

/// What it holds once the keeper has caught up.
fn settled(served: &Served) -> [usize; 3] {
    let begin = std::time::Instant::now();
    loop {
        let now = holds(served);
        // 8 in the trunk's chain, 8 spares.
        if now[2] <= 20 {
            return now;
        }
        assert!(begin.elapsed().as_secs() < 60, "layers are not merged: {now:?}");
        std::thread::yield_now();
    }
}

/// The trunk is busy all the time, and forks of it come and go. `ARDENT_CYCLES=n` for more of them.
#[test]
fn forks_that_come_and_go_leave_nothing_behind() {
    let served = Served::new();
    let mut client = served.client();
    client.create(id(1), root()).unwrap();
    let cycles = std::env::var("ARDENT_CYCLES").map_or(400, |cycles| cycles.parse().unwrap());
    let files: Vec<_> = (0..5)
        .map(|number| File::create(served.branch(1).join(format!("file-{number}"))).unwrap())
        .collect();
    let mut early = [0; 3];
    let mut took = Vec::new();
    for cycle in 0..cycles {
        for (number, file) in files.iter().enumerate() {
            let at = (cycle as usize * 7 + number) % 50 * 4096;
            file.write_all_at(&[7; 5000], at as u64).unwrap();
        }
        files.iter().for_each(|file| file.sync_data().unwrap());
        let begin = std::time::Instant::now();
        client.fork(id(1), id(cycle + 2), root()).unwrap();
        took.push(begin.elapsed());
        fs::write(served.branch(cycle + 2).join("own"), b"own").unwrap();
        client.delete(id(cycle + 2)).unwrap();
        if cycle % 50 == 49 {
            served.assert_sound();
        }
        if cycle == 99 {
            early = settled(&served);
        }
    }
    println!("{:?} at the end", holds(&served));
    let late = settled(&served);
    println!("descriptors, resident KiB, layers: {early:?} after 100, {late:?} after {cycles}");
    let middle = |took: &[std::time::Duration]| {
        let mut sorted = took.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    // From the first hundred on forks wait for the keeper, which the disk paces.
    let (first, last) = (middle(&took[100..200]), middle(&took[took.len() - 100..]));
    println!("a fork took {first:?} in the second hundred, {last:?} in the last");
    assert!(last < 4 * first + std::time::Duration::from_millis(5), "{first:?} {last:?}");
    let journal = served.dir.join("store/branches.journal").metadata().unwrap().len();
    assert!(journal < 300_000, "{journal} bytes tell of the branch tree");
    assert!(late[0] < early[0] + 100, "{early:?} {late:?}");
    assert!(late[1] < early[1] + 4096, "{early:?} {late:?}");
    let usage = client.usage(id(1)).unwrap();
    assert!(usage.unique_bytes < 4 * usage.logical_bytes, "{usage:?}");
}
