//! The trunk's tables, as applying needs them.

use std::sync::Arc;

use proxy::client::{Session, quote_identifier};

use crate::source::TableName;

use super::change::Shape;

/// A table of the trunk.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: TableName,
    pub(super) columns: Vec<Column>,
    /// What finds a row. Empty: only the whole row does.
    pub(super) key: Vec<KeyColumn>,
    /// The key's index is the only one that can refuse a row, so changes of different keys may
    /// pass each other.
    pub(super) is_compactable: bool,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    /// Type with its modifier, as SQL takes it with an empty search path.
    pub(super) type_sql: String,
    pub(super) is_bytea: bool,
    pub(super) is_generated: bool,
    /// GENERATED ALWAYS AS IDENTITY: can be inserted, not updated.
    pub(super) is_always_identity: bool,
}

/// A column of the key and the operator its index compares with; by name alone, an empty search
/// path would find another one for extension types, or none.
#[derive(Debug)]
pub(super) struct KeyColumn {
    pub(super) column: usize,
    pub(super) operator: String,
}

/// What a name means in the trunk.
pub(super) enum Lookup {
    Table(Table),
    /// Rows of it come from elsewhere: a materialized view (Postgres up to 16 sends its rows) or
    /// the parent of partitions.
    Derived,
    Missing,
}

pub(super) async fn look_up(
    session: &Session,
    name: &TableName,
) -> Result<Lookup, tokio_postgres::Error> {
    let Some(row) = session.query_opt(RELATION_SQL, &[&name.schema, &name.name]).await? else {
        return Ok(Lookup::Missing);
    };
    let oid: u32 = row.try_get("oid")?;
    let kind: String = row.try_get("kind")?;
    match kind.as_str() {
        "r" => {}
        "m" | "p" => return Ok(Lookup::Derived),
        _ => return Ok(Lookup::Missing),
    }
    let rivals: i64 = row.try_get("rivals")?;
    let mut numbers = Vec::new();
    let mut columns = Vec::new();
    for row in session.query(COLUMNS_SQL, &[&oid]).await? {
        numbers.push(row.try_get::<_, i16>("attnum")?);
        columns.push(Column {
            name: row.try_get("attname")?,
            type_sql: row.try_get("type_sql")?,
            is_bytea: row.try_get("is_bytea")?,
            is_generated: row.try_get("is_generated")?,
            is_always_identity: row.try_get("is_always_identity")?,
        });
    }
    let mut key = Vec::new();
    for row in session.query(KEY_SQL, &[&oid]).await? {
        let number: i16 = row.try_get("attnum")?;
        let Some(column) = numbers.iter().position(|other| *other == number) else { continue };
        let (schema, operator): (String, String) = (row.try_get("schema")?, row.try_get("name")?);
        let operator = format!("OPERATOR({}.{operator})", quote_identifier(&schema));
        key.push(KeyColumn { column, operator });
    }
    let is_compactable = !key.is_empty() && rivals == 1;
    Ok(Lookup::Table(Table { name: name.clone(), columns, key, is_compactable }))
}

/// How the rows of one shape go into one table.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) table: Arc<Table>,
    pub(super) shape: Arc<Shape>,
    /// For each position of the shape its column; none for generated ones, which are computed here.
    pub(super) columns: Vec<Option<usize>>,
    /// Positions of the key in the shape, if all of it is there.
    pub(super) key: Option<Vec<usize>>,
    /// Every column that is not generated is there.
    pub(super) is_complete: bool,
}

impl Mapping {
    /// Fails with the name of a column that the trunk lacks.
    pub(super) fn new(table: &Arc<Table>, shape: &Arc<Shape>) -> Result<Self, String> {
        let mut columns = Vec::with_capacity(shape.columns.len());
        for name in &shape.columns {
            let index = table.columns.iter().position(|column| column.name == *name);
            let index = index.ok_or_else(|| name.clone())?;
            let is_generated = table.columns.get(index).is_some_and(|c| c.is_generated);
            columns.push((!is_generated).then_some(index));
        }
        let key = table
            .key
            .iter()
            .map(|key| columns.iter().position(|column| *column == Some(key.column)))
            .collect();
        let is_complete = table
            .columns
            .iter()
            .enumerate()
            .all(|(index, column)| column.is_generated || columns.contains(&Some(index)));
        Ok(Self {
            table: Arc::clone(table),
            shape: Arc::clone(shape),
            columns,
            key: if table.key.is_empty() { None } else { key },
            is_complete,
        })
    }
}

// `rivals` counts the indexes that can refuse a row: unique ones and exclusion constraints.
const RELATION_SQL: &str = "\
SELECT c.oid, c.relkind::text AS kind,
       (SELECT count(*) FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)) AS rivals
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2";

const COLUMNS_SQL: &str = "\
SELECT attnum, attname::text, pg_catalog.format_type(atttypid, atttypmod) AS type_sql,
       atttypid = 'pg_catalog.bytea'::pg_catalog.regtype AS is_bytea,
       attgenerated <> '' AS is_generated, attidentity = 'a' AS is_always_identity
  FROM pg_catalog.pg_attribute
 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

// The replica identity's index, else the primary key, else any unique index that could be one
// (REPLICA IDENTITY FULL sends the whole old row, so any of them will do).
const KEY_SQL: &str = "\
WITH chosen AS (
  SELECT i.indexrelid, i.indkey, i.indclass, i.indnkeyatts
    FROM pg_catalog.pg_index i
   WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
     AND i.indpred IS NULL AND i.indexprs IS NULL
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                      WHERE a.attrelid = $1 AND NOT a.attnotnull
                        AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
   ORDER BY i.indisreplident DESC, i.indisprimary DESC, i.indexrelid LIMIT 1)
SELECT k.attnum, n.nspname::text AS schema, o.oprname::text AS name
  FROM chosen,
       unnest(indkey[0:indnkeyatts - 1], indclass[0:indnkeyatts - 1])
         WITH ORDINALITY AS k(attnum, class, ordinal)
  JOIN pg_catalog.pg_opclass c ON c.oid = k.class
  JOIN pg_catalog.pg_amop p ON p.amopfamily = c.opcfamily AND p.amoplefttype = c.opcintype
       AND p.amoprighttype = c.opcintype AND p.amopstrategy = 3
  JOIN pg_catalog.pg_operator o ON o.oid = p.amopopr
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 ORDER BY k.ordinal";
