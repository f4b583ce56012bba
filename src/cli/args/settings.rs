//! What may be typed after `ardent settings`.

use clap::{Args, Subcommand};

/// `ardent settings ...`
#[derive(Debug, Subcommand)]
pub enum Settings {
    /// All settings of the current connector
    List,
    /// Change a setting
    #[command(after_help = "\
Examples:
  ardent settings set default_db shop
  ardent settings set branch_sql @mask.sql --hook mask --order 1
  ardent settings set suspend_after 15min")]
    Set {
        /// The setting: default_db, branch_sql, suspend_after or freshness_timeout
        key: String,
        /// Its value; for branch_sql also @FILE
        value: String,
        /// Of branch_sql
        #[command(flatten)]
        hook: HookOptions,
    },
    /// Put a setting back to its default
    Remove {
        /// The setting
        key: String,
        /// Remove this script of branch_sql only
        #[arg(long, value_name = "NAME")]
        hook: Option<String>,
    },
}

/// Options of a script that runs on every new branch.
#[derive(Args, Debug)]
pub struct HookOptions {
    /// Name of the script; there can be several
    #[arg(long, value_name = "NAME")]
    pub hook: Option<String>,
    /// Lower ones run first; default: 0
    #[arg(long, value_name = "NUMBER")]
    pub order: Option<u32>,
    /// Database the script runs in; default: the source's
    #[arg(long, value_name = "DATABASE", conflicts_with = "no_database")]
    pub database: Option<String>,
    /// Run it in the source's database again
    #[arg(long)]
    pub no_database: bool,
    /// Role the script runs as; default: the branch's owner
    #[arg(long, value_name = "ROLE", conflicts_with = "no_run_as")]
    pub run_as: Option<String>,
    /// Run it as the branch's owner again
    #[arg(long)]
    pub no_run_as: bool,
}
