//! Where sequences stand. They are not decoded from the log, so their values are read on the
//! source and sent through it in a message: every commit before the message used smaller values.

use proxy::client::{Session, quote_identifier};

use crate::source::Sequence;

/// Sequences that were never called are asked one by one, this many in a statement.
const ASKED_AT_ONCE_MAX: usize = 200;

/// Reads all sequences of the schemas.
pub(super) async fn read(
    source: &Session,
    schemas: &[String],
) -> Result<Vec<Sequence>, tokio_postgres::Error> {
    let rows = source.query(READ_SQL, &[&schemas]).await?;
    let mut called = Vec::with_capacity(rows.len());
    let mut uncalled = Vec::new();
    for row in &rows {
        let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        match row.try_get::<_, Option<i64>>(2)? {
            Some(last_value) => {
                called.push(Sequence { schema, name, last_value, is_called: true });
            }
            None => uncalled.push((schema, name)),
        }
    }
    for chunk in uncalled.chunks(ASKED_AT_ONCE_MAX) {
        let parts: Vec<String> = chunk
            .iter()
            .enumerate()
            .map(|(index, (schema, name))| {
                let (schema, name) = (quote_identifier(schema), quote_identifier(name));
                format!("SELECT {index}, last_value, is_called FROM {schema}.{name}")
            })
            .collect();
        for row in source.query(&parts.join(" UNION ALL "), &[]).await? {
            let index: i32 = row.try_get(0)?;
            let Some((schema, name)) = usize::try_from(index).ok().and_then(|i| chunk.get(i))
            else {
                continue;
            };
            called.push(Sequence {
                schema: schema.clone(),
                name: name.clone(),
                last_value: row.try_get(1)?,
                is_called: row.try_get(2)?,
            });
        }
    }
    Ok(called)
}

/// Sets the sequences that the trunk has.
pub(super) async fn set(
    trunk: &Session,
    sequences: &[Sequence],
) -> Result<(), tokio_postgres::Error> {
    if sequences.is_empty() {
        return Ok(());
    }
    let schemas: Vec<&str> = sequences.iter().map(|s| s.schema.as_str()).collect();
    let names: Vec<&str> = sequences.iter().map(|s| s.name.as_str()).collect();
    let values: Vec<i64> = sequences.iter().map(|s| s.last_value).collect();
    let called: Vec<bool> = sequences.iter().map(|s| s.is_called).collect();
    trunk.query(SET_SQL, &[&schemas, &names, &values, &called]).await?;
    Ok(())
}

// pg_sequence_last_value() is one call for all, but says nothing of sequences never called. The
// CASE keeps the planner from asking it about others than those we may read.
const READ_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, pg_catalog.pg_sequence_last_value(c.oid)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE CASE WHEN c.relkind = 'S' AND c.relpersistence <> 't'
            THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') END
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY 1, 2";

const SET_SQL: &str = "\
SELECT pg_catalog.setval(c.oid::pg_catalog.regclass, x.value, x.called)
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[])
         AS x(schema, name, value, called)
  JOIN pg_catalog.pg_namespace n ON n.nspname = x.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = x.name AND c.relkind = 'S'";
