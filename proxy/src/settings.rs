//! What the front door needs besides its listeners.

use std::sync::Arc;

use crate::limits::Limits;
use crate::sessions::Sessions;

/// What the front door needs besides listeners.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bounds.
    pub limits: Limits,
    /// Secret of this server, the same after a restart: makes the salts of unknown names.
    pub mock_secret: [u8; 32],
    /// Where sessions are listed.
    pub sessions: Arc<Sessions>,
}
