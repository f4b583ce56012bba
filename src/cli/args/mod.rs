//! What may be typed after `ardent`. One verb per admin statement, options as documented.

mod connector;
mod network;
mod settings;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::processes::{Serve, StoreVerb};

pub use connector::{Connector, Decisions, Quarantine, Source};
pub use network::{Environment, PrivateLink};
pub use settings::{HookOptions, Settings};

const ONBOARDING: &str = "\
Examples:
  ardent connector preflight postgresql 'postgresql://user:***@db.example.com:5432/shop'
  ardent connector create postgresql 'postgresql://user:***@db.example.com:5432/shop' --name prod-db
  ardent branch create my-feature
  psql \"$(ardent branch info my-feature --print-url)\"

Exit codes: 0 done, 1 failed, 2 wrong usage or failed preflight.";

/// Writable copies of a production Postgres in a tenth of a second.
#[derive(Debug, Parser)]
#[command(name = "ardent", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = ONBOARDING)]
pub struct Cli {
    /// How the program reaches the server, and how it answers.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Options that exclude each other in a way clap has no attribute for.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let prints_url = matches!(
            self.command,
            Command::Branch(
                Branch::Create { print_url: true, .. } | Branch::Info { print_url: true, .. }
            )
        );
        let is_both = prints_url && self.global.format == Format::Json;
        is_both.then_some("--print-url cannot be used with --format json")
    }
}

/// Options of every verb.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Server to talk to, postgresql://role:password@host:port [env: ARDENT_URL; file: server]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data_dir")]
    pub server: Option<String>,
    /// Data directory of the server on this machine [env: ARDENT_DATA_DIR; file: data_dir]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one object with `schema_version`.
    Json,
}

/// The verbs, and the processes of the server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server in the foreground
    Serve(Serve),
    /// Check the page store; without a verb, be it (the server starts that itself)
    Store {
        /// Disk space that new branches and growing tables leave alone.
        #[arg(long, hide = true, default_value_t = 0)]
        reserve_bytes: u64,
        /// Let requests come over `io_uring` where the kernel can.
        #[arg(long, hide = true)]
        io_uring: bool,
        /// Let the kernel hold writes back where that can be bounded.
        #[arg(long, hide = true)]
        hold_back: bool,
        /// What to do with it.
        #[command(subcommand)]
        verb: Option<StoreVerb>,
    },
    /// Follow Postgres sources
    #[command(subcommand)]
    Connector(Connector),
    /// Make and delete branches
    #[command(subcommand)]
    Branch(Branch),
    /// Name ways into private networks
    #[command(subcommand)]
    Environment(Environment),
    /// Name endpoints inside an environment
    #[command(subcommand)]
    PrivateLink(PrivateLink),
    /// Settings of the current connector
    #[command(subcommand)]
    Settings(Settings),
    /// Operators who may log in over TCP
    #[command(subcommand)]
    Role(Role),
    /// What the server is doing
    Show {
        /// What to show
        #[arg(value_enum)]
        what: Show,
    },
    /// Print the completions of a shell, to be sourced by it
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
    /// Run one admin statement, such as 'ARDENT HELP'
    Sql {
        /// The statement
        text: String,
    },
}

/// `ardent branch ...`
#[derive(Debug, Subcommand)]
pub enum Branch {
    /// Cut a branch from the current connector and make it the current one
    Create {
        /// Name of the branch
        name: String,
        /// Parent branch; default: the trunk
        #[arg(long, value_name = "BRANCH")]
        from: Option<String>,
        /// Role the URL logs in as
        #[arg(long)]
        role: Option<String>,
        /// The most it may come to hold of its own, such as 10GB
        #[arg(long, value_name = "SIZE")]
        max_size: Option<String>,
        /// How long to wait for the source's present position, such as 30s
        #[arg(long, value_name = "DURATION")]
        freshness_timeout: Option<String>,
        /// Print the connection URL and nothing else
        #[arg(long)]
        print_url: bool,
    },
    /// The branches of the current connector
    List,
    /// One branch with its URL
    Info {
        /// The branch; default: the current one
        name: Option<String>,
        /// Print the connection URL and nothing else
        #[arg(long)]
        print_url: bool,
    },
    /// Make a branch the current one
    Switch {
        /// The branch
        name: String,
    },
    /// Delete a branch; its URL stops working at once
    Delete {
        /// The branch
        name: String,
    },
    /// Give a branch a new password
    RotatePassword {
        /// The branch
        name: String,
    },
}

/// `ardent role ...`
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Create a role; its password is read from standard input
    Create {
        /// The role
        name: String,
        /// What it may do: viewer, operator or admin
        #[arg(long)]
        level: Option<String>,
    },
    /// All admin roles
    List,
    /// Delete a role
    Delete {
        /// The role
        name: String,
    },
}

/// `ardent show ...`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Show {
    /// Who is connected.
    Sessions,
    /// The Postgres servers that run.
    Computes,
    /// The configuration in force.
    Config,
    /// Counters and gauges.
    Metrics,
    /// Long operations that are under way.
    Jobs,
}
