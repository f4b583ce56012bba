//! What pgoutput needs on the source: publications that name the tables that are followed.
//!
//! Never FOR ALL TABLES: a publication of updates makes every update of a table without identity
//! fail on the source (replication notes, section 0 fact 12). Tables without one stand in a second
//! publication, of inserts and truncations only.

use proxy::client::{Session, quote_identifier};

use crate::source::{self, SourceUrl, TableName};

use super::error::{Error, at_source};
use super::link::Link;

const OPTIONS: &str = "-c statement_timeout=60s -c lock_timeout=10s";
/// From here on a publication can carry generated columns, and has to: where they are part of a
/// full identity, updates would fail on the source without them.
const VERSION_GENERATED: i32 = 180_000;

/// Makes the publications. Before the slot: its plugin looks them up as they were at each change.
pub(super) async fn create(link: &Link) -> Result<(), Error> {
    let session = Session::open(&link.source_target(OPTIONS)).await.map_err(at_source)?;
    let outcome = create_in(&session, link).await;
    session.close().await;
    outcome
}

async fn create_in(session: &Session, link: &Link) -> Result<(), Error> {
    let sql = "SELECT current_setting('server_version_num')::int";
    let row = session.query_one(sql, &[]).await.map_err(at_source)?;
    let version: i32 = row.try_get(0).map_err(at_source)?;
    let generated = match version >= VERSION_GENERATED {
        true => ", publish_generated_columns = stored",
        false => "",
    };
    let tables = source::tables(session, &link.schemas).await?;
    let followed = || tables.iter().filter(|table| link.follows(&table.name));
    // New partitions of these are published by themselves.
    let mut whole = partitioned(session, link).await?;
    whole.extend(followed().filter(|table| table.has_identity).map(|table| table.name.clone()));
    let growing = followed().filter(|table| !table.has_identity).map(|table| table.name.clone());
    let growing: Vec<TableName> = growing.collect();
    let [all, inserts] = link.publications();
    for (name, tables, publish) in
        [(all, &whole, "insert, update, delete, truncate"), (inserts, &growing, "insert, truncate")]
    {
        let names: Vec<String> = tables.iter().map(|t| format!("ONLY {}", t.quoted())).collect();
        let list = match names.is_empty() {
            true => String::new(),
            false => format!(" FOR TABLE {}", names.join(", ")),
        };
        let name = quote_identifier(&name);
        let sql =
            format!("CREATE PUBLICATION {name}{list} WITH (publish = '{publish}'{generated})");
        session.batch_execute(&sql).await.map_err(at_source)?;
    }
    Ok(())
}

async fn partitioned(session: &Session, link: &Link) -> Result<Vec<TableName>, Error> {
    let rows = session.query(PARTITIONED_SQL, &[&link.schemas]).await.map_err(at_source)?;
    rows.iter()
        .map(|row| Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? }))
        .collect::<Result<_, tokio_postgres::Error>>()
        .map_err(at_source)
}

/// Tables that are to be followed and are in no publication: they were made after it.
pub(super) async fn unpublished(
    session: &Session,
    link: &Link,
) -> Result<Vec<TableName>, tokio_postgres::Error> {
    let names = link.publications();
    let rows = session.query(UNPUBLISHED_SQL, &[&link.schemas, &names.as_slice()]).await?;
    let name = |row: &tokio_postgres::Row| {
        Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? })
    };
    let mut tables = rows.iter().map(name).collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
    tables.retain(|table| link.follows(table));
    Ok(tables)
}

/// Drops the publications of a connector. Done already is done well.
pub(super) async fn drop_all(source: &SourceUrl, names: &[String]) -> Result<(), Error> {
    let session = Session::open(&source.pinned().with_options(OPTIONS)).await.map_err(at_source)?;
    // Asked first: to drop what is not there is refused to some roles all the same.
    let present = "SELECT pubname::text FROM pg_catalog.pg_publication WHERE pubname = ANY ($1)";
    for row in session.query(present, &[&names]).await.map_err(at_source)? {
        let name: String = row.try_get(0).map_err(at_source)?;
        let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_identifier(&name));
        session.batch_execute(&sql).await.map_err(at_source)?;
    }
    session.close().await;
    Ok(())
}

const UNPUBLISHED_SQL: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                    WHERE p.pubname = ANY ($2::text[]::name[])
                      AND p.schemaname = n.nspname AND p.tablename = c.relname)
 ORDER BY 1, 2";

const PARTITIONED_SQL: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'p' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
 ORDER BY 1, 2";
