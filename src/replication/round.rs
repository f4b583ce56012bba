//! One round of statements: first all at once, and if that fails, with care.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{MaybeDone, maybe_done};
use proxy::client::Session;
use tokio_postgres::Statement;

use crate::source::TableName;

use super::applier::Applier;
use super::call::{Call, CallError};
use super::commit::is_moved;
use super::error::{Error, at_trunk};
use super::flight::Ending;
use super::plan::{Pair, Step};
use super::quarantine;
use super::statement::{Kind, sent};

/// So many rows of one INSERT are worth a COPY, which takes a round trip of its own to begin.
const COPY_ROWS_MIN: usize = 50;

/// Steps with their statements, written out.
pub(super) struct Round {
    steps: Vec<Prepared>,
}

struct Prepared {
    step: Step,
    statement: Statement,
    calls: Vec<Call>,
}

pub(super) enum Failure {
    /// The connection or the trunk as a whole.
    Fatal(Error),
    /// Something about the rows; the text says what.
    Rows(String),
}

type Outcome = Result<Option<u64>, CallError>;
type Pending<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

impl Round {
    /// Writes out what is to be sent, and prepares what is not prepared yet, for which it waits for
    /// the round under way. A step that cannot even be prepared (a type or operator is missing)
    /// quarantines its table.
    pub(super) async fn prepare(applier: &mut Applier, steps: Vec<Step>) -> Result<Self, Error> {
        let mut prepared = Vec::with_capacity(steps.len());
        for step in steps {
            let Some(statement) = prepare(applier, step.kind, &step).await? else { continue };
            let is_copied = step.kind == Kind::Insert
                && step.rows.len() >= COPY_ROWS_MIN
                && step.new.as_ref().is_some_and(|mapping| sent(mapping).next().is_some())
                && !step.table().is_some_and(|table| applier.shared.avoids_copy(table));
            let copy = match is_copied {
                true => prepare(applier, Kind::Copy, &step).await?,
                false => None,
            };
            let calls = match copy.and_then(|copy| Call::copy(copy, &step)) {
                Some(call) => vec![call],
                None => Call::of_rows(&statement, &step, &step.rows)?,
            };
            prepared.push(Prepared { step, statement, calls });
        }
        Ok(Self { steps: prepared })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Leaves these tables as they are.
    pub(super) fn leave_out(&mut self, tables: &HashSet<TableName>) {
        let is_left = |step: &Step| step.table().is_some_and(|table| tables.contains(table));
        self.steps.retain(|prepared| !is_left(&prepared.step));
    }

    /// Sends everything before waiting for anything, under the savepoint `round`. With an ending,
    /// commits if all went well. Only a COPY waits until what was sent before it has succeeded: in
    /// a transaction that has failed it could not begin, which would cost the session.
    pub(super) async fn run_pipelined(
        &self,
        session: &Session,
        is_open: bool,
        ending: Option<&Ending>,
    ) -> Result<(), Failure> {
        let begin = if is_open {
            "SAVEPOINT round"
        } else {
            "BEGIN; SET CONSTRAINTS ALL DEFERRED; SAVEPOINT round"
        };
        let calls: Vec<&Call> = self.steps.iter().flat_map(|prepared| &prepared.calls).collect();
        let mut pending: Vec<Pending<'_>> = Vec::with_capacity(calls.len() + 2);
        let begun = session.batch_execute(begin);
        pending.push(Box::pin(begun.map(|outcome| Ok(outcome.map(|()| None)?))));
        let mut expected = vec![None];
        for call in calls {
            if call.is_copy() {
                let before = in_order(std::mem::take(&mut pending)).await;
                check(before, std::mem::take(&mut expected))?;
            }
            pending.push(Box::pin(call.execute(session).map(|outcome| outcome.map(Some))));
            expected.push(Some(call.rows()));
        }
        if let Some(ending) = ending {
            let moving = ending.move_progress(session);
            pending.push(Box::pin(moving.map(|moved| Ok(moved.map(Some)?))));
        }
        let mut outcomes = in_order(pending).await;
        let moved = if ending.is_some() { outcomes.pop() } else { None };
        check(outcomes, expected)?;
        let end = match ending.zip(moved) {
            None => "RELEASE SAVEPOINT round",
            Some((ending, moved)) => {
                let moved = moved.map_err(|error| Failure::Fatal(error.of_trunk()))?;
                is_moved(moved.unwrap_or(0)).map_err(Failure::Fatal)?;
                ending.commit_sql()
            }
        };
        session.batch_execute(end).await.map_err(|error| Failure::Fatal(at_trunk(error)))
    }

    /// Step by step, and a failed step row by row. Returns the tables given up, with the reason.
    pub(super) async fn run_carefully(
        &self,
        session: &Session,
    ) -> Result<Vec<(TableName, String)>, Error> {
        let mut failed: Vec<(TableName, String)> = Vec::new();
        for prepared in &self.steps {
            let Some(table) = prepared.step.table() else { continue };
            if failed.iter().any(|(other, _)| other == table) {
                continue;
            }
            let rows = &prepared.step.rows;
            if try_rows(session, prepared, rows).await?.is_ok() {
                continue;
            }
            for row in rows.chunks(1) {
                if let Err(said) = try_rows(session, prepared, row).await? {
                    failed.push((table.clone(), said));
                    break;
                }
            }
        }
        Ok(failed)
    }
}

/// The statement of a step; none if its table was quarantined because there is none.
async fn prepare(
    applier: &mut Applier,
    kind: Kind,
    step: &Step,
) -> Result<Option<Statement>, Error> {
    let Some(table) = step.table() else { return Ok(None) };
    if let Some(statement) = applier.cache.prepared(kind, step) {
        return Ok(Some(statement));
    }
    applier.settle().await?;
    if applier.is_open {
        applier.session.batch_execute("SAVEPOINT prepare").await.map_err(at_trunk)?;
    }
    let outcome = match applier.cache.prepare(&applier.session, kind, step).await {
        Ok(statement) => Ok(statement),
        Err(error) => Err(rows_failure(error)?),
    };
    if applier.is_open {
        let end = if outcome.is_err() { "ROLLBACK TO prepare" } else { "RELEASE prepare" };
        applier.session.batch_execute(end).await.map_err(at_trunk)?;
    }
    Ok(outcome.map_err(|said| applier.discover(table, &said)).ok())
}

/// Runs some rows of a step under a savepoint of their own; what went wrong, if anything.
async fn try_rows(
    session: &Session,
    prepared: &Prepared,
    rows: &[Pair],
) -> Result<Result<(), String>, Error> {
    session.batch_execute("SAVEPOINT step").await.map_err(at_trunk)?;
    let mut said = None;
    for call in Call::of_rows(&prepared.statement, &prepared.step, rows)? {
        match call.execute(session).await {
            Ok(hit) if is_count(hit, call.rows()) => {}
            Ok(hit) => said = Some(missed(hit, call.rows())),
            Err(error) => match failure(error) {
                Failure::Rows(reason) => said = Some(reason),
                Failure::Fatal(error) => return Err(error),
            },
        }
        if said.is_some() {
            break;
        }
    }
    let end = if said.is_some() { "ROLLBACK TO SAVEPOINT step" } else { "RELEASE SAVEPOINT step" };
    session.batch_execute(end).await.map_err(at_trunk)?;
    Ok(said.map_or(Ok(()), Err))
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

/// Fails with the first failure, or the first statement that did not hit its rows.
fn check(outcomes: Vec<Outcome>, expected: Vec<Option<usize>>) -> Result<(), Failure> {
    for (outcome, expected) in outcomes.into_iter().zip(expected) {
        if let (Some(hit), Some(rows)) = (outcome.map_err(failure)?, expected)
            && !is_count(hit, rows)
        {
            return Err(Failure::Rows(missed(hit, rows)));
        }
    }
    Ok(())
}

fn failure(error: CallError) -> Failure {
    match error {
        CallError::Statement(error) => match rows_failure(error) {
            Ok(said) => Failure::Rows(said),
            Err(error) => Failure::Fatal(error),
        },
        CallError::CopyRefused(table, error) => Failure::Fatal(match rows_failure(error) {
            Ok(said) => Error::CopyRefused { table, said },
            Err(error) => error,
        }),
    }
}

/// Starts all in order, so that their messages are sent in order, then waits for all.
async fn in_order(pending: Vec<Pending<'_>>) -> Vec<Outcome> {
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
