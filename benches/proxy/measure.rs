//! Measuring sides by turns, so that what else the machine does hits all of them alike.

use std::time::Duration;

use crate::sides::Side;

const ROUNDS: usize = 7;

/// A number of one side, and how many transactions it stands for, if they are counted.
pub(crate) struct Measured {
    pub(crate) value: f64,
    pub(crate) transactions: Option<f64>,
}

/// Measures every side in turn, some rounds long, each round beginning with another side. Prints
/// medians: of the values, of the ratios within a round, of the CPU time a transaction costs
/// between client and Postgres.
pub(crate) fn by_turns(sides: &[Side], measure: impl Fn(&str) -> Measured) {
    let mut values = vec![Vec::new(); sides.len()];
    let mut costs = vec![Vec::new(); sides.len()];
    for round in 0..ROUNDS {
        for turn in 0..sides.len() {
            let place = (round + turn) % sides.len();
            let side = &sides[place];
            let before = side.between.map(cpu_time);
            let Measured { value, transactions } = measure(&side.url);
            values[place].push(value);
            if let (Some(pid), Some(before), Some(count)) = (side.between, before, transactions) {
                costs[place].push((cpu_time(pid) - before).as_secs_f64() * 1e6 / count);
            }
        }
    }
    for (place, side) in sides.iter().enumerate() {
        let base = &values[side.base];
        let ratios = values[place].iter().zip(base).map(|(value, base)| value / base).collect();
        let (name, value) = (side.name, median(values[place].clone()));
        let cost = match costs[place].is_empty() {
            true => String::new(),
            false => format!("   {:5.1} us CPU", median(costs[place].clone())),
        };
        println!("  {name:<12} {value:10.1}   {:.2} x{cost}", median(ratios));
    }
}

/// What a process, with all its threads, has used.
fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let used = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) fn median(samples: Vec<f64>) -> f64 {
    quantile(samples, 50)
}

/// The sample that this percentage of all samples does not exceed.
pub(crate) fn quantile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    samples.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}
