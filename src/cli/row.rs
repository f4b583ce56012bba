//! A row of an answer: values by column, in the order of the columns.

use std::fmt;
use std::time::SystemTime;

use serde_json::Value as Json;
use tokio_postgres::types::Type;

use super::report::ReportRow;
use super::time::Utc;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Integer(i64),
    Bool(bool),
    Float(f64),
    Time(SystemTime),
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row(Vec<(String, Cell)>);

impl Row {
    pub(super) fn from_sql(row: &tokio_postgres::Row) -> Self {
        let cells = row.columns().iter().enumerate().map(|(index, column)| {
            (column.name().to_owned(), cell(row, index, column.type_()).unwrap_or(Cell::Null))
        });
        Self(cells.collect())
    }

    #[cfg(test)]
    pub(super) fn of(cells: &[(&str, Cell)]) -> Self {
        Self(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
    }

    /// Columns and values in order.
    pub(super) fn cells(&self) -> &[(String, Cell)] {
        &self.0
    }

    pub(super) fn cell(&self, name: &str) -> &Cell {
        self.0.iter().find(|(own, _)| own == name).map_or(&Cell::Null, |(_, cell)| cell)
    }

    /// A text; none if it is NULL or of another type.
    pub(super) fn optional_text(&self, name: &str) -> Option<&str> {
        match self.cell(name) {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A text; empty if it is NULL.
    pub(super) fn text(&self, name: &str) -> &str {
        self.optional_text(name).unwrap_or_default()
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        match self.cell(name) {
            Cell::Integer(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        *self.cell(name) == Cell::Bool(true)
    }

    pub(super) fn time(&self, name: &str) -> Option<Utc> {
        match self.cell(name) {
            Cell::Time(time) => Some(Utc::from(*time)),
            _ => None,
        }
    }

    /// As a row of a preflight report.
    pub(super) fn report(&self) -> ReportRow {
        ReportRow {
            kind: self.text("kind").to_owned(),
            name: self.text("name").to_owned(),
            status: self.text("status").to_owned(),
            detail: self.optional_text("detail").map(str::to_owned),
            remedy: self.optional_text("remedy").map(str::to_owned),
        }
    }

    /// As a JSON object.
    pub(super) fn json(&self) -> serde_json::Map<String, Json> {
        self.0.iter().map(|(name, cell)| (name.clone(), cell.json())).collect()
    }
}

/// The types the admin database answers with; any other is read as text.
fn cell(row: &tokio_postgres::Row, index: usize, kind: &Type) -> Option<Cell> {
    Some(match *kind {
        Type::INT8 => Cell::Integer(row.try_get::<_, Option<i64>>(index).ok()??),
        Type::INT4 => Cell::Integer(row.try_get::<_, Option<i32>>(index).ok()??.into()),
        Type::BOOL => Cell::Bool(row.try_get::<_, Option<bool>>(index).ok()??),
        Type::FLOAT8 => Cell::Float(row.try_get::<_, Option<f64>>(index).ok()??),
        Type::TIMESTAMPTZ => Cell::Time(row.try_get::<_, Option<SystemTime>>(index).ok()??),
        _ => Cell::Text(row.try_get::<_, Option<String>>(index).ok()??),
    })
}

impl Cell {
    fn json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Text(text) => Json::from(text.as_str()),
            Self::Integer(number) => Json::from(*number),
            Self::Bool(flag) => Json::from(*flag),
            Self::Float(number) => Json::from(*number),
            Self::Time(time) => Json::from(Utc::from(*time).rfc3339()),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Bool(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Self::Float(number) => write!(f, "{number}"),
            Self::Time(time) => f.write_str(&Utc::from(*time).rfc3339()),
        }
    }
}
