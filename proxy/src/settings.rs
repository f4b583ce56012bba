//! What the front door needs besides its listeners, and how it is told to end.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cancel::Cancels;
use crate::crowd::Crowd;
use crate::meters::Meters;
use crate::policy::LivePolicy;
use crate::sessions::Sessions;

/// What the front door needs besides listeners.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds and TLS; may change while serving.
    pub policy: LivePolicy,
    /// Secret of this server, the same after a restart: makes the salts of unknown names.
    pub mock_secret: [u8; 32],
    /// Where sessions are listed.
    pub sessions: Arc<Sessions>,
    /// What is counted.
    pub meters: Arc<Meters>,
    /// Who is on the way in.
    pub entrants: Entrants,
    /// Keys of the running sessions.
    pub cancels: Arc<Cancels>,
}

impl Settings {
    /// Settings with nothing counted yet.
    pub fn new(policy: LivePolicy, mock_secret: [u8; 32]) -> Self {
        Self {
            policy,
            mock_secret,
            sessions: Sessions::new(),
            meters: Meters::new(),
            entrants: Entrants::default(),
            cancels: Arc::default(),
        }
    }
}

/// The connections between accept and their session.
#[derive(Clone, Debug, Default)]
pub struct Entrants(pub(crate) Arc<Crowd>);

impl Entrants {
    /// Connections that have not authenticated yet.
    pub fn strangers(&self) -> usize {
        self.0.strangers()
    }

    /// Returns once nobody is on the way in: everybody is gone, or in a session.
    pub async fn all_settled(&self) {
        self.0.all_settled().await;
    }
}

/// How serving ends, or parts of it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Everything ends: sessions are told, idle ones at once.
    pub sessions: CancellationToken,
    /// Nothing more is accepted and the console closes, but sessions at branches go on until they
    /// end by themselves: another server has the listeners now.
    pub accepting: CancellationToken,
    /// Whoever is on the way in is sent away.
    pub entering: CancellationToken,
}

impl Stop {
    /// Not yet.
    pub fn new() -> Self {
        let sessions = CancellationToken::new();
        let [accepting, entering] = [sessions.child_token(), sessions.child_token()];
        Self { sessions, accepting, entering }
    }
}
