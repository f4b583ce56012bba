//! Every metric in one table, and the text that Prometheus reads. Pure.
//!
//! Must never: carry a role's name, a host or a secret in a label.

use std::fmt::Write as _;

use proxy::Sample;

/// What Prometheus is told of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, and begins again at zero with the server.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, unit last.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: MetricKind,
    /// What it means.
    pub meaning: &'static str,
}

const fn metric(name: &'static str, kind: MetricKind, meaning: &'static str) -> Metric {
    Metric { name, kind, meaning }
}

/// All metrics, by name.
pub const METRICS: &[Metric] = {
    use MetricKind::{Counter, Gauge, Histogram};
    &[
        metric("ardent_branches", Gauge, "Branches that exist."),
        metric("ardent_computes", Gauge, "Computes that run."),
        metric("ardent_compute_deaths_total", Counter, "Computes that ended unasked."),
        metric("ardent_compute_start_failures_total", Counter, "Starts that failed."),
        metric("ardent_compute_starts_total", Counter, "Computes that came up."),
        metric("ardent_compute_suspends_total", Counter, "Branches suspended for being idle."),
        metric("ardent_connector_lag_bytes", Gauge, "Source position minus applied position."),
        metric("ardent_connector_ready", Gauge, "1 for a connector that branches can be cut of."),
        metric("ardent_connector_retained_wal_bytes", Gauge, "Log the source keeps for us."),
        metric("ardent_connector_tables_quarantined", Gauge, "Tables that are not followed."),
        metric("ardent_jobs", Gauge, "Long operations that are under way."),
        metric("ardent_proxy_authentications_total", Counter, "Logins by how they ended."),
        metric("ardent_proxy_bytes_total", Counter, "Bytes of sessions at branches that ended."),
        metric("ardent_proxy_cancel_requests_total", Counter, "Cancel requests by outcome."),
        metric(
            "ardent_proxy_connect_duration_seconds",
            Histogram,
            "From accept to the first ReadyForQuery, wake included.",
        ),
        metric("ardent_proxy_connections_closed_total", Counter, "By how far they had come."),
        metric("ardent_proxy_connections_opened_total", Counter, "Connections accepted."),
        metric("ardent_proxy_handed_off_total", Counter, "Sessions handed to their backends."),
        metric("ardent_proxy_refusals_total", Counter, "Connections refused by the front door."),
        metric("ardent_proxy_routed_total", Counter, "Logins by what named the branch."),
        metric("ardent_proxy_sessions", Gauge, "Authenticated sessions by state."),
        metric("ardent_proxy_strangers", Gauge, "Connections that have not authenticated."),
        metric("ardent_proxy_tls_handshakes_total", Counter, "Encrypted connections."),
        metric(
            "ardent_proxy_wake_duration_seconds",
            Histogram,
            "From asking for a compute to having it.",
        ),
        metric("ardent_start_time_seconds", Gauge, "Unix time at which the server started."),
    ]
};

impl MetricKind {
    /// Its word in Prometheus' text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The metric that a sample is of: a histogram has three names.
pub fn metric_of(sample: &Sample) -> Option<&'static Metric> {
    let find = |name: &str| METRICS.iter().find(|metric| metric.name == name);
    let parts = ["_bucket", "_sum", "_count"].into_iter();
    find(sample.name).or_else(|| {
        let base = parts.filter_map(|part| sample.name.strip_suffix(part)).next()?;
        find(base).filter(|metric| metric.kind == MetricKind::Histogram)
    })
}

/// Prometheus' text format, version 0.0.4.
pub fn prometheus(samples: &[Sample]) -> String {
    let mut text = String::new();
    for metric in METRICS {
        let mut own = samples
            .iter()
            .filter(|sample| metric_of(sample).is_some_and(|found| found.name == metric.name));
        let Some(first) = own.next() else { continue };
        let Metric { name, kind, meaning } = metric;
        put(&mut text, format_args!("# HELP {name} {meaning}\n"));
        put(&mut text, format_args!("# TYPE {name} {}\n", kind.as_str()));
        for sample in std::iter::once(first).chain(own) {
            let labels = labels(sample);
            put(&mut text, format_args!("{}{labels} {}\n", sample.name, sample.value));
        }
    }
    text
}

/// `{name="value",...}`, or nothing.
pub fn labels(sample: &Sample) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        sample.labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing into memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_named_well() {
        assert!(METRICS.windows(2).all(|pair| pair[0].name < pair[1].name || {
            // `ardent_compute_` sorts before `ardent_computes`, which comes first as the whole.
            pair[0].name == "ardent_computes"
        }));
        for metric in METRICS {
            let counts = metric.name.ends_with("_total");
            assert_eq!(counts, metric.kind == MetricKind::Counter, "{}", metric.name);
        }
    }

    #[test]
    fn the_text_prometheus_reads() {
        let sample = |name, labels: &[(&'static str, &str)], value| Sample {
            name,
            labels: labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            value,
        };
        let samples = [
            sample("ardent_proxy_sessions", &[("state", "a\"b")], 2.0),
            sample("ardent_proxy_wake_duration_seconds_sum", &[], 0.5),
            sample("ardent_proxy_strangers", &[], 0.0),
        ];
        let wanted = "\
            # HELP ardent_proxy_sessions Authenticated sessions by state.\n\
            # TYPE ardent_proxy_sessions gauge\n\
            ardent_proxy_sessions{state=\"a\\\"b\"} 2\n\
            # HELP ardent_proxy_strangers Connections that have not authenticated.\n\
            # TYPE ardent_proxy_strangers gauge\n\
            ardent_proxy_strangers 0\n\
            # HELP ardent_proxy_wake_duration_seconds From asking for a compute to having it.\n\
            # TYPE ardent_proxy_wake_duration_seconds histogram\n\
            ardent_proxy_wake_duration_seconds_sum 0.5\n";
        assert_eq!(prometheus(&samples), wanted);
    }
}
