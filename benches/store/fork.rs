//! Freeze and fork of a branch that is being written: the same whatever there is of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::quantile;
use super::shape::{Load, Store, fill, scatter};
use super::support::scratch::Scratch;

const FORKS: u32 = 100;
/// Between two forks the load goes on.
const SPACING: Duration = Duration::from_millis(20);
/// The branch that is forked.
const PARENT: u32 = 1;
/// Numbers below are of branches that a shape needs.
const FIRST_FORK: u32 = 10_000;

type Shape = (&'static str, fn(&mut Store));

const SHAPES: [Shape; 8] = [
    ("100 MB", |store| fill(&store.dir(PARENT), 100)),
    ("20 GB", |store| fill(&store.dir(PARENT), 20 * 1024)),
    ("100 files", |store| scatter(&store.dir(PARENT), 100)),
    ("50,000 files", |store| scatter(&store.dir(PARENT), 50_000)),
    ("depth 1", |_| {}),
    ("depth 100", |store| deepen(store, 100)),
    ("10 branches", |store| branches(store, 10)),
    ("1,000 branches", |store| branches(store, 1000)),
];

pub(crate) fn run() {
    println!("ms of a fork call under a write load that syncs its log; {FORKS} forks each; beside");
    println!(
        "them, under the same load, a block written over and synced on the host's file system"
    );
    for (name, prepare) in SHAPES {
        let mut store = Store::start();
        store.create(PARENT);
        prepare(&mut store);
        let parent = if name == "depth 100" { 100 } else { PARENT };
        let (taken, synced) = forks(&mut store, parent);
        println!("  {name:<15} {}   host {}", spread(&taken), spread(&synced));
        // Removing its files, and telling the disk of what they held, is no part of the next one.
        drop(store);
        rustix::fs::sync();
    }
}

fn spread(taken: &[f64]) -> String {
    let [middle, most, worst] = [0.5, 0.99, 1.0].map(|share| quantile(taken, share));
    format!("p50 {middle:6.2}  p99 {most:6.2}  worst {worst:6.2}")
}

fn branches(store: &mut Store, count: u32) {
    fill(&store.dir(PARENT), 16);
    for child in 2..count {
        store.fork(PARENT, child);
    }
}

fn deepen(store: &mut Store, depth: u32) {
    fill(&store.dir(PARENT), 16);
    for child in 2..=depth {
        store.fork(child - 1, child);
        std::fs::write(store.dir(child).join(format!("mark{child}")), [1; 8192]).expect("write");
    }
}

/// What each fork took, and what the same disk takes for one block. One such sync is the least that
/// a durable fork can cost.
fn forks(store: &mut Store, parent: u32) -> (Vec<f64>, Vec<f64>) {
    let beside = Scratch::new("beside");
    let host = File::create(beside.path().join("block")).expect("create a file");
    let sync_block = || {
        host.write_all_at(&[3; 4096], 0).expect("write");
        host.sync_data().expect("sync");
    };
    sync_block();
    let load = Load::start(&store.dir(parent));
    let (mut taken, mut synced) = (Vec::new(), Vec::new());
    for child in FIRST_FORK..FIRST_FORK + FORKS {
        let next = Instant::now() + SPACING;
        taken.push(took(|| store.fork(parent, child)));
        store.delete(child);
        synced.push(took(sync_block));
        // The pace of the load, not a wait for anything.
        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
    assert!(load.stop() > 0, "the load ran");
    (taken, synced)
}

/// Milliseconds.
fn took(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64() * 1000.0
}
