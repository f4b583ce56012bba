//! Finds the server and runs one statement on it.
//!
//! The server is named by a URL, or it is the one on this machine whose data directory has exactly
//! one admin socket. Must never: put the URL into a message; it may hold a password.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use proxy::client::{ServerMessage, Session, Target};
use tokio_postgres::types::ToSql;

use super::args::Global;
use super::failure::{Failure, START_SERVER};
use super::row::Row;
use super::statement::Statement;

/// The admin database.
const DATABASE: &str = "ardent";
const SOCKET_PREFIX: &str = ".s.PGSQL.";

/// Runs a statement; notices go to `on_notice` as they come.
pub(super) async fn run(
    target: &Target,
    statement: &Statement,
    on_notice: impl FnMut(ServerMessage) + Send + 'static,
) -> Result<Vec<Row>, Failure> {
    let session = Session::open_with_notices(target, on_notice)
        .await
        .map_err(|error| Failure::from_connecting(&error, &target.address()))?;
    let parameters: Vec<&(dyn ToSql + Sync)> =
        statement.parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    let answer = session.query(&statement.text, &parameters).await;
    // Closing waits for the session's task, so that every notice has been handed on.
    session.close().await;
    let rows = answer.map_err(|error| Failure::from_statement(&error))?;
    Ok(rows.iter().map(Row::from_sql).collect())
}

/// The server that the options name, else the environment, else the one of this machine.
pub(super) fn target(global: &Global) -> Result<Target, Failure> {
    let from_environment =
        || global.data_dir.is_none().then(|| variable("ARDENT_URL")?.into_string().ok()).flatten();
    let from_file = || global.data_dir.is_none().then(|| configured("server")).flatten();
    let named = global.server.clone().or_else(from_environment);
    let is_elsewhere = || variable("ARDENT_DATA_DIR").is_some();
    let named = named.or_else(|| (!is_elsewhere()).then(from_file).flatten());
    if let Some(url) = named {
        let target: Target =
            url.parse().map_err(|error| Failure::usage(format!("server: {error}")))?;
        return Ok(target.with_database(DATABASE));
    }
    let run = data_dir(global).join("run");
    Ok(Target::unix(&run, admin_port(&run)?, &operator(), DATABASE))
}

/// A key of the operator's own configuration file, `$XDG_CONFIG_HOME/ardent/config.toml`. A file
/// that does not parse counts as none: it must not keep anybody from their server.
fn configured(key: &str) -> Option<String> {
    let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".config");
    let folder = variable("XDG_CONFIG_HOME").map_or_else(home, PathBuf::from);
    let text = std::fs::read_to_string(folder.join("ardent/config.toml")).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(table.get(key)?.as_str()?.to_owned())
}

/// `--data-dir`, else `ARDENT_DATA_DIR`, else `data_dir` of the operator's configuration file, else
/// `/var/lib/ardent` for root and
/// `$XDG_DATA_HOME/ardent` for others.
pub fn data_dir(global: &Global) -> PathBuf {
    let named = global.data_dir.clone().or_else(|| variable("ARDENT_DATA_DIR").map(PathBuf::from));
    named.or_else(|| configured("data_dir").map(PathBuf::from)).unwrap_or_else(|| {
        if rustix::process::getuid().is_root() {
            return PathBuf::from("/var/lib/ardent");
        }
        let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".local/share");
        variable("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("ardent")
    })
}

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The port in the name of the one socket in `run`.
fn admin_port(run: &Path) -> Result<u16, Failure> {
    let missing = |cause: &str| {
        Failure::offline(format!("no server found in {}: {cause}", run.display()), START_SERVER)
    };
    let entries = std::fs::read_dir(run).map_err(|error| missing(&error.to_string()))?;
    let ports: Vec<u16> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix(SOCKET_PREFIX)?.parse().ok()
        })
        .collect();
    match ports.as_slice() {
        [port] => Ok(*port),
        [] => Err(missing("it has no admin socket")),
        _ => Err(missing("it has several admin sockets")),
    }
}

/// Who the server keeps the current connector and branch for.
fn operator() -> String {
    variable("USER").and_then(|name| name.into_string().ok()).unwrap_or_else(|| {
        if rustix::process::getuid().is_root() { "root".to_owned() } else { DATABASE.to_owned() }
    })
}
