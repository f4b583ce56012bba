//! What the front door counts, for whoever watches it. Never a name of a role, never a secret.
//!
//! Counters only grow. The labels of each are words of this source or SQLSTATEs in it, so the
//! number of series is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;

/// Upper bounds of the histogram's buckets, in milliseconds.
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 5000, 30_000];

/// One value of a metric, in Prometheus' terms.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name of the metric, unit last.
    pub name: &'static str,
    /// Label and value, in order.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A sample of a whole number, with at most one label.
    pub fn count(name: &'static str, label: Option<(&'static str, &str)>, count: u64) -> Self {
        let labels = label.into_iter().map(|(label, value)| (label, value.to_owned())).collect();
        Self { name, labels, value: float(count) }
    }
}

/// All counters of the front door.
#[derive(Debug, Default)]
pub struct Meters {
    counters: DashMap<Series, u64>,
    wakes: Histogram,
    connects: Histogram,
}

/// A metric's name with its label, if it has one, and the label's value.
type Series = (&'static str, &'static str, &'static str);

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_MS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Meters {
    /// All at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Values of all that was counted so far.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self
            .counters
            .iter()
            .map(|entry| {
                let (name, label, value) = *entry.key();
                Sample::count(name, (!label.is_empty()).then_some((label, value)), *entry.value())
            })
            .collect();
        samples.sort_by(|a, b| (a.name, &a.labels).cmp(&(b.name, &b.labels)));
        self.wakes.put(&mut samples, WAKE);
        self.connects.put(&mut samples, CONNECT);
        samples
    }

    pub(crate) fn accepted(&self) {
        self.add("ardent_proxy_connections_opened_total", ("", ""), 1);
    }

    pub(crate) fn closed(&self, sqlstate: Option<&'static str>, phase: &'static str) {
        self.add("ardent_proxy_connections_closed_total", ("phase", phase), 1);
        if let Some(sqlstate) = sqlstate {
            self.add("ardent_proxy_refusals_total", ("sqlstate", sqlstate), 1);
        }
    }

    pub(crate) fn encrypted(&self) {
        self.add("ardent_proxy_tls_handshakes_total", ("", ""), 1);
    }

    pub(crate) fn authenticated(&self, result: &'static str) {
        self.add("ardent_proxy_authentications_total", ("result", result), 1);
    }

    pub(crate) fn routed(&self, source: &'static str) {
        self.add("ardent_proxy_routed_total", ("source", source), 1);
    }

    pub(crate) fn cancelled(&self, outcome: &'static str) {
        self.add("ardent_proxy_cancel_requests_total", ("outcome", outcome), 1);
    }

    pub(crate) fn handed_off(&self) {
        self.add("ardent_proxy_handed_off_total", ("", ""), 1);
    }

    pub(crate) fn relayed(&self, bytes_in: u64, bytes_out: u64) {
        let name = "ardent_proxy_bytes_total";
        self.add(name, ("direction", "from_client"), bytes_in);
        self.add(name, ("direction", "to_client"), bytes_out);
    }

    pub(crate) fn woken(&self, waited: Duration) {
        self.wakes.observe(waited);
    }

    pub(crate) fn connected(&self, since_accept: Duration) {
        self.connects.observe(since_accept);
    }

    fn add(&self, name: &'static str, (label, value): (&'static str, &'static str), count: u64) {
        *self.counters.entry((name, label, value)).or_default() += count;
    }
}

/// The three names of a histogram.
type Names = (&'static str, &'static str, &'static str);

const WAKE: Names = (
    "ardent_proxy_wake_duration_seconds_bucket",
    "ardent_proxy_wake_duration_seconds_sum",
    "ardent_proxy_wake_duration_seconds_count",
);
const CONNECT: Names = (
    "ardent_proxy_connect_duration_seconds_bucket",
    "ardent_proxy_connect_duration_seconds_sum",
    "ardent_proxy_connect_duration_seconds_count",
);

impl Histogram {
    fn observe(&self, duration: Duration) {
        let millis = duration.as_millis();
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS_MS) {
            if millis < u128::from(bound) {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&self, samples: &mut Vec<Sample>, (bucket_name, sum_name, count_name): Names) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let plain = |name, value| Sample { name, labels: Vec::new(), value };
        let bucket = |bound: String, value| {
            let labels = vec![("le", bound)];
            Sample { name: bucket_name, labels, value: float(value) }
        };
        for (counted, bound) in self.buckets.iter().zip(BUCKETS_MS) {
            let seconds = Duration::from_millis(bound).as_secs_f64();
            samples.push(bucket(seconds.to_string(), counted.load(Ordering::Relaxed)));
        }
        samples.push(bucket("+Inf".to_owned(), count));
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        samples.push(plain(sum_name, sum.as_secs_f64()));
        samples.push(plain(count_name, float(count)));
    }
}

/// Prometheus knows floats only; above 2^53 the last digits do not matter.
fn float(count: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & 0xffff_ffff).unwrap_or(u32::MAX));
    half(count >> 32) * 2.0_f64.powi(32) + half(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let meters = Meters::new();
        for millis in [0, 3, 70, 60_000] {
            meters.woken(Duration::from_millis(millis));
        }
        let samples = meters.samples();
        let bucket = |bound: &str| {
            let is_it = |s: &&Sample| s.labels.first().is_some_and(|(_, value)| value == bound);
            samples.iter().find(is_it).unwrap().value
        };
        assert_eq!(["0.001", "0.005", "0.1", "30", "+Inf"].map(bucket), [1.0, 2.0, 3.0, 3.0, 4.0]);
    }

    #[test]
    fn a_series_a_label() {
        let meters = Meters::new();
        meters.cancelled("found");
        meters.cancelled("found");
        meters.cancelled("not found");
        let values: Vec<f64> = meters.samples().iter().map(|sample| sample.value).collect();
        assert_eq!(values, [2.0, 1.0]);
    }
}
