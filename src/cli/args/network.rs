//! What may be typed after `ardent environment` and `ardent private-link`.

use std::path::PathBuf;

use clap::Subcommand;

/// `ardent environment ...`
#[derive(Debug, Subcommand)]
pub enum Environment {
    /// Name a way into a private network
    #[command(after_help = "\
Examples:
  ardent environment create env_1 ssh://ardent@bastion.example.com --key ~/.ssh/ardent \\
      --known-host \"$(ssh-keyscan -t ed25519 bastion.example.com)\"
  ardent environment create env_2 socks5://proxy.internal:1080")]
    Create {
        /// Its name
        name: String,
        /// ssh://user@host:port or socks5://host:port
        url: String,
        /// File with the private key for ssh
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The host's public key, a line of known_hosts
        #[arg(long, value_name = "LINE")]
        known_host: Option<String>,
    },
    /// All environments
    List,
    /// Delete an environment no connector uses
    Delete {
        /// The environment
        name: String,
    },
}

/// `ardent private-link ...`
#[derive(Debug, Subcommand)]
pub enum PrivateLink {
    /// Name an endpoint inside an environment
    #[command(after_help = "\
Example:
  ardent private-link create epl_123 --environment-id env_1 --endpoint db.internal:5432")]
    Create {
        /// Its name
        name: String,
        /// The environment
        #[arg(long, value_name = "ID")]
        environment_id: String,
        /// host:port, as seen from inside
        #[arg(long, value_name = "HOST:PORT")]
        endpoint: String,
    },
    /// All private links
    List,
    /// Delete a private link no connector uses
    Delete {
        /// The private link
        name: String,
    },
}
