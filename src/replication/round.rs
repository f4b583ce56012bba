//! One round of statements: first all at once, and if that fails, with care.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{MaybeDone, maybe_done};
use proxy::client::Session;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::source::TableName;

use super::applier::Applier;
use super::error::{Error, at_trunk};
use super::plan::{Pair, Step};
use super::quarantine;
use super::statement::{Kind, sent};

/// Steps with their statements.
pub(super) struct Round<'a> {
    steps: Vec<(&'a Step, Statement)>,
}

pub(super) enum Failure {
    /// The connection or the trunk as a whole.
    Fatal(Error),
    /// Something about the rows; the text says what.
    Rows(String),
}

/// One statement with its parameters: per parameter one value per row.
struct Call<'a> {
    statement: &'a Statement,
    columns: Vec<Vec<Option<&'a str>>>,
    rows: usize,
}

type Pending<'a> =
    Pin<Box<dyn Future<Output = Result<Option<u64>, tokio_postgres::Error>> + Send + 'a>>;

impl<'a> Round<'a> {
    /// Prepares what is not prepared yet. A step that cannot even be prepared (a type or operator
    /// is missing) quarantines its table.
    pub(super) async fn prepare(
        applier: &mut Applier,
        steps: &'a [Step],
    ) -> Result<Round<'a>, Error> {
        let mut prepared = Vec::with_capacity(steps.len());
        for step in steps {
            let Some(table) = table_of(step) else { continue };
            if applier.is_open {
                applier.session.batch_execute("SAVEPOINT prepare").await.map_err(at_trunk)?;
            }
            let failure = match applier.cache.statement(&applier.session, step).await {
                Ok(statement) => {
                    prepared.push((step, statement));
                    None
                }
                Err(error) => Some(rows_failure(error)?),
            };
            if applier.is_open {
                let end = if failure.is_some() { "ROLLBACK TO prepare" } else { "RELEASE prepare" };
                applier.session.batch_execute(end).await.map_err(at_trunk)?;
            }
            if let Some(said) = failure {
                applier.discover(table, &said);
            }
        }
        Ok(Round { steps: prepared })
    }

    /// Sends everything before waiting for anything, under the savepoint `round`.
    pub(super) async fn run_pipelined(
        &self,
        session: &Session,
        is_open: bool,
    ) -> Result<(), Failure> {
        let begin = if is_open {
            "SAVEPOINT round"
        } else {
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; SAVEPOINT round"
        };
        let calls: Vec<Call<'_>> = self
            .steps
            .iter()
            .flat_map(|(step, statement)| calls(step, statement, &step.rows))
            .collect();
        let mut pending: Vec<Pending<'_>> = Vec::with_capacity(calls.len() + 2);
        pending.push(Box::pin(session.batch_execute(begin).map(|outcome| outcome.map(|()| None))));
        for call in &calls {
            pending.push(Box::pin(call.execute(session).map(|outcome| outcome.map(Some))));
        }
        let outcomes = in_order(pending).await;
        let expected = std::iter::once(None).chain(calls.iter().map(|call| Some(call.rows)));
        for (outcome, expected) in outcomes.into_iter().zip(expected) {
            match (outcome, expected) {
                (Err(error), _) => {
                    return Err(match rows_failure(error) {
                        Ok(said) => Failure::Rows(said),
                        Err(error) => Failure::Fatal(error),
                    });
                }
                (Ok(Some(hit)), Some(rows)) if !is_count(hit, rows) => {
                    return Err(Failure::Rows(missed(hit, rows)));
                }
                _ => {}
            }
        }
        session
            .batch_execute("RELEASE SAVEPOINT round")
            .await
            .map_err(|error| Failure::Fatal(at_trunk(error)))
    }

    /// Step by step, and a failed step row by row. Returns the tables given up, with the reason.
    pub(super) async fn run_carefully(
        &self,
        session: &Session,
    ) -> Result<Vec<(TableName, String)>, Error> {
        let mut failed: Vec<(TableName, String)> = Vec::new();
        for (step, statement) in &self.steps {
            let Some(table) = table_of(step) else { continue };
            if failed.iter().any(|(other, _)| other == table) {
                continue;
            }
            if try_rows(session, step, statement, &step.rows).await?.is_ok() {
                continue;
            }
            for row in step.rows.chunks(1) {
                if let Err(said) = try_rows(session, step, statement, row).await? {
                    failed.push((table.clone(), said));
                    break;
                }
            }
        }
        Ok(failed)
    }
}

impl Call<'_> {
    async fn execute(&self, session: &Session) -> Result<u64, tokio_postgres::Error> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            self.columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        session.execute(self.statement, &parameters).await
    }
}

/// Runs some rows of a step under a savepoint of their own; what went wrong, if anything.
async fn try_rows(
    session: &Session,
    step: &Step,
    statement: &Statement,
    rows: &[Pair],
) -> Result<Result<(), String>, Error> {
    session.batch_execute("SAVEPOINT step").await.map_err(at_trunk)?;
    let mut said = None;
    for call in calls(step, statement, rows) {
        match call.execute(session).await {
            Ok(hit) if is_count(hit, call.rows) => {}
            Ok(hit) => said = Some(missed(hit, call.rows)),
            Err(error) => said = Some(rows_failure(error)?),
        }
        if said.is_some() {
            break;
        }
    }
    let end = if said.is_some() { "ROLLBACK TO SAVEPOINT step" } else { "RELEASE SAVEPOINT step" };
    session.batch_execute(end).await.map_err(at_trunk)?;
    Ok(said.map_or(Ok(()), Err))
}

fn table_of(step: &Step) -> Option<&TableName> {
    step.new.as_ref().or(step.old.as_ref()).map(|mapping| &mapping.table.name)
}

/// The statement's calls: one for all rows, or one per row where rows are found one at a time.
fn calls<'a>(step: &'a Step, statement: &'a Statement, rows: &'a [Pair]) -> Vec<Call<'a>> {
    if rows.is_empty() {
        return Vec::new();
    }
    let size = if step.kind.is_single() { 1 } else { rows.len() };
    rows.chunks(size)
        .map(|rows| Call { statement, columns: parameters(step, rows), rows: rows.len() })
        .collect()
}

/// The parameters in the order [`super::statement::sql`] numbers them.
fn parameters<'a>(step: &'a Step, rows: &'a [Pair]) -> Vec<Vec<Option<&'a str>>> {
    let mut columns = Vec::new();
    if let Some(mapping) = step.new.as_deref() {
        for (position, _) in sent(mapping) {
            let value = |pair: &'a Pair| pair.new.as_ref().and_then(|row| row.value(position));
            columns.push(rows.iter().map(value).collect());
        }
    }
    if let Some(mapping) = step.old.as_deref() {
        let positions: Vec<usize> = match (step.kind, &mapping.key) {
            (Kind::Rekey | Kind::Delete, Some(key)) => key.clone(),
            _ => sent(mapping).map(|(position, _)| position).collect(),
        };
        for position in positions {
            let value = |pair: &'a Pair| pair.old.as_ref().and_then(|row| row.value(position));
            columns.push(rows.iter().map(value).collect());
        }
    }
    columns
}

fn is_count(hit: u64, rows: usize) -> bool {
    u64::try_from(rows).is_ok_and(|rows| rows == hit)
}

fn missed(hit: u64, rows: usize) -> String {
    format!("the trunk has {hit} of {rows} rows to change")
}

/// The text of an error that is about the rows; any other is the trunk's.
fn rows_failure(error: tokio_postgres::Error) -> Result<String, Error> {
    match error.as_db_error() {
        // 25P02: an earlier statement of the pipeline failed, and that one is reported.
        Some(db) if quarantine::is_about_the_row(db.code()) => Ok(db.message().to_owned()),
        _ => Err(at_trunk(error)),
    }
}

/// Starts all in order, so that their messages are sent in order, then waits for all.
async fn in_order(pending: Vec<Pending<'_>>) -> Vec<Result<Option<u64>, tokio_postgres::Error>> {
    let mut all: Vec<Pin<Box<MaybeDone<Pending<'_>>>>> =
        pending.into_iter().map(|future| Box::pin(maybe_done(future))).collect();
    poll_fn(|context| {
        for future in &mut all {
            // Ready or not: what counts is that it was started.
            let _started = future.as_mut().poll(context);
        }
        Poll::Ready(())
    })
    .await;
    let mut outcomes = Vec::with_capacity(all.len());
    for mut future in all {
        future.as_mut().await;
        outcomes.extend(future.as_mut().take_output());
    }
    outcomes
}
