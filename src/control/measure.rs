//! The values of all metrics, gathered from whoever counts them.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use proxy::Sample;

use super::{ControlPlane, rows};
use crate::catalog::ConnectorState;
use crate::compute::ComputePhase;
use crate::connector::Connector;

impl ControlPlane {
    /// All samples of now, those of one metric together.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = self.0.front_door.meters.samples();
        self.put_sessions(&mut samples);
        self.put_computes(&mut samples);
        for connector in self.0.connectors.list() {
            put_connector(&mut samples, &connector);
        }
        let since = self.0.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        samples.push(Sample::count("ardent_start_time_seconds", None, since.as_secs()));
        samples.sort_by_key(|sample| sample.name);
        samples
    }

    fn put_sessions(&self, samples: &mut Vec<Sample>) {
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for session in self.0.front_door.sessions.list() {
            *states.entry(rows::state_of(session.state)).or_default() += 1;
        }
        for (state, count) in states {
            samples.push(Sample::count("ardent_proxy_sessions", Some(("state", state)), count));
        }
        let strangers = self.0.front_door.entrants.strangers();
        samples.push(Sample::count("ardent_proxy_strangers", None, number(strangers)));
    }

    fn put_computes(&self, samples: &mut Vec<Sample>) {
        let computes = self.0.computes.list();
        let phases = [ComputePhase::Starting, ComputePhase::Running, ComputePhase::Stopping];
        for phase in phases {
            let count = computes.iter().filter(|compute| compute.phase == phase).count();
            let state = Some(("state", phase.as_str()));
            samples.push(Sample::count("ardent_computes", state, number(count)));
        }
        let tally = self.0.computes.tally();
        let counts = [
            ("ardent_compute_starts_total", tally.starts),
            ("ardent_compute_start_failures_total", tally.start_failures),
            ("ardent_compute_suspends_total", tally.suspends),
            ("ardent_compute_deaths_total", tally.deaths),
            ("ardent_branches", number(self.0.branches.count())),
            ("ardent_jobs", number(self.0.jobs.list().len())),
        ];
        samples.extend(counts.map(|(name, count)| Sample::count(name, None, count)));
    }
}

fn put_connector(samples: &mut Vec<Sample>, connector: &Connector) {
    let view = connector.view();
    let status = &view.status;
    let counts = [
        ("ardent_connector_ready", u64::from(view.state == ConnectorState::Ready)),
        ("ardent_connector_lag_bytes", status.lag_bytes),
        ("ardent_connector_retained_wal_bytes", status.retained_wal_bytes),
        ("ardent_connector_tables_quarantined", number(status.quarantined.len())),
    ];
    let label = Some(("connector", connector.name()));
    samples.extend(counts.map(|(name, count)| Sample::count(name, label, count)));
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
