//! Logs of the server and of the store process: one line an event, on standard error.
//!
//! `ARDENT_LOG` chooses what is shown, in the syntax of `tracing_subscriber::EnvFilter`. The
//! default is our own crates from INFO and everybody else's from WARN: libraries print what they
//! are given, and below WARN that can be a connection string.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "warn,ardent=info,proxy=info,storage=info";

/// Begins to log. Call it once, before anything else is started.
pub fn start() {
    let chosen = std::env::var("ARDENT_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let filter = chosen.unwrap_or_else(|| EnvFilter::new(DEFAULT));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    // Fails only where a test has begun already.
    let _ = format.try_init();
}
