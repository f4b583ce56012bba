//! The admin database behind the front door: parse, check the level, run, answer.
//!
//! Privileges are checked here and nowhere else, from the command table. Must never: put a password
//! or connection URL into an error, a notice or the log.

mod configuring;
mod showing;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use proxy::{
    Answer, Column, Console, ConsoleSession, Description, Notice, NoticeSender, Refusal,
    ScramVerifier, TransactionEffect, Value,
};

use crate::cli::report::{self, ReportRow};
use crate::secret::Secret;

use crate::admin::columns;
use crate::admin::error::{OperationError, Outcome, refuse, sqlstate};
use crate::admin::grammar::Command;
use crate::admin::help;
use crate::admin::lexer::{self, Lexer, TokenKind};
use crate::admin::operations::{Caller, Operations, Progress};
use crate::admin::parser::{self, Parameters};
use crate::admin::request::{CreateConnectorRequest, Level};
use crate::admin::row::{CreateConnectorOutcome, PreflightRow, RoleRecord};
use crate::admin::statement::Statement;
use crate::admin::syntax::SyntaxError;
use crate::admin::tolerance::{self, Session};

/// The admin SQL over some control plane.
pub struct AdminConsole<O> {
    operations: Arc<O>,
}

type Rows = Outcome<Vec<Vec<Value>>>;

impl<O: Operations> AdminConsole<O> {
    /// A console that runs its statements on `operations`.
    pub fn new(operations: Arc<O>) -> Self {
        Self { operations }
    }

    /// The caller's level: everything for a local administrator, else what the role has now.
    async fn caller(&self, session: &ConsoleSession) -> Outcome<Caller> {
        let operator = session.role.clone();
        if session.is_local_admin {
            return Ok(Caller { operator, level: Level::Admin });
        }
        match self.operations.role(&operator).await {
            Some(role) => Ok(Caller { operator, level: role.level }),
            None => Err(OperationError::new(
                sqlstate::INSUFFICIENT_PRIVILEGE,
                format!("role \"{operator}\" is no longer an admin role"),
            )),
        }
    }

    async fn run_ours(
        &self,
        session: &ConsoleSession,
        statement: proxy::Statement<'_>,
        notices: NoticeSender,
    ) -> Result<Answer, Refusal> {
        let in_text = |error: SyntaxError| refuse_syntax(&error, statement.text);
        let parameters = Parameters::Known(statement.parameters);
        let parsed = parser::parse(statement.text, parameters).map_err(in_text)?;
        let meant = parsed.statement.expect("known parameters leave nothing unknown");
        let caller = self.caller(session).await.map_err(refuse)?;
        require_level(&caller, parsed.command).map_err(refuse)?;
        if statement.in_transaction && meant.changes_state() {
            let warning = "the statement takes effect at once; ROLLBACK will not undo it";
            notices.send(Notice::warning(warning)).await;
        }
        let rows = self.execute(&caller, meant, notices).await.map_err(refuse)?;
        let columns = columns_of(parsed.command);
        debug_assert!(rows.iter().all(|row| row.len() == columns.len()));
        Ok(Answer { tag: parsed.command.tag(), columns, rows })
    }

    async fn execute(&self, caller: &Caller, statement: Statement, notices: NoticeSender) -> Rows {
        let operations = &self.operations;
        match statement {
            Statement::ConnectorPreflight(request) => {
                self.announce(&request.url, &notices).await?;
                let rows = operations.preflight(caller, request).await?;
                Ok(rows.into_iter().map(columns::preflight).collect())
            }
            Statement::ConnectorCreate(request) => {
                self.create_connector(caller, request, notices).await
            }
            Statement::ConnectorList => {
                let rows = operations.list_connectors(caller).await?;
                Ok(rows.into_iter().map(columns::connector).collect())
            }
            Statement::ConnectorStatus(name) => {
                let rows = operations.connector_status(caller, name).await?;
                Ok(rows.into_iter().map(columns::connector_status).collect())
            }
            Statement::ConnectorSwitch(name) => {
                let row = operations.switch_connector(caller, name).await?;
                Ok(vec![columns::connector_switch(row)])
            }
            Statement::ConnectorRetrySetup(request) => {
                let outcome = operations.retry_setup(caller, request, progress(notices)).await?;
                let mut row = columns::connector(outcome.connector);
                row.push(Value::Bool(outcome.no_work_needed));
                Ok(vec![row])
            }
            Statement::ConnectorDelete { name, force } => {
                let progress = progress(notices);
                let row = operations.delete_connector(caller, name, force, progress).await?;
                Ok(vec![columns::connector_delete(row)])
            }
            Statement::Help(words) => help::rows(&words),
            Statement::Unsupported(name) => Err(not_supported(name)),
            other => self.execute_more(caller, other).await,
        }
    }

    /// Branches and roles: nothing here reports progress.
    async fn execute_more(&self, caller: &Caller, statement: Statement) -> Rows {
        let operations = &self.operations;
        match statement {
            Statement::BranchCreate(request) => {
                let row = operations.create_branch(caller, request).await?;
                Ok(vec![columns::branch(row, SystemTime::now())])
            }
            Statement::BranchList => {
                let rows = operations.list_branches(caller).await?;
                Ok(rows.into_iter().map(columns::branch_summary).collect())
            }
            Statement::BranchInfo(name) => {
                let mut row = operations.branch_info(caller, name).await?;
                // A viewer looks, but gets no way in.
                row.url = row.url.filter(|_| caller.level > Level::Viewer);
                Ok(vec![columns::branch(row, SystemTime::now())])
            }
            Statement::BranchSwitch(name) => {
                let row = operations.switch_branch(caller, name).await?;
                Ok(vec![columns::branch_switch(row)])
            }
            Statement::BranchDelete(name) => {
                let deleted = columns::text(&name);
                operations.delete_branch(caller, name).await?;
                Ok(vec![vec![deleted]])
            }
            Statement::BranchRotatePassword(name) => {
                let row = operations.rotate_password(caller, name).await?;
                Ok(vec![columns::branch(row, SystemTime::now())])
            }
            Statement::ConnectorVerify(request) => {
                let rows = operations.verify_connector(caller, request).await?;
                Ok(rows.into_iter().map(columns::verify).collect())
            }
            Statement::ConnectorLock { name, reason } => {
                let reason = Some(reason.unwrap_or_default());
                let row = operations.lock_connector(caller, name, reason).await?;
                Ok(vec![columns::connector(row)])
            }
            Statement::ConnectorUnlock(name) => {
                let row = operations.lock_connector(caller, name, None).await?;
                Ok(vec![columns::connector(row)])
            }
            Statement::RoleCreate { name, password, level } => {
                self.create_role(name, &password, level).await
            }
            Statement::RoleList => {
                Ok(operations.list_roles().await?.into_iter().map(columns::role).collect())
            }
            Statement::RoleDelete(name) => {
                operations.delete_role(&name).await?;
                Ok(vec![vec![Value::Text(name)]])
            }
            other => self.configure(caller, other).await,
        }
    }

    /// Tells the client whom we are about to ask; checks take seconds on a bad network.
    async fn announce(&self, url: &Secret, notices: &NoticeSender) -> Outcome<String> {
        let address = self.operations.source_address(url)?;
        let line = report::header(&address);
        notices.send(Notice::notice(line.clone())).await;
        Ok(line)
    }

    async fn create_connector(
        &self,
        caller: &Caller,
        request: CreateConnectorRequest,
        notices: NoticeSender,
    ) -> Rows {
        let header = self.announce(&request.source.url, &notices).await?;
        let progress = progress(notices);
        match self.operations.create_connector(caller, request, progress).await? {
            CreateConnectorOutcome::Created(row) => Ok(vec![columns::connector(row)]),
            CreateConnectorOutcome::Refused(rows) => Err(preflight_failed(header, rows)),
        }
    }

    async fn create_role(&self, name: String, password: &Secret, level: Level) -> Rows {
        // Deriving a verifier takes milliseconds of CPU, which a task of the runtime must not.
        let password = password.clone();
        let derive = move || ScramVerifier::from_password(password.reveal());
        let verifier = match tokio::task::spawn_blocking(derive).await {
            Ok(Ok(verifier)) => Secret::new(verifier.to_string()),
            _ => return Err(OperationError::new(sqlstate::INVALID_PARAMETER, "invalid password")),
        };
        let role = RoleRecord { name, level, verifier, created_at: SystemTime::now() };
        self.operations.create_role(role.clone()).await?;
        Ok(vec![columns::role(role)])
    }
}

impl<O: Operations> Console for AdminConsole<O> {
    async fn verifier(&self, role: &str) -> Option<ScramVerifier> {
        self.operations.role(role).await?.verifier.reveal().parse().ok()
    }

    fn describe(&self, sql: &str) -> Result<Vec<Description>, Refusal> {
        let spans = lexer::split(sql).map_err(|error| refuse_syntax(&error, sql))?;
        let describe = |span: std::ops::Range<usize>| {
            let text = sql.get(span.clone()).unwrap_or_default();
            let (columns, effect) = describe_one(text).map_err(|mut error| {
                error.at += span.start;
                refuse_syntax(&error, sql)
            })?;
            Ok(Description { span, parameters: parameters_in(text), columns, effect })
        };
        spans.into_iter().map(describe).collect()
    }

    async fn run(
        &self,
        session: &ConsoleSession,
        statement: proxy::Statement<'_>,
        notices: NoticeSender,
    ) -> Result<Answer, Refusal> {
        let in_text = |error: SyntaxError| refuse_syntax(&error, statement.text);
        if parser::is_ours(statement.text).map_err(in_text)? {
            return self.run_ours(session, statement, notices).await;
        }
        let foreign = tolerance::parse(statement.text).map_err(in_text)?;
        let session = Session {
            role: &session.role,
            id: session.id,
            now: SystemTime::now(),
            parameters: statement.parameters,
        };
        let rows = foreign.rows(&session).map_err(in_text)?;
        Ok(Answer { tag: foreign.tag(rows.len()), columns: foreign.columns(), rows })
    }
}

fn describe_one(text: &str) -> Result<(Vec<Column>, TransactionEffect), SyntaxError> {
    if parser::is_ours(text)? {
        let parsed = parser::parse(text, Parameters::Unknown)?;
        return Ok((columns_of(parsed.command), TransactionEffect::None));
    }
    let foreign = tolerance::parse(text)?;
    Ok((foreign.columns(), foreign.effect()))
}

/// The highest `$n` of a text that lexes.
fn parameters_in(text: &str) -> usize {
    let mut lexer = Lexer::new(text);
    let mut highest = 0;
    while let Ok(token) = lexer.next() {
        match token.kind {
            TokenKind::End => break,
            TokenKind::Parameter(number) => {
                // The protocol counts parameters in 16 bits; larger numbers fail when bound.
                highest = highest.max(number.parse::<u16>().unwrap_or(u16::MAX));
            }
            _ => {}
        }
    }
    usize::from(highest)
}

fn columns_of(command: &Command) -> Vec<Column> {
    command.columns.iter().map(|(name, kind)| Column::new(*name, *kind)).collect()
}

fn require_level(caller: &Caller, command: &Command) -> Outcome<()> {
    if caller.level >= command.level {
        return Ok(());
    }
    let Caller { operator, level } = caller;
    Err(OperationError::new(
        sqlstate::INSUFFICIENT_PRIVILEGE,
        format!("permission denied for {}", command.tag()),
    )
    .with_detail(format!("Role \"{operator}\" has level {}.", level.as_str()))
    .with_hint(format!("It takes level {}.", command.level.as_str())))
}

fn not_supported(name: &str) -> OperationError {
    OperationError::new(sqlstate::NOT_SUPPORTED, format!("ARDENT {name} is not supported yet"))
        .with_hint("ARDENT HELP lists all statements.")
}

fn progress(notices: NoticeSender) -> Progress {
    Progress::new(move |line| notices.send_or_drop(Notice::notice(line)))
}

fn preflight_failed(header: String, rows: Vec<PreflightRow>) -> OperationError {
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| ReportRow {
            kind: row.kind.as_str().to_owned(),
            name: row.name,
            status: row.status.as_str().to_owned(),
            detail: row.detail,
            remedy: row.remedy,
        })
        .collect();
    let mut text = header;
    let written = write!(text, "\n\n{}", report::render(&rows, report::Style::Plain));
    written.expect("writing into memory does not fail");
    OperationError::new(sqlstate::PREFLIGHT_FAILED, "preflight checks did not pass")
        .with_detail(text)
        .with_hint("Fix the failures above; nothing was created.")
}

fn refuse_syntax(error: &SyntaxError, query: &str) -> Refusal {
    let mut refusal =
        Refusal::error(error.sqlstate, error.message.clone()).at(error.position(query));
    refusal.detail.clone_from(&error.detail);
    refusal.hint.clone_from(&error.hint);
    refusal
}
