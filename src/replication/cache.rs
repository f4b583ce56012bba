//! What an applier has learnt of its trunk: tables, mappings and prepared statements.
//!
//! Mappings and statements are found by the addresses of shapes and mappings, which this cache
//! keeps alive; so whatever forgets the ones must forget the others.

use std::collections::HashMap;
use std::sync::Arc;

use proxy::client::Session;
use tokio_postgres::Statement;

use crate::source::TableName;

use super::by_address::AddressMap;
use super::catalog::{self, Lookup, Mapping, Table};
use super::change::Shape;
use super::error::{Error, at_trunk};
use super::plan::Step;
use super::statement::{self, Kind};

/// Columns that come and go make new shapes; past this many, all is learnt anew.
const SHAPES_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Cache {
    tables: HashMap<TableName, Known<Table>>,
    /// By address of the shape.
    mappings: AddressMap<Known<Mapping>>,
    shapes: Vec<Arc<Shape>>,
    /// By kind and addresses of the mappings.
    statements: HashMap<(Kind, usize, usize), Statement>,
}

/// What the trunk has for a name or shape.
#[derive(Debug)]
pub(super) enum Known<T> {
    Yes(Arc<T>),
    /// Its rows come from elsewhere.
    Derived,
    /// No such table.
    Missing,
    /// Nothing that fits; the text says why.
    No(String),
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Yes(known) => Self::Yes(Arc::clone(known)),
            Self::Derived => Self::Derived,
            Self::Missing => Self::Missing,
            Self::No(reason) => Self::No(reason.clone()),
        }
    }
}

impl Cache {
    /// How rows of a shape go into the trunk.
    pub(super) async fn mapping(
        &mut self,
        session: &Session,
        shape: &Arc<Shape>,
    ) -> Result<Known<Mapping>, Error> {
        if let Some(mapping) = self.known_mapping(shape) {
            return Ok(mapping);
        }
        let mapping = match self.table(session, &shape.table).await? {
            Known::Yes(table) => match Mapping::new(&table, shape) {
                Ok(mapping) => Known::Yes(Arc::new(mapping)),
                Err(column) => Known::No(format!("the trunk lacks its column {column}")),
            },
            Known::Derived => Known::Derived,
            Known::Missing => Known::Missing,
            Known::No(reason) => Known::No(reason),
        };
        self.shapes.push(Arc::clone(shape));
        self.mappings.insert(Arc::as_ptr(shape).addr(), mapping.clone());
        Ok(mapping)
    }

    /// The same for a shape that the trunk need not be asked about.
    pub(super) fn known_mapping(&self, shape: &Arc<Shape>) -> Option<Known<Mapping>> {
        self.mappings.get(&Arc::as_ptr(shape).addr()).cloned()
    }

    pub(super) async fn table(
        &mut self,
        session: &Session,
        name: &TableName,
    ) -> Result<Known<Table>, Error> {
        if let Some(table) = self.tables.get(name) {
            return Ok(table.clone());
        }
        let table = match catalog::look_up(session, name).await.map_err(at_trunk)? {
            Lookup::Table(table) => Known::Yes(Arc::new(table)),
            Lookup::Derived => Known::Derived,
            Lookup::Missing => Known::Missing,
        };
        self.tables.insert(name.clone(), table.clone());
        Ok(table)
    }

    /// The statement of a step, if it has been prepared.
    pub(super) fn prepared(&self, kind: Kind, step: &Step) -> Option<Statement> {
        self.statements.get(&key(kind, step)).cloned()
    }

    /// Prepares the statement of a step, to be run in the way of this kind.
    pub(super) async fn prepare(
        &mut self,
        session: &Session,
        kind: Kind,
        step: &Step,
    ) -> Result<Statement, tokio_postgres::Error> {
        let sql = statement::sql(kind, step.new.as_deref(), step.old.as_deref());
        let statement = session.prepare(&sql).await?;
        self.statements.insert(key(kind, step), statement.clone());
        Ok(statement)
    }

    /// It is time for [`Self::trim`].
    pub(super) fn is_full(&self) -> bool {
        self.shapes.len() > SHAPES_MAX
    }

    /// To be called between transactions, when nothing refers to what may be forgotten.
    pub(super) fn trim(&mut self) {
        if self.is_full() {
            *self = Self::default();
        }
    }
}

fn key(kind: Kind, step: &Step) -> (Kind, usize, usize) {
    let address = |mapping: &Option<Arc<Mapping>>| {
        mapping.as_ref().map_or(0, |mapping| Arc::as_ptr(mapping).addr())
    };
    (kind, address(&step.new), address(&step.old))
}
