//! What pgoutput needs on the source: publications that name the tables that are followed.
//!
//! Never FOR ALL TABLES: a publication of updates makes every update of a table without identity
//! fail on the source (replication notes, section 0 fact 12). Tables without one stand in a second
//! publication, of inserts and truncations only.
//!
//! | a table | is | and then |
//! |---|---|---|
//! | made later | in quarantine from the commit that made it | published, copied, followed |
//! | given an identity | in quarantine: its updates were not seen | moved, copied, followed |
//! | robbed of its identity | moved at once: its updates fail on the source | followed |
//! | renamed or dropped | what it was, or in no publication: they know it by oid | |

use proxy::client::{Session, quote_identifier};
use tokio_postgres::error::SqlState;

use crate::source::{self, Plugin, SourceUrl, TableName};

use super::applier::Applier;
use super::ddl;
use super::error::{Error, at_look, at_source};
use super::link::Link;

const OPTIONS: &str = "-c statement_timeout=60s -c lock_timeout=10s";
/// Whoever writes to a table waits behind us for so long.
const PLACE_TIMEOUT: &str = "1s";
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

/// A table that stands in another publication than its identity asks for, or in none.
pub(super) struct Stray {
    oid: i64,
    table: TableName,
    has_identity: bool,
    /// By itself, and not as a partition of another.
    is_named: bool,
}

impl Stray {
    /// Its updates fail on the source as long as it stands where it does.
    pub(super) fn is_harmful(&self) -> bool {
        self.is_named && !self.has_identity
    }
}

/// All strays of the tables to be followed.
pub(super) async fn strays(session: &Session, link: &Link) -> Result<Vec<Stray>, Error> {
    let [all, inserts] = link.publications();
    let rows =
        session.query(STRAYS_SQL, &[&link.schemas, &all, &inserts]).await.map_err(at_look)?;
    let read = |row: &tokio_postgres::Row| {
        Ok(Stray {
            oid: row.try_get(0)?,
            table: TableName { schema: row.try_get(1)?, name: row.try_get(2)? },
            has_identity: row.try_get(3)?,
            is_named: row.try_get(4)?,
        })
    };
    let strays: Result<Vec<Stray>, tokio_postgres::Error> = rows.iter().map(read).collect();
    let mut strays = strays.map_err(at_source)?;
    strays.retain(|stray| link.follows(&stray.table));
    Ok(strays)
}

/// Publishes a table where it belongs, if it does not stand there.
pub(super) async fn place_by_name(link: &Link, table: &TableName) -> Result<(), Error> {
    let session = Session::open(&link.source_target(OPTIONS)).await.map_err(at_source)?;
    let outcome = async {
        let strays = strays(&session, link).await?;
        match strays.iter().find(|stray| stray.table == *table) {
            Some(stray) => place(&session, link, stray).await,
            None => Ok(()),
        }
    };
    let outcome = outcome.await;
    session.close().await;
    outcome
}

/// Moves a stray. Waits for nobody who writes to it for longer than a moment, and lets nobody write
/// meanwhile: older servers never publish what a transaction writes that was open then.
pub(super) async fn place(session: &Session, link: &Link, stray: &Stray) -> Result<(), Error> {
    let [all, inserts] = link.publications().map(|name| quote_identifier(&name));
    let (to, from) = if stray.has_identity { (all, inserts) } else { (inserts, all) };
    let table = stray.table.quoted();
    let leave = match stray.is_named {
        true => format!("ALTER PUBLICATION {from} DROP TABLE ONLY {table};"),
        false => String::new(),
    };
    let sql = format!(
        "BEGIN; SET LOCAL lock_timeout = '{PLACE_TIMEOUT}';
         LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE;
         {leave} ALTER PUBLICATION {to} ADD TABLE ONLY {table}; COMMIT"
    );
    let Err(error) = session.batch_execute(&sql).await else { return Ok(()) };
    if !session.is_closed() {
        session.batch_execute("ROLLBACK").await.map_err(at_source)?;
    }
    Err(match error.as_db_error() {
        Some(db) if db.code() == &SqlState::INSUFFICIENT_PRIVILEGE => {
            Error::Unsafe(format!("cannot be published: {}", db.message()))
        }
        // Found by its name a moment ago: the stream will say what has become of it.
        Some(db) if is_gone(db.code()) => Error::Moving,
        _ => at_source(error),
    })
}

fn is_gone(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code)
}

impl Applier {
    /// To be called at the end of a source transaction that changed the schema. What the plugin
    /// does not show as it should is copied again once it is published.
    pub(super) async fn tend_publications(&mut self) -> Result<(), Error> {
        let link = self.replay.link.clone();
        if link.plugin != Plugin::Pgoutput {
            return Ok(());
        }
        let session = Session::open(&link.source_target(OPTIONS)).await.map_err(at_source)?;
        let strays = strays(&session, &link).await;
        session.close().await;
        for stray in strays? {
            // By what it is called at this position of the stream; none if it is not made yet.
            let Some(table) = ddl::known_table(&self.session, stray.oid).await? else { continue };
            if !stray.has_identity {
                self.warn(format!(
                    "{table} has no replica identity: its inserts are followed only"
                ));
            }
            if !stray.is_harmful() {
                self.divert(&table, "the plugin did not show all its changes", true);
            }
        }
        Ok(())
    }
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

// An index counts as an identity as the server counts it, which let it become one.
const STRAYS_SQL: &str = "\
SELECT x.oid, x.schema, x.name, x.has_identity, x.is_named FROM (
  SELECT c.oid::bigint, n.nspname::text AS schema, c.relname::text AS name,
         c.relreplident = 'f' OR EXISTS (
           SELECT FROM pg_catalog.pg_index i
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
              AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident
                  ELSE false END) AS has_identity,
         EXISTS (
           SELECT FROM pg_catalog.pg_publication_rel r
             JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
            WHERE r.prrelid = c.oid AND b.pubname::text IN ($2, $3)) AS is_named,
         coalesce(p.names, '{}') AS names
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (SELECT schemaname, tablename, pg_catalog.array_agg(pubname::text) AS names
                 FROM pg_catalog.pg_publication_tables WHERE pubname::text IN ($2, $3)
                GROUP BY 1, 2) p ON p.schemaname = n.nspname AND p.tablename = c.relname
   WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
     AND n.nspname NOT IN ('information_schema', 'ardent')
     AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid = c.oid AND d.deptype = 'e')) x
 WHERE CASE WHEN x.has_identity THEN $2 ELSE $3 END <> ALL (x.names)
 ORDER BY 2, 3";

const PARTITIONED_SQL: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'p' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
 ORDER BY 1, 2";
