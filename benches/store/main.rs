//! What the store costs: forks under load, the log they copy, Postgres on a branch beside the same
//! Postgres on the host's own file system, space and memory. `make bench-store`; names of sections
//! as arguments run these alone.
//!
//! Both sides of every ratio come from one run, by turns.

mod fork;
mod log;
mod shape;
mod space;
mod speed;
#[expect(dead_code, reason = "shared with the integration tests, which use more of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

type Section = (&'static str, fn());

const SECTIONS: [Section; 5] = [
    ("fork", fork::run),
    ("log", log::run),
    ("speed", speed::run),
    ("space", space::run),
    ("memory", space::memory),
];

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            println!("\n== {name}");
            run();
        }
    }
}

/// The middle of the samples.
fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// The sample that this share of all samples does not exceed.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = u32::try_from(sorted.len()).expect("few samples");
    let wanted = (f64::from(count) * share).ceil();
    let at = (1..count).take_while(|rank| f64::from(*rank) < wanted).count();
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
