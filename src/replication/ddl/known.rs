//! What the source's objects are called, by their oids there: how a rename is told from a drop.
//!
//! Kept in the trunk, table `ardent.known`, and moved in the transaction that replays a change.

use std::collections::{BTreeMap, HashSet};

use proxy::client::{Session, quote_identifier};

use crate::source::TableName;

use super::super::error::{Error, at_source, at_trunk};
use super::object::{Class, Object};

/// An object's names when last heard of.
#[derive(Debug, serde::Deserialize)]
struct Names {
    namespace: i64,
    name: String,
    target: String,
    columns: BTreeMap<String, String>,
}

/// Notes the names of everything on the source, to be done at the moment of the first copy.
pub(in super::super) async fn remember_all(
    source: &Session,
    trunk: &Session,
    schemas: &[String],
) -> Result<(), Error> {
    let row = source.query_one(NAMES_SQL, &[&schemas]).await.map_err(at_source)?;
    let names: String = row.try_get(0).map_err(at_source)?;
    trunk.execute(REMEMBER_SQL, &[&names]).await.map_err(at_trunk)?;
    Ok(())
}

/// Notes the names of some objects.
pub(super) async fn remember(trunk: &Session, objects: &[Object]) -> Result<(), Error> {
    let names: Vec<serde_json::Value> = objects
        .iter()
        .filter(|object| object.class != Class::DefaultPrivileges)
        .map(|object| {
            serde_json::json!({
                "class": object.class.as_str(), "oid": object.oid, "namespace": object.namespace,
                "name": object.name, "target": object.target, "columns": object.columns,
            })
        })
        .collect();
    let names = serde_json::to_string(&names)?;
    trunk.execute(REMEMBER_SQL, &[&names]).await.map_err(at_trunk)?;
    Ok(())
}

/// Forgets what is gone.
pub(super) async fn forget(trunk: &Session, class: Class, oid: i64) -> Result<(), Error> {
    let sql = "DELETE FROM ardent.known WHERE class = $1 AND oid = $2";
    trunk.execute(sql, &[&class.as_str(), &oid]).await.map_err(at_trunk)?;
    Ok(())
}

/// What gives the trunk's object the names that the source's has now.
pub(super) struct Renames {
    pub(super) statements: Vec<String>,
    /// What a table was called before.
    pub(super) table: TableName,
}

/// None for an object never heard of.
pub(super) async fn renames(trunk: &Session, object: &Object) -> Result<Option<Renames>, Error> {
    let Some(old) = find(trunk, object.class, object.oid).await? else { return Ok(None) };
    if object.class == Class::Schema {
        let (from, to) = (quote_identifier(&old.name), quote_identifier(&object.name));
        let sql = format!("ALTER SCHEMA {from} RENAME TO {to}");
        let statements = if old.name == object.name { Vec::new() } else { vec![sql] };
        return Ok(Some(Renames { statements, table: TableName::default() }));
    }
    let old_schema = match find(trunk, Class::Schema, old.namespace).await? {
        Some(schema) => schema.name,
        None => object.schema.clone(),
    };
    let statements = statements(object, &old, &old_schema);
    Ok(Some(Renames { statements, table: TableName { schema: old_schema, name: old.name } }))
}

fn statements(object: &Object, old: &Names, old_schema: &str) -> Vec<String> {
    let word = match (object.class, object.kind.as_str()) {
        (Class::Function, _) => "ROUTINE",
        (Class::Type, _) | (_, "c") => "TYPE",
        _ => "TABLE",
    };
    let mut place = match object.class {
        Class::Function => old.target.clone(),
        _ => format!("{}.{}", quote_identifier(old_schema), quote_identifier(&old.name)),
    };
    let mut sql = Vec::new();
    if old_schema != object.schema {
        let to = quote_identifier(&object.schema);
        sql.push(format!("ALTER {word} {place} SET SCHEMA {to}"));
        place = place.replacen(&quote_identifier(old_schema), &to, 1);
    }
    if old.name != object.name {
        sql.push(format!("ALTER {word} {place} RENAME TO {}", quote_identifier(&object.name)));
    }
    let part = if word == "TYPE" { "ATTRIBUTE" } else { "COLUMN" };
    let cascade = if word == "TYPE" { " CASCADE" } else { "" };
    for (number, name) in &object.columns {
        match old.columns.get(number) {
            Some(before) if before != name => {
                let (from, to) = (quote_identifier(before), quote_identifier(name));
                let target = &object.target;
                sql.push(format!("ALTER {word} {target} RENAME {part} {from} TO {to}{cascade}"));
            }
            _ => {}
        }
    }
    sql
}

/// What a table of the source is called at this position of the stream.
pub(in super::super) async fn known_table(
    trunk: &Session,
    oid: i64,
) -> Result<Option<TableName>, Error> {
    let Some(table) = find(trunk, Class::Relation, oid).await? else { return Ok(None) };
    let Some(schema) = find(trunk, Class::Schema, table.namespace).await? else { return Ok(None) };
    Ok(Some(TableName { schema: schema.name, name: table.name }))
}

/// What was heard of and is there no more, with the statement that drops it.
pub(super) async fn absent(
    trunk: &Session,
    alive: &HashSet<(Class, i64)>,
) -> Result<Vec<(Class, i64, String)>, Error> {
    let sql = "SELECT k.class, k.oid, k.target, c.relkind::text
                 FROM ardent.known k
                 LEFT JOIN pg_catalog.pg_class c
                   ON c.oid = pg_catalog.to_regclass(
                        CASE k.class WHEN 'relation' THEN k.target END)";
    let mut gone = Vec::new();
    for row in trunk.query(sql, &[]).await.map_err(at_trunk)? {
        let class: String = row.try_get(0).map_err(at_trunk)?;
        let Some(class) = Class::parse(&class) else { continue };
        let oid: i64 = row.try_get(1).map_err(at_trunk)?;
        if alive.contains(&(class, oid)) {
            continue;
        }
        let target: String = row.try_get(2).map_err(at_trunk)?;
        let kind: Option<String> = row.try_get(3).map_err(at_trunk)?;
        let word = match (class, kind.as_deref()) {
            (Class::Relation, Some("v")) => "VIEW",
            (Class::Relation, Some("m")) => "MATERIALIZED VIEW",
            (Class::Relation, Some("S")) => "SEQUENCE",
            (Class::Type, _) | (Class::Relation, Some("c")) => "TYPE",
            (Class::Function, _) => "ROUTINE",
            (Class::Schema, _) => "SCHEMA",
            _ => "TABLE",
        };
        gone.push((class, oid, format!("DROP {word} IF EXISTS {target} CASCADE")));
    }
    Ok(gone)
}

async fn find(trunk: &Session, class: Class, oid: i64) -> Result<Option<Names>, Error> {
    let sql =
        "SELECT pg_catalog.to_jsonb(k)::text FROM ardent.known k WHERE class = $1 AND oid = $2";
    let row = trunk.query_opt(sql, &[&class.as_str(), &oid]).await.map_err(at_trunk)?;
    let Some(row) = row else { return Ok(None) };
    let text: String = row.try_get(0).map_err(at_trunk)?;
    Ok(Some(serde_json::from_str(&text)?))
}

const REMEMBER_SQL: &str = "\
INSERT INTO ardent.known (class, oid, namespace, name, target, columns)
SELECT class, oid, namespace, name, target, columns
  FROM pg_catalog.jsonb_to_recordset($1::text::jsonb)
         AS x(class text, oid bigint, namespace bigint, name text, target text, columns jsonb)
    ON CONFLICT (class, oid) DO UPDATE SET namespace = excluded.namespace, name = excluded.name,
       target = excluded.target, columns = excluded.columns";

const NAMES_SQL: &str = "\
WITH place AS (
  SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
   WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
     AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)))
SELECT coalesce(pg_catalog.jsonb_agg(x), '[]')::text FROM (
  SELECT 'schema' AS class, p.oid::bigint, 0::bigint AS namespace, p.nspname AS name,
         pg_catalog.format('%I', p.nspname) AS target, '{}'::jsonb AS columns FROM place p
  UNION ALL
  SELECT 'relation', c.oid::bigint, p.oid::bigint, c.relname,
         pg_catalog.format('%I.%I', p.nspname, c.relname),
         CASE WHEN c.relkind <> 'S' THEN coalesce((
           SELECT pg_catalog.jsonb_object_agg(a.attnum, a.attname) FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '{}') ELSE '{}' END
    FROM place p JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid
     AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c') AND c.relpersistence <> 't'
  UNION ALL
  SELECT 'type', t.oid::bigint, p.oid::bigint, t.typname,
         pg_catalog.format('%I.%I', p.nspname, t.typname), '{}'
    FROM place p JOIN pg_catalog.pg_type t ON t.typnamespace = p.oid AND t.typtype IN ('e','d','r')
  UNION ALL
  SELECT 'function', f.oid::bigint, p.oid::bigint, f.proname,
         pg_catalog.format('%I.%I(%s)', p.nspname, f.proname,
                           pg_catalog.pg_get_function_identity_arguments(f.oid)), '{}'
    FROM place p JOIN pg_catalog.pg_proc f ON f.pronamespace = p.oid AND f.prokind IN ('f', 'p')) x";
