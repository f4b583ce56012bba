//! The server's configuration: `config/server.toml` holds every key and its default, a file of
//! the operator overrides keys one by one. Unknown keys and wrong types are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

const DEFAULTS: &str = include_str!("../config/server.toml");

/// Everything an operator may set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The server process itself.
    pub server: ServerConfig,
    /// The front door.
    pub proxy: ProxyConfig,
    /// The Postgres processes that serve branches and trunks.
    pub compute: ComputeConfig,
    /// The page store.
    pub store: StoreConfig,
    /// Sources and the trunks that follow them.
    pub replication: ReplicationConfig,
    /// The life of a branch.
    pub branch: BranchConfig,
    /// What monitoring reads.
    pub metrics: MetricsConfig,
}

/// Section `[server]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Longest orderly stop, in seconds.
    pub stop_timeout_s: u64,
    /// Longest life of sessions after a takeover, in seconds.
    pub drain_timeout_s: u64,
    /// Path of the sealing key; empty means inside the data directory.
    pub secret_key: PathBuf,
}

/// Section `[proxy]`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Base domain of branch host names; may be empty.
    pub domain: String,
    /// Host shown in branch URLs; may be empty.
    pub host: String,
    /// PEM file of the certificate chain; empty means one of our own.
    pub tls_certificate: PathBuf,
    /// PEM file of its key.
    pub tls_key: PathBuf,
    /// Refuse TCP sessions without TLS.
    pub require_tls: bool,
    /// Hand the sockets of sessions in plaintext to their computes.
    pub handoff: bool,
    /// Most sessions on the server.
    pub sessions_max: usize,
    /// Most sessions on one branch.
    pub sessions_per_branch_max: usize,
    /// Most connections before authentication.
    pub preauth_max: usize,
    /// Most connections of one address.
    pub connections_per_address_max: usize,
    /// Failed logins in a row before an address has to wait.
    pub failed_logins_max: u32,
    /// Most sessions that wait for branches to start.
    pub wake_queue_max: usize,
}

/// Section `[compute]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeConfig {
    /// Folders searched first for Postgres binaries.
    pub bin_dirs: Vec<PathBuf>,
    /// OS user for initdb when we are root.
    pub user: String,
    /// First uid for computes when we are root.
    pub uid_base: u32,
    /// For benchmarks: branches listen on a loopback address too.
    pub listen_tcp: bool,
    /// Most starts at the same time.
    pub starts_max: usize,
    /// Longest start, in seconds.
    pub start_timeout_s: u64,
    /// Longest fast shutdown, in seconds.
    pub stop_timeout_s: u64,
}

/// Section `[store]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// Disk space that new branches and growing tables leave alone, in megabytes.
    pub reserve_mb: u64,
    /// Let the kernel's requests come over `io_uring` where it can.
    pub io_uring: bool,
    /// Let the kernel hold writes back until Postgres syncs them.
    pub hold_back: bool,
}

/// Section `[replication]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationConfig {
    /// Sessions that copy at once.
    pub copy_jobs: usize,
    /// Log the source keeps for a slot before status says so, in MiB; 0 never.
    pub slot_wal_alarm_mb: u64,
    /// Log the source keeps for a slot before the slot is dropped, in MiB; 0 never.
    pub slot_wal_drop_mb: u64,
    /// Longest CONNECTOR VERIFY, in seconds.
    pub verify_timeout_s: u64,
}

/// Section `[branch]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BranchConfig {
    /// Idle time after which a branch is suspended, in seconds; 0 never.
    pub suspend_after_s: u64,
    /// Longest wait for freshness at branch creation, in milliseconds.
    pub freshness_timeout_ms: u64,
    /// Most branches on the server.
    pub branches_max: usize,
}

/// Section `[metrics]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address of the HTTP listener; empty means none.
    pub listen: String,
}

/// The configuration in force, to be changed while the server runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LiveConfig(Arc<ArcSwap<Config>>);

impl LiveConfig {
    /// Begins with this configuration.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The configuration in force.
    pub fn current(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Takes over the keys of `next` that may change while the server runs. Returns the changed
    /// keys that need a restart.
    pub fn reload(&self, next: &Config) -> Vec<String> {
        let mut merged = Config::clone(&self.current());
        let ProxyConfig { domain, host, handoff, .. } = std::mem::take(&mut merged.proxy);
        merged.proxy = ProxyConfig { domain, host, handoff, ..next.proxy.clone() };
        merged.branch.suspend_after_s = next.branch.suspend_after_s;
        let wanted = next.entries();
        let differing = merged.entries().into_iter().zip(wanted).filter(|(ours, wanted)| {
            let ((_, value, _), (_, wanted, _)) = (ours, wanted);
            value != wanted
        });
        let need_restart = differing.map(|((name, ..), _)| name).collect();
        self.0.store(Arc::new(merged));
        need_restart
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operator's file is not readable.
    #[error("read configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operator's file does not parse, or names an unknown key.
    #[error("configuration file {path}: {message}")]
    Invalid {
        /// The file.
        path: String,
        /// Key and reason.
        message: String,
    },
}

impl Config {
    /// The defaults, overridden by `file` where one is given.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
        Self::parse(&text).map_err(|message| ConfigError::Invalid { path: shown, message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let overrides: Table = text.parse().map_err(|e: toml::de::Error| e.message().to_owned())?;
        let mut merged: Table = DEFAULTS.parse().expect("config/server.toml is valid TOML");
        for (section, keys) in overrides {
            merge(&mut merged, section, keys)?;
        }
        Value::Table(merged).try_into().map_err(|e: toml::de::Error| e.message().to_owned())
    }

    /// Every key as `section.key`, its value as the file writes it, and whether it is the default.
    pub fn entries(&self) -> Vec<(String, String, bool)> {
        let table = |config: &Self| Table::try_from(config).unwrap_or_default();
        let (ours, defaults) = (table(self), table(&Self::default()));
        let mut entries = Vec::new();
        for (section, keys) in ours {
            for (key, value) in keys.as_table().into_iter().flatten() {
                let default = defaults.get(&section).and_then(|keys| keys.get(key));
                let name = format!("{section}.{key}");
                entries.push((name, value.to_string(), default == Some(value)));
            }
        }
        entries
    }

    /// Longest wait for freshness at branch creation.
    pub fn freshness_timeout(&self) -> Duration {
        Duration::from_millis(self.branch.freshness_timeout_ms)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("").expect("config/server.toml has every key")
    }
}

fn merge(merged: &mut Table, section: String, keys: Value) -> Result<(), String> {
    match (merged.get_mut(&section), keys) {
        (Some(Value::Table(known)), Value::Table(keys)) => {
            known.extend(keys);
            Ok(())
        }
        (Some(_), _) => Err(format!("`{section}` is a section: write [{section}]")),
        (None, _) => Err(format!("unknown section `{section}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_shipped_file() {
        let config = Config::default();
        assert_eq!(config.branch.suspend_after_s, 300);
        assert_eq!(config.compute.user, "postgres");
    }

    #[test]
    fn overrides_single_keys() {
        let config = Config::parse("[compute]\nuid_base = 9000").unwrap();
        assert_eq!((config.compute.uid_base, config.compute.start_timeout_s), (9000, 120));
    }

    #[test]
    fn a_reload_changes_what_may_change() {
        let live = LiveConfig::new(Config::default());
        let next = "[proxy]\nsessions_max = 3\nhost = \"x\"\n[branch]\nsuspend_after_s = 7";
        let need_restart = live.reload(&Config::parse(next).unwrap());
        let current = live.current();
        assert_eq!((current.proxy.sessions_max, current.branch.suspend_after_s), (3, 7));
        assert_eq!((current.proxy.host.as_str(), need_restart), ("", vec!["proxy.host".into()]));
    }

    #[test]
    fn refuses_unknown_names_and_wrong_types() {
        for bad in ["[nothing]\na = 1", "[compute]\nuidbase = 1", "compute = 1", "[branch", "a"] {
            assert!(Config::parse(bad).is_err(), "{bad}");
        }
        assert!(Config::parse("[compute]\nuid_base = \"x\"").is_err());
    }
}
