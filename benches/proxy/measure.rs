//! Measuring sides by turns, so that what else the machine does hits all of them alike.

use std::fmt::Write as _;
use std::time::Duration;

use crate::sides::Side;

/// A number of one side, and how many transactions it stands for, if they are counted.
pub(crate) struct Measured {
    pub(crate) value: f64,
    pub(crate) transactions: Option<f64>,
}

/// Measures every side in turn, some rounds long, each round beginning with another side. Prints
/// medians: of the values, of the ratios within a round, of the CPU time a transaction costs
/// between client and Postgres.
pub(crate) fn by_turns(sides: &[Side], rounds: usize, measure: impl Fn(&str) -> Measured) {
    let mut values = vec![Vec::new(); sides.len()];
    let mut costs = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
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
    let ratio = |place: usize, to: usize| {
        median(values[place].iter().zip(&values[to]).map(|(value, base)| value / base).collect())
    };
    for (place, side) in sides.iter().enumerate() {
        let (name, value) = (side.name, median(values[place].clone()));
        let mut line = format!("  {name:<12} {value:10.1}   {:.2} x", ratio(place, side.base));
        if !costs[place].is_empty() {
            let cost = median(costs[place].clone());
            write!(line, "   {cost:5.1} us CPU").expect("text");
        }
        if let Some(rival) = side.rival {
            let (name, ratio) = (sides[rival].name, ratio(place, rival));
            write!(line, "   {ratio:.3} of {name}").expect("text");
        }
        println!("{line}");
    }
}

/// What a process has used, threads that have ended included: the 14th and 15th field of proc(5),
/// in hundredths of a second whatever the kernel.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("its status");
    let (_, fields) = stat.rsplit_once(')').expect("a command");
    let used = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = used.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
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
