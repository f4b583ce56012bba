//! SIGHUP: the configuration file and the certificates are read again, for whoever comes next.
//!
//! Must never: drop anybody, or take half of what is broken. A file that cannot be used leaves
//! everything as it was, and the log says why.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proxy::{Limits, LivePolicy, Policy};
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::{ServerError, tls};
use crate::cause::Causes;
use crate::config::{Config, LiveConfig};

/// Our own certificates are valid for 90 days and renewed after this.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Where the front door's policy comes from.
pub(super) struct PolicySource {
    pub(super) file: Option<PathBuf>,
    pub(super) config: LiveConfig,
    pub(super) authority: Authority,
    pub(super) listening: Vec<SocketAddr>,
}

impl PolicySource {
    /// The policy that a configuration asks for.
    pub(super) fn policy(&self, config: &Config) -> Result<Policy, ServerError> {
        let proxy = &config.proxy;
        Ok(Policy {
            limits: Limits {
                preauth_connections: proxy.preauth_max,
                connections_per_address: proxy.connections_per_address_max,
                failed_logins: proxy.failed_logins_max,
                wakes_waiting: proxy.wake_queue_max,
                sessions: proxy.sessions_max,
                sessions_per_endpoint: proxy.sessions_per_branch_max,
                ..Limits::default()
            },
            tls: Some(tls::identity(proxy, &self.authority, &self.listening)?),
            require_tls: proxy.require_tls,
            // Computes have the library since the start of the server, or do not.
            handoff: self.config.current().proxy.handoff,
        })
    }

    /// Reads the configuration and the certificates again.
    pub(super) fn reload(&self, live: &LivePolicy) {
        let read = Config::load(self.file.as_deref()).map_err(ServerError::from);
        match read.and_then(|next| Ok((self.policy(&next)?, next))) {
            Ok((policy, next)) => {
                let need_restart = self.config.reload(&next);
                live.replace(policy);
                tracing::info!("configuration reloaded");
                if !need_restart.is_empty() {
                    let keys = need_restart.join(", ");
                    tracing::warn!(keys, "changed keys take effect with the next start");
                }
            }
            Err(error) => {
                tracing::error!(error = %Causes(&error), "reload refused; all stays as it was");
            }
        }
    }

    /// Renews the server's own certificate until it stops.
    pub(super) async fn keep_fresh(&self, live: &LivePolicy, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(RENEW_AFTER)).await.is_some() {
            match self.policy(&self.config.current()) {
                Ok(policy) => live.replace(policy),
                Err(error) => tracing::error!(error = %Causes(&error), "renew certificate"),
            }
        }
    }
}
