//! Reads objects of a database as facts.

use proxy::client::Session;
use tokio_postgres::{Row, Statement};

use crate::source::TableName;

use super::super::error::{Error, at_look, at_trunk};
use super::object::{Class, Object};

/// The query both sides are read with.
pub(super) const DESCRIBE_SQL: &str = include_str!("describe.sql");

/// The trunk as seen by its applier.
#[derive(Default)]
pub(super) struct Describer {
    find: Option<Statement>,
    describe: Option<Statement>,
}

impl Describer {
    /// The trunk's objects of the same names.
    pub(super) async fn namesakes(
        &mut self,
        trunk: &Session,
        objects: &[Object],
    ) -> Result<Vec<Object>, Error> {
        let find = prepared(trunk, &mut self.find, FIND_SQL).await?;
        let describe = prepared(trunk, &mut self.describe, DESCRIBE_SQL).await?;
        let texts = |part: fn(&Object) -> &str| objects.iter().map(part).collect::<Vec<&str>>();
        let classes = texts(|object| object.class.as_str());
        let (schemas, names) = (texts(|object| &object.schema), texts(|object| &object.name));
        let targets = texts(|object| &object.target);
        let row = trunk
            .query_one(&find, &[&classes, &schemas, &names, &targets])
            .await
            .map_err(at_trunk)?;
        let oids = |position| row.try_get::<_, Vec<u32>>(position).map_err(at_trunk);
        let (relations, types, functions, schemas) = (oids(0)?, oids(1)?, oids(2)?, oids(3)?);
        let defaults = objects.iter().any(|object| object.class == Class::DefaultPrivileges);
        let rows = trunk
            .query(&describe, &[&relations, &types, &functions, &schemas, &defaults])
            .await
            .map_err(at_trunk)?;
        rows.iter().map(|row| parse(&row.try_get::<_, Json>(0).map_err(at_trunk)?.0)).collect()
    }
}

/// Everything of the source that is not an extension's.
pub(super) async fn everything(source: &Session, schemas: &[String]) -> Result<Vec<Object>, Error> {
    let row = source.query_one(ALL_SQL, &[&schemas]).await.map_err(at_look)?;
    let oids = |position| row.try_get::<_, Vec<u32>>(position).map_err(at_look);
    let (relations, types, functions, places) = (oids(0)?, oids(1)?, oids(2)?, oids(3)?);
    let rows = source
        .query(DESCRIBE_SQL, &[&relations, &types, &functions, &places, &true])
        .await
        .map_err(at_look)?;
    rows.iter().map(|row| parse(&row.try_get::<_, Json>(0).map_err(at_look)?.0)).collect()
}

/// A table of the source as it is now; nothing if there is none, or it was renamed while it was
/// read: the stream knows it by the old name, and says which is the new one.
pub(super) async fn table(source: &Session, name: &TableName) -> Result<Vec<Object>, Error> {
    let find = "SELECT c.oid FROM pg_catalog.pg_class c
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'";
    let found = source.query_opt(find, &[&name.schema, &name.name]).await.map_err(at_look)?;
    let Some(row) = found else { return Ok(Vec::new()) };
    let oids: [u32; 1] = [row.try_get(0).map_err(at_look)?];
    let none: [u32; 0] = [];
    let rows = source
        .query(
            DESCRIBE_SQL,
            &[&oids.as_slice(), &none.as_slice(), &none.as_slice(), &none.as_slice(), &false],
        )
        .await
        .map_err(at_look)?;
    let read = |row: &Row| parse(&row.try_get::<_, Json>(0).map_err(at_look)?.0);
    let mut objects = rows.iter().map(read).collect::<Result<Vec<Object>, Error>>()?;
    objects.retain(|object| object.schema == name.schema && object.name == name.name);
    Ok(objects)
}

fn parse(json: &[u8]) -> Result<Object, Error> {
    Ok(serde_json::from_slice(json)?)
}

async fn prepared(
    session: &Session,
    slot: &mut Option<Statement>,
    sql: &str,
) -> Result<Statement, Error> {
    if let Some(statement) = slot {
        return Ok(statement.clone());
    }
    let statement = session.prepare(sql).await.map_err(at_trunk)?;
    Ok(slot.insert(statement).clone())
}

/// The bytes of a `jsonb` value, past the version byte of its binary form (`jsonb_send`).
struct Json(Vec<u8>);

impl tokio_postgres::types::FromSql<'_> for Json {
    fn from_sql(
        _: &tokio_postgres::types::Type,
        raw: &[u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match raw.split_first() {
            Some((1, json)) => Ok(Self(json.to_vec())),
            _ => Err("jsonb of an unknown version".into()),
        }
    }

    fn accepts(ty: &tokio_postgres::types::Type) -> bool {
        *ty == tokio_postgres::types::Type::JSONB
    }
}

const ALL_SQL: &str = "\
WITH place AS (
  SELECT n.oid FROM pg_catalog.pg_namespace n
   WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
     AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
), member AS (
  SELECT d.classid, d.objid FROM pg_catalog.pg_depend d WHERE d.deptype = 'e'
)
SELECT ARRAY(SELECT c.oid FROM pg_catalog.pg_class c
              WHERE c.relnamespace IN (SELECT oid FROM place) AND c.relpersistence <> 't'
                AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'c')
                AND NOT EXISTS (SELECT FROM member m WHERE m.objid = c.oid
                                   AND m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass)),
       ARRAY(SELECT t.oid FROM pg_catalog.pg_type t
              WHERE t.typnamespace IN (SELECT oid FROM place) AND t.typtype IN ('e', 'd', 'r')
                AND NOT EXISTS (SELECT FROM member m WHERE m.objid = t.oid
                                   AND m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass)),
       ARRAY(SELECT p.oid FROM pg_catalog.pg_proc p
              WHERE p.pronamespace IN (SELECT oid FROM place) AND p.prokind IN ('f', 'p')
                AND NOT EXISTS (SELECT FROM member m WHERE m.objid = p.oid
                                   AND m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass)
                -- Constructors of ranges come with their type.
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                 WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
                                   AND d.objid = p.oid AND d.deptype = 'i')),
       ARRAY(SELECT oid FROM place)";

const FIND_SQL: &str = "\
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
                         AS w(class, schema, name, target))
SELECT ARRAY(SELECT c.oid FROM wanted w JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
               JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
              WHERE w.class = 'relation'),
       ARRAY(SELECT t.oid FROM wanted w JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
               JOIN pg_catalog.pg_type t ON t.typnamespace = n.oid AND t.typname = w.name
              WHERE w.class = 'type'),
       ARRAY(SELECT p.oid FROM wanted w JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
               JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = w.name
              WHERE w.class = 'function' AND w.target = pg_catalog.format('%I.%I(%s)', n.nspname,
                      p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))),
       ARRAY(SELECT n.oid FROM wanted w JOIN pg_catalog.pg_namespace n ON n.nspname = w.name
              WHERE w.class = 'schema')";
