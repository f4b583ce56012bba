//! A call of a statement: what is sent, written out, so that sending is nothing but copying.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use proxy::client::Session;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::source::TableName;

use super::catalog::Mapping;
use super::change::Tuple;
use super::copy_text::CopyText;
use super::error::{Error, at_trunk};
use super::plan::{Pair, Step};
use super::statement::{Kind, sent};
use super::text_array::TextArray;

/// One statement with what it takes, and of how many rows that is.
pub(super) struct Call {
    statement: Statement,
    rows: usize,
    input: Input,
}

enum Input {
    /// An array per parameter, with one element per row.
    Parameters(Vec<TextArray>),
    /// A COPY into this table.
    Copy(TableName, Vec<Bytes>),
}

/// Why a call failed.
pub(super) enum CallError {
    Statement(tokio_postgres::Error),
    /// A COPY did not begin. The driver ends it all the same, and takes the answer to that for the
    /// next statement's: the session is of no use any more.
    CopyRefused(TableName, tokio_postgres::Error),
}

impl CallError {
    /// Where no rows are to blame.
    pub(super) fn of_trunk(self) -> Error {
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

impl Call {
    /// The rows of a step by COPY; none if it is no step that inserts.
    pub(super) fn copy(statement: Statement, step: &Step) -> Option<Self> {
        let mapping = step.new.as_ref()?;
        let mut text = CopyText::new(mapping);
        let rows = step.rows.iter().filter_map(|pair| pair.new.as_ref());
        let mut pieces: Vec<Bytes> = rows.filter_map(|row| text.push(row)).collect();
        pieces.push(text.finish());
        let input = Input::Copy(mapping.table.name.clone(), pieces);
        Some(Self { statement, rows: step.rows.len(), input })
    }

    /// Some rows of a step: one call for all, or one per row where rows are found one at a time.
    pub(super) fn of_rows(
        statement: &Statement,
        step: &Step,
        rows: &[Pair],
    ) -> Result<Vec<Self>, Error> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let size = if step.kind.is_single() { 1 } else { rows.len() };
        let call = |rows: &[Pair]| {
            let input = Input::Parameters(parameters(step, rows)?);
            Ok(Self { statement: statement.clone(), rows: rows.len(), input })
        };
        rows.chunks(size).map(call).collect()
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn is_copy(&self) -> bool {
        matches!(self.input, Input::Copy(..))
    }

    /// Returns how many rows it hit.
    pub(super) async fn execute(&self, session: &Session) -> Result<u64, CallError> {
        match &self.input {
            Input::Parameters(arrays) => {
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
                Ok(session.execute(&self.statement, &parameters).await?)
            }
            Input::Copy(table, pieces) => {
                let refused = |error| CallError::CopyRefused(table.clone(), error);
                let sink = session.copy_in(&self.statement).await.map_err(refused)?;
                let mut sink = pin!(sink);
                for piece in pieces {
                    sink.send(piece.clone()).await?;
                }
                Ok(sink.finish().await?)
            }
        }
    }
}

/// The parameters in the order [`super::statement::sql`] numbers them.
fn parameters(step: &Step, rows: &[Pair]) -> Result<Vec<TextArray>, Error> {
    let mut arrays = Vec::new();
    if let Some(mapping) = step.new.as_deref() {
        for (position, _) in sent(mapping) {
            arrays.push(column(rows, |pair| pair.new.as_ref(), position)?);
        }
    }
    if let Some(mapping) = step.old.as_deref() {
        for position in old_positions(step.kind, mapping) {
            arrays.push(column(rows, |pair| pair.old.as_ref(), position)?);
        }
    }
    Ok(arrays)
}

/// What of an old row finds it.
fn old_positions(kind: Kind, mapping: &Mapping) -> Vec<usize> {
    match (kind, &mapping.key) {
        (Kind::Rekey | Kind::Delete, Some(key)) => key.clone(),
        _ => sent(mapping).map(|(position, _)| position).collect(),
    }
}

fn column(
    rows: &[Pair],
    side: impl Fn(&Pair) -> Option<&Tuple>,
    position: usize,
) -> Result<TextArray, Error> {
    TextArray::of(rows.len(), rows.iter().map(|pair| side(pair)?.value(position)))
}
