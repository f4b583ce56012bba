//! What a piece of work takes: time, and processor seconds of everyone who takes part in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::support::processes;

/// An odd number, for the median.
pub(super) const ROUNDS: usize = 3;
/// Of the clock in /proc, on every machine that Ardent runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// So long without work is rest.
const QUIET: Duration = Duration::from_millis(300);
const SETTLING_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub(super) struct Cost {
    seconds: f64,
    processor_seconds: f64,
}

/// A piece of work in progress.
pub(super) struct Meter {
    begun: Instant,
    directories: Vec<PathBuf>,
    ticks: f64,
}

impl Meter {
    /// Of the processes that live in these directories.
    pub(super) fn begin(directories: &[&Path]) -> Self {
        let directories: Vec<PathBuf> = directories.iter().map(|path| path.to_path_buf()).collect();
        let ticks = ticks(&directories);
        Self { begun: Instant::now(), directories, ticks }
    }

    pub(super) fn end(&self) -> Cost {
        let seconds = self.begun.elapsed().as_secs_f64();
        let processor_seconds = (ticks(&self.directories) - self.ticks) / TICKS_PER_SECOND;
        Cost { seconds, processor_seconds }
    }
}

/// Waits until the processes of a directory have nothing to do. What one side's walsender has left
/// to decode would be a load for the other side.
pub(super) fn settle(directory: &Path) {
    let directories = [directory.to_path_buf()];
    let begun = Instant::now();
    let mut before = ticks(&directories);
    while begun.elapsed() < SETTLING_MAX {
        std::thread::sleep(QUIET);
        let now = ticks(&directories);
        // A walsender that waits still looks at its clock.
        if now - before <= 2.0 {
            return;
        }
        before = now;
    }
    println!("(the source is at work still: what follows is measured beside that)");
}

fn ticks(directories: &[PathBuf]) -> f64 {
    let all = directories.iter().flat_map(|directory| processes::below(directory));
    all.filter_map(|process| ticks_of(process.pid)).sum()
}

/// User, system, and both of the children that have ended.
fn ticks_of(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').skip(11).take(4).map(|field| field.parse::<f64>().ok()).sum()
}

/// The costs of both sides, by turns.
pub(super) fn alternate(what: &str, ours: impl FnMut() -> Cost, theirs: impl FnMut() -> Cost) {
    let (own, other) = by_turns(ours, theirs);
    report(what, &own, &other);
}

/// Both sides by turns; who is first changes each round.
pub(super) fn by_turns<T>(
    mut ours: impl FnMut() -> T,
    mut theirs: impl FnMut() -> T,
) -> (Vec<T>, Vec<T>) {
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            own.push(ours());
            other.push(theirs());
        } else {
            other.push(theirs());
            own.push(ours());
        }
    }
    (own, other)
}

pub(super) fn head() {
    println!("medians of {ROUNDS}: ours, Postgres' own, ratio");
    println!("{:42} {:^26} {:^26}", "", "seconds", "processor seconds");
}

pub(super) fn report(what: &str, ours: &[Cost], theirs: &[Cost]) {
    let middle = |of: fn(&Cost) -> f64| {
        let (ours, theirs) = (median(ours.iter().map(of)), median(theirs.iter().map(of)));
        format!("{ours:8.2} {theirs:8.2} {:7.2}", ours / theirs)
    };
    let (seconds, processor) = (middle(|c| c.seconds), middle(|c| c.processor_seconds));
    println!("{what:42} {seconds}  {processor}");
}

pub(super) fn median(samples: impl Iterator<Item = f64>) -> f64 {
    quantile(samples.collect(), 50)
}

/// The sample that this percentage of all samples does not exceed.
pub(super) fn quantile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * percent).div_ceil(100);
    samples.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
