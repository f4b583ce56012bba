//! What may be typed after `ardent`. One verb per admin statement, options as documented.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Writable copies of a production Postgres in a tenth of a second.
#[derive(Debug, Parser)]
#[command(name = "ardent", version, propagate_version = true, arg_required_else_help = true)]
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
    /// Server to talk to, postgresql://role:password@host:port [env: ARDENT_URL]
    #[arg(long, global = true, value_name = "URL", conflicts_with = "data_dir")]
    pub server: Option<String>,
    /// Data directory of the server on this machine [env: ARDENT_DATA_DIR]
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
    /// Run the page store; started by the server
    #[command(hide = true)]
    Store,
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
    /// Run one admin statement, such as 'ARDENT HELP'
    Sql {
        /// The statement
        text: String,
    },
}

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

/// The only kind of source.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SourceKind {
    /// A Postgres server.
    Postgresql,
}

/// How a source is reached.
#[derive(Args, Debug)]
pub struct Source {
    /// Kind of source
    #[arg(value_enum, value_name = "TYPE", ignore_case = true)]
    pub kind: SourceKind,
    /// Connection URL of the writer, in single quotes
    pub url: String,
    /// Schemas to follow, comma-separated; default: all but the system's
    #[arg(long, value_name = "LIST")]
    pub schemas: Option<String>,
    /// Logical decoding plugin: auto, wal2json or pgoutput
    #[arg(long, value_name = "PLUGIN")]
    pub plugin: Option<String>,
    /// Go through a customer-owned environment
    #[arg(long, requires = "environment_id")]
    pub byoc: bool,
    /// The environment
    #[arg(long, value_name = "ID", requires = "byoc")]
    pub environment_id: Option<String>,
    /// The private connection inside the environment
    #[arg(long, value_name = "ID", requires = "byoc")]
    pub private_link_id: Option<String>,
}

/// What to do about tables that cannot identify their rows.
#[derive(Args, Debug)]
pub struct Decisions {
    /// JSON file: table to exclude, add_pk or replica_identity_full
    #[arg(long, value_name = "PATH", conflicts_with = "accept_replica_identity_defaults")]
    pub replica_identity_decisions: Option<PathBuf>,
    /// Exclude tables that are not decided on
    #[arg(long)]
    pub accept_replica_identity_defaults: bool,
}

/// `ardent connector ...`
#[derive(Debug, Subcommand)]
pub enum Connector {
    /// Check a source; creates and stores nothing
    Preflight(#[command(flatten)] Source),
    /// Follow a source
    Create {
        /// The source
        #[command(flatten)]
        source: Source,
        /// Name of the connector
        #[arg(short, long)]
        name: Option<String>,
        /// Replica identity
        #[command(flatten)]
        decisions: Decisions,
    },
    /// All connectors
    List,
    /// How far setup is, and how far behind the source
    Status {
        /// The connector; default: all
        name: Option<String>,
    },
    /// Make a connector the current one
    Switch {
        /// The connector
        name: String,
    },
    /// Carry on with setup, or join it
    RetrySetup {
        /// The connector
        name: String,
        /// Replica identity
        #[command(flatten)]
        decisions: Decisions,
    },
    /// Change what future branches leave out
    Update {
        /// The connector
        name: String,
        /// Extensions to leave out, comma-separated; '' for none
        #[arg(long, value_name = "LIST")]
        drop_extensions: String,
    },
    /// Delete a connector and all it holds on its source
    Delete {
        /// The connector
        name: String,
        /// Do not wait for replication to drain; delete its branches too
        #[arg(long)]
        force: bool,
    },
    /// Compare the trunk with the source
    Verify {
        /// The connector; default: the current one
        name: Option<String>,
    },
    /// Refuse deletion
    Lock {
        /// The connector
        name: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
    /// Allow deletion again
    Unlock {
        /// The connector
        name: String,
    },
    /// Tables whose changes could not be applied
    #[command(subcommand)]
    Quarantine(Quarantine),
}

/// `ardent connector quarantine ...`
#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// Which tables, and why
    List {
        /// The connector
        name: String,
    },
    /// Copy a table anew and follow it again
    Release {
        /// The connector
        name: String,
        /// schema.table
        table: String,
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

/// `ardent environment ...`
#[derive(Debug, Subcommand)]
pub enum Environment {
    /// Name a way into a private network
    Create {
        /// Its name
        name: String,
        /// ssh://user@host:port or socks5://host:port
        url: String,
        /// File with the private key for ssh
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// The host's public key, a line of known_hosts
        #[arg(long)]
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
    Create {
        /// Its name
        name: String,
        /// The environment
        #[arg(long, value_name = "ID")]
        environment_id: String,
        /// host:port, as seen from inside
        #[arg(long)]
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

/// `ardent settings ...`
#[derive(Debug, Subcommand)]
pub enum Settings {
    /// All settings
    List,
    /// Change a setting
    Set {
        /// The setting
        key: String,
        /// Its value
        value: String,
    },
    /// Put a setting back to its default
    Remove {
        /// The setting
        key: String,
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
