//! What may be typed after `ardent connector`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

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
    #[arg(long)]
    pub byoc: bool,
    /// The environment; default: the only one there is
    #[arg(long, value_name = "ID", requires = "byoc")]
    pub environment_id: Option<String>,
    /// The private connection to use; required when the environment has active private links
    #[arg(long, value_name = "ID", requires = "byoc")]
    pub private_link_id: Option<String>,
}

/// What to do about tables that cannot identify their rows.
#[derive(Args, Debug)]
pub struct Decisions {
    /// JSON file: table to exclude, add_pk or replica_identity_full
    #[arg(long, value_name = "PATH", group = "decided")]
    pub replica_identity_decisions: Option<PathBuf>,
    /// Do not ask: keep decisions made before, exclude tables that are not decided on
    #[arg(long, group = "decided")]
    pub accept_replica_identity_defaults: bool,
    /// Write the recommended decisions to a file, and stop before setup
    #[arg(long, value_name = "PATH", group = "decided")]
    pub write_replica_plan: Option<PathBuf>,
}

impl Decisions {
    /// Nothing was said on the command line.
    pub(in crate::cli) fn are_to_be_asked(&self) -> bool {
        self.replica_identity_decisions.is_none()
            && self.write_replica_plan.is_none()
            && !self.accept_replica_identity_defaults
    }
}

/// `ardent connector ...`
#[derive(Debug, Subcommand)]
pub enum Connector {
    /// Check a source; creates and stores nothing
    #[command(after_help = "\
Examples:
  ardent connector preflight postgresql 'postgresql://user:***@host:5432/mydb'
  ardent connector preflight postgresql '<url>' --schemas public,billing
  ardent connector preflight postgresql '<url>' --byoc --environment-id env_123 \\
      --private-link-id epl_123

Exits with 0 if the source passes, with 2 if it does not.")]
    Preflight(#[command(flatten)] Source),
    /// Follow a source
    #[command(after_help = "\
Examples:
  ardent connector create postgresql 'postgresql://user:***@host:5432/mydb' --name prod-db
  ardent connector create postgresql '<url>' --write-replica-plan ./decisions.json
  ardent connector create postgresql '<url>' --replica-identity-decisions ./decisions.json

A file of decisions: {\"public.audit_events\": \"exclude\", \"public.legacy_orders\": \"add_pk\"}")]
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
    List {
        /// Exit with 2 if a connector has warnings
        #[arg(long)]
        fail_on_warnings: bool,
    },
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
    #[command(after_help = "\
Examples:
  ardent connector update prod-db --drop-extensions pgmq,supabase_vault
  ardent connector update prod-db --drop-extensions ''")]
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
        /// Tables to compare, schema.table, comma-separated; default: everything
        #[arg(long, value_name = "LIST")]
        tables: Option<String>,
        /// Rows to compare per table, about; default: all
        #[arg(long, value_name = "ROWS")]
        sample: Option<u64>,
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
