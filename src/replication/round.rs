//! One round of statements: first all at once, and if that fails, with care.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use futures_util::future::{MaybeDone, maybe_done};
use futures_util::{FutureExt, SinkExt};
use proxy::client::Session;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::source::TableName;

use super::applier::Applier;
use super::catalog::Mapping;
use super::commit::is_moved;
use super::copy_text::CopyText;
use super::error::{Error, at_trunk};
use super::flight::Ending;
use super::plan::{Pair, Step};
use super::quarantine;
use super::statement::{Kind, sent};

/// So many rows of one INSERT are worth a COPY, which takes a round trip of its own to begin.
const COPY_ROWS_MIN: usize = 50;

/// Steps with their statements.
pub(super) struct Round {
    steps: Vec<Prepared>,
}

struct Prepared {
    step: Step,
    statement: Statement,
    /// For many rows.
    copy: Option<Statement>,
}

pub(super) enum Failure {
    /// The connection or the trunk as a whole.
    Fatal(Error),
    /// Something about the rows; the text says what.
    Rows(String),
}

/// Why a call failed.
enum CallError {
    Statement(tokio_postgres::Error),
    /// A COPY did not begin. The driver ends it all the same, and takes the answer to that for the
    /// next statement's: the session is of no use any more.
    CopyRefused(TableName, tokio_postgres::Error),
}

impl CallError {
    /// Where no rows are to blame.
    fn of_trunk(self) -> Error {
        match self {
            Self::Statement(error) | Self::CopyRefused(_, error) => at_trunk(error),
        }
    }
}

impl From<tokio_postgres::Error> for CallError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Statement(error)
    }
}

/// One statement with what it takes.
enum Call<'a> {
    /// Per parameter one value per row.
    Rows {
        statement: &'a Statement,
        columns: Vec<Vec<Option<&'a str>>>,
        rows: usize,
    },
    Copy {
        statement: &'a Statement,
        mapping: &'a Mapping,
        rows: &'a [Pair],
    },
}

type Outcome = Result<Option<u64>, CallError>;
type Pending<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

impl Round {
    /// Prepares what is not prepared yet. A step that cannot even be prepared (a type or operator
    /// is missing) quarantines its table.
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
            prepared.push(Prepared { step, statement, copy });
        }
        Ok(Self { steps: prepared })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
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
        let calls: Vec<Call<'_>> = self.steps.iter().flat_map(Prepared::calls).collect();
        let mut pending: Vec<Pending<'_>> = Vec::with_capacity(calls.len() + 2);
        let begun = session.batch_execute(begin);
        pending.push(Box::pin(begun.map(|outcome| Ok(outcome.map(|()| None)?))));
        let mut expected = vec![None];
        for call in &calls {
            if matches!(call, Call::Copy { .. }) {
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
        let end = match moved {
            None => "RELEASE SAVEPOINT round",
            Some(moved) => {
                let moved = moved.map_err(|error| Failure::Fatal(error.of_trunk()))?;
                is_moved(moved.unwrap_or(0)).map_err(Failure::Fatal)?;
                "COMMIT"
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

impl Prepared {
    /// The calls of a round: one for all rows, or one per row where rows are found one at a time.
    fn calls(&self) -> Vec<Call<'_>> {
        match (&self.copy, &self.step.new) {
            (Some(statement), Some(mapping)) => {
                vec![Call::Copy { statement, mapping, rows: &self.step.rows }]
            }
            _ => self.calls_of(&self.step.rows),
        }
    }

    /// The same for some of the rows, without a COPY.
    fn calls_of<'a>(&'a self, rows: &'a [Pair]) -> Vec<Call<'a>> {
        if rows.is_empty() {
            return Vec::new();
        }
        let size = if self.step.kind.is_single() { 1 } else { rows.len() };
        let call = |rows: &'a [Pair]| {
            let columns = parameters(&self.step, rows);
            Call::Rows { statement: &self.statement, columns, rows: rows.len() }
        };
        rows.chunks(size).map(call).collect()
    }
}

impl Call<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Rows { rows, .. } => *rows,
            Self::Copy { rows, .. } => rows.len(),
        }
    }

    async fn execute(&self, session: &Session) -> Result<u64, CallError> {
        match self {
            Self::Rows { statement, columns, .. } => {
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
                Ok(session.execute(*statement, &parameters).await?)
            }
            Self::Copy { statement, mapping, rows } => {
                let refused = |error| CallError::CopyRefused(mapping.table.name.clone(), error);
                let sink = session.copy_in::<_, Bytes>(*statement).await.map_err(refused)?;
                let mut sink = pin!(sink);
                let mut text = CopyText::new(mapping);
                for row in rows.iter().filter_map(|pair| pair.new.as_ref()) {
                    if let Some(piece) = text.push(row) {
                        sink.send(piece).await?;
                    }
                }
                sink.send(text.finish()).await?;
                Ok(sink.finish().await?)
            }
        }
    }
}

/// Runs some rows of a step under a savepoint of their own; what went wrong, if anything.
async fn try_rows(
    session: &Session,
    prepared: &Prepared,
    rows: &[Pair],
) -> Result<Result<(), String>, Error> {
    session.batch_execute("SAVEPOINT step").await.map_err(at_trunk)?;
    let mut said = None;
    for call in prepared.calls_of(rows) {
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
