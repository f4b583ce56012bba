//! What may change while the front door serves: its bounds and the identity it shows.
//!
//! A connection takes the policy of the moment it is accepted, so a change drops nobody.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::limits::Limits;
use crate::tls::Tls;

/// Bounds, and how clients over TCP may encrypt.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Bounds.
    pub limits: Limits,
    /// The identity shown to clients that encrypt; `None` declines encryption.
    pub tls: Option<Tls>,
    /// Refuses plaintext over TCP. Only with an identity to show.
    pub require_tls: bool,
    /// Offers the socket of a client that does not encrypt to its backend.
    pub handoff: bool,
}

/// The policy in force, to be replaced at any time.
#[derive(Clone, Debug)]
pub struct LivePolicy(Arc<ArcSwap<Policy>>);

impl LivePolicy {
    /// Begins with this policy.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(policy)))
    }

    /// From now on this policy holds for connections that come.
    pub fn replace(&self, policy: Policy) {
        self.0.store(Arc::new(policy));
    }

    /// The policy in force.
    pub fn current(&self) -> Arc<Policy> {
        self.0.load_full()
    }
}
