//! A verb as the admin statement it stands for.
//!
//! Everything typed goes as a parameter, never into the text: nothing needs quoting, and no URL or
//! password is part of a statement that may be logged.

use std::io;
use std::path::Path;

use super::args::{
    Branch, Connector, Decisions, Environment, PrivateLink, Quarantine, Role, Settings, Show,
    Source,
};
use super::failure::Failure;

/// A statement and the values of its `$1`, `$2`, ...
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) parameters: Vec<String>,
    options: Vec<String>,
}

impl Statement {
    pub(super) fn new(words: &str) -> Self {
        Self { text: format!("ARDENT {words}"), ..Self::default() }
    }

    /// A text typed by the operator.
    pub(super) fn verbatim(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// Adds words.
    fn words(mut self, words: &str) -> Self {
        self.text += &format!(" {words}");
        self
    }

    /// Adds words and a value behind them.
    fn value(mut self, words: &str, value: impl Into<String>) -> Self {
        self.parameters.push(value.into());
        let separator = if words.is_empty() { "" } else { " " };
        self.text += &format!("{separator}{words} ${}", self.parameters.len());
        self
    }

    fn optional(self, words: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.value(words, value),
            None => self,
        }
    }

    /// Adds an option if it was given.
    fn option(mut self, name: &str, value: Option<impl Into<String>>) -> Self {
        if let Some(value) = value {
            self.parameters.push(value.into());
            self.options.push(format!("{name} = ${}", self.parameters.len()));
        }
        self
    }

    fn flag(mut self, name: &str, given: bool) -> Self {
        if given {
            self.options.push(name.to_owned());
        }
        self
    }

    /// The whole text, options included.
    fn finish(mut self) -> Self {
        if !self.options.is_empty() {
            self.text += &format!(" WITH ({})", self.options.join(", "));
            self.options.clear();
        }
        self
    }

    fn decisions(self, decisions: &Decisions) -> Result<Self, Failure> {
        let file = decisions.replica_identity_decisions.as_deref();
        let json = file.map(read_file).transpose()?;
        let accept = decisions.accept_replica_identity_defaults;
        let statement = self
            .option("replica_identity_decisions", json)
            .flag("accept_replica_identity_defaults", accept);
        Ok(match decisions.write_replica_plan {
            Some(_) => statement.option("setup", Some("off")),
            None => statement,
        })
    }

    fn source_options(self, source: &Source) -> Self {
        self.option("schemas", source.schemas.as_deref())
            .option("plugin", source.plugin.as_deref())
            .flag("byoc", source.byoc)
            .option("environment", source.environment_id.as_deref())
            .option("private_link", source.private_link_id.as_deref())
    }
}

fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("read {}: {error}", path.display())))
}

pub(super) fn connector(verb: &Connector) -> Result<Statement, Failure> {
    let statement = match verb {
        Connector::Preflight(source) => Statement::new("CONNECTOR PREFLIGHT postgresql")
            .value("", &source.url)
            .source_options(source),
        Connector::Create { source, name, decisions } => {
            Statement::new("CONNECTOR CREATE postgresql")
                .value("", &source.url)
                .optional("NAME", name.as_deref())
                .source_options(source)
                .decisions(decisions)?
        }
        Connector::List { .. } => Statement::new("CONNECTOR LIST"),
        Connector::Status { name } => {
            Statement::new("CONNECTOR STATUS").optional("", name.as_deref())
        }
        Connector::Switch { name } => Statement::new("CONNECTOR SWITCH").value("", name),
        Connector::RetrySetup { name, decisions } => {
            Statement::new("CONNECTOR RETRY SETUP").value("", name).decisions(decisions)?
        }
        Connector::Update { name, drop_extensions: extensions } => {
            drop_extensions(name, extensions)
        }
        Connector::Delete { name, force } => {
            let statement = Statement::new("CONNECTOR DELETE").value("", name);
            if *force { statement.words("FORCE") } else { statement }
        }
        Connector::Verify { name, tables, sample } => Statement::new("CONNECTOR VERIFY")
            .optional("", name.as_deref())
            .option("tables", tables.as_deref())
            .option("sample", sample.map(|rows| rows.to_string())),
        Connector::Lock { name, reason } => {
            Statement::new("CONNECTOR LOCK").value("", name).optional("REASON", reason.as_deref())
        }
        Connector::Unlock { name } => Statement::new("CONNECTOR UNLOCK").value("", name),
        Connector::Quarantine(Quarantine::List { name }) => {
            Statement::new("CONNECTOR QUARANTINE LIST").value("", name)
        }
        Connector::Quarantine(Quarantine::Release { name, table }) => {
            Statement::new("CONNECTOR QUARANTINE RELEASE").value("", name).value("", table)
        }
    };
    Ok(statement.finish())
}

pub(super) fn branch(verb: &Branch) -> Statement {
    match verb {
        Branch::Create { name, from, role, max_size, freshness_timeout, .. } => {
            Statement::new("BRANCH CREATE")
                .value("", name)
                .optional("FROM", from.as_deref())
                .option("role", role.as_deref())
                .option("max_size", max_size.as_deref())
                .option("freshness_timeout", freshness_timeout.as_deref())
                .finish()
        }
        Branch::List => Statement::new("BRANCH LIST"),
        Branch::Info { name, .. } => Statement::new("BRANCH INFO").optional("", name.as_deref()),
        Branch::Switch { name } => Statement::new("BRANCH SWITCH").value("", name),
        Branch::Delete { name } => Statement::new("BRANCH DELETE").value("", name),
        Branch::RotatePassword { name } => Statement::new("BRANCH ROTATE PASSWORD").value("", name),
    }
}

pub(super) fn environment(verb: &Environment) -> Result<Statement, Failure> {
    Ok(match verb {
        Environment::Create { name, url, key, known_host } => {
            let key = key.as_deref().map(read_file).transpose()?;
            Statement::new("ENVIRONMENT CREATE")
                .value("", name)
                .value("", url)
                .option("key", key)
                .option("known_host", known_host.as_deref())
                .finish()
        }
        Environment::List => Statement::new("ENVIRONMENT LIST"),
        Environment::Delete { name } => Statement::new("ENVIRONMENT DELETE").value("", name),
    })
}

pub(super) fn private_link(verb: &PrivateLink) -> Statement {
    match verb {
        PrivateLink::Create { name, environment_id, endpoint } => {
            Statement::new("PRIVATE LINK CREATE")
                .value("", name)
                .value("ENVIRONMENT", environment_id)
                .value("ENDPOINT", endpoint)
        }
        PrivateLink::List => Statement::new("PRIVATE LINK LIST"),
        PrivateLink::Delete { name } => Statement::new("PRIVATE LINK DELETE").value("", name),
    }
}

pub(super) fn settings(verb: &Settings) -> Result<Statement, Failure> {
    Ok(match verb {
        Settings::List => Statement::new("SETTINGS LIST"),
        Settings::Set { key, value, hook } => {
            let value = match value.strip_prefix('@') {
                Some(path) if key == "branch_sql" => read_file(Path::new(path))?,
                _ => value.clone(),
            };
            let none = |given: bool| given.then(String::new);
            Statement::new("SETTINGS SET")
                .value("", key)
                .value("=", value)
                .option("hook", hook.hook.as_deref())
                .option("position", hook.order.map(|order| order.to_string()))
                .option("database", hook.database.clone().or_else(|| none(hook.no_database)))
                .option("run_as", hook.run_as.clone().or_else(|| none(hook.no_run_as)))
                .finish()
        }
        Settings::Remove { key, hook } => Statement::new("SETTINGS REMOVE")
            .value("", key)
            .option("hook", hook.as_deref())
            .finish(),
    })
}

/// Setup again, with decisions that were made on the terminal.
pub(super) fn retry_with(name: &str, decisions: String) -> Statement {
    Statement::new("CONNECTOR RETRY SETUP")
        .value("", name)
        .option("replica_identity_decisions", Some(decisions))
        .finish()
}

/// Extensions left out for good.
pub(super) fn drop_extensions(name: &str, extensions: &str) -> Statement {
    let mut statement = Statement::new("CONNECTOR UPDATE").value("", name);
    statement.parameters.push(extensions.to_owned());
    statement.words("SET (drop_extensions = $2)")
}

/// A new role's password comes from standard input: arguments are seen by everybody in `ps`.
pub(super) fn role(verb: &Role) -> Result<Statement, Failure> {
    Ok(match verb {
        Role::Create { name, level } => {
            let mut password = String::new();
            io::stdin()
                .read_line(&mut password)
                .map_err(|error| Failure::usage(format!("read the password: {error}")))?;
            let password = password.trim_end_matches(['\n', '\r']);
            if password.is_empty() {
                return Err(Failure::usage("no password on standard input"));
            }
            Statement::new("ROLE CREATE")
                .value("", name)
                .value("PASSWORD", password)
                .option("level", level.as_deref())
                .finish()
        }
        Role::List => Statement::new("ROLE LIST"),
        Role::Delete { name } => Statement::new("ROLE DELETE").value("", name),
    })
}

pub(super) fn show(what: Show) -> Statement {
    Statement::new(match what {
        Show::Sessions => "SHOW SESSIONS",
        Show::Computes => "SHOW COMPUTES",
        Show::Config => "SHOW CONFIG",
        Show::Metrics => "SHOW METRICS",
        Show::Jobs => "SHOW JOBS",
    })
}
