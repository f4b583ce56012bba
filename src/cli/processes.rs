//! What may be typed to start a process of the server, or to look at what it left.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `ardent serve`
#[derive(Args, Debug)]
pub struct Serve {
    /// Address to listen on, may be given several times; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:6432", value_name = "HOST:PORT")]
    pub listen: Vec<String>,
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take over from a running server without stopping computes
    #[arg(long)]
    pub takeover: bool,
}

/// Verbs on the page store that need no server.
#[derive(Debug, Subcommand)]
pub enum StoreVerb {
    /// Prove all that the store holds against each other, in service or not; changes nothing.
    ///
    /// Prints one line for each thing that is not as it must be. Exits with 0 if there is none, 1
    /// if there are some, 2 if the store cannot be checked.
    Check {
        /// The server's data directory; --data-dir means the same.
        #[arg(value_name = "DATA-DIR")]
        directory: Option<PathBuf>,
    },
}
