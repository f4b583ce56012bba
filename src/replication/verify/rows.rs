//! The rows of one table, as a count and a sum of hashes that each server computes for itself.

use proxy::client::{Session, quote_identifier};
use tokio::time::Instant;

use crate::source::Table;

use super::super::error::{Error, at_source, at_trunk};
use super::Verdict;

/// Bytes of a heap row at the least: from the size of a table follows how many rows it may have.
const ROW_BYTES_MIN: u64 = 28;

/// Compares; also says what was compared, or what differs.
pub(super) async fn compare(
    (source, copy): (&Session, &Session),
    table: &Table,
    sample: Option<u64>,
    deadline: Instant,
) -> Result<(Verdict, String), Error> {
    let key = key_columns(source, table).await.map_err(at_source)?;
    let sql = sum_sql(table, &key, sample);
    let (theirs, ours) = tokio::join!(sum(source, &sql, deadline), sum(copy, &sql, deadline));
    let (theirs, ours) = match (theirs.map_err(at_source)?, ours.map_err(at_trunk)?) {
        (Ok(theirs), Ok(ours)) => (theirs, ours),
        (Err(said), _) => return Ok((Verdict::NotCompared, format!("source: {said}"))),
        (_, Err(said)) => return Ok((Verdict::NotCompared, format!("trunk: {said}"))),
    };
    let what = if sample.is_some() { "rows of a sample" } else { "rows" };
    Ok(if theirs == ours {
        (Verdict::Carried, format!("{} {what}", theirs.count))
    } else if theirs.count == ours.count {
        (Verdict::Different, format!("{} {what} on both sides, with other values", ours.count))
    } else {
        (Verdict::Different, format!("{} {what}, source {}", ours.count, theirs.count))
    })
}

#[derive(PartialEq, Eq)]
struct Sum {
    count: i64,
    hash: String,
}

/// The sum, or what the server has against this table. Only a lost session is an error.
async fn sum(
    session: &Session,
    sql: &str,
    deadline: Instant,
) -> Result<Result<Sum, String>, tokio_postgres::Error> {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis();
    if left == 0 {
        return Ok(Err("the time was over".to_owned()));
    }
    // A failed statement must not end the transaction that holds the snapshot.
    session.batch_execute(&format!("{SAVE} SET LOCAL statement_timeout = {left}")).await?;
    let outcome = session.query_one(sql, &[]).await;
    match outcome {
        Ok(row) => {
            session.batch_execute("RELEASE SAVEPOINT sum").await?;
            Ok(Ok(Sum { count: row.try_get(0)?, hash: row.try_get(1)? }))
        }
        Err(error) => {
            let Some(said) = error.as_db_error().map(|db| db.message().to_owned()) else {
                return Err(error);
            };
            session.batch_execute("ROLLBACK TO SAVEPOINT sum").await?;
            Ok(Err(said))
        }
    }
}

const SAVE: &str = "SAVEPOINT sum;";

/// Every column by name, so that the two sides need not have them in one order.
fn sum_sql(table: &Table, key: &[String], sample: Option<u64>) -> String {
    let row = row_text(&table.columns);
    let picked = sample.map(|rows| {
        let parts = (table.bytes / ROW_BYTES_MIN / rows.max(1)).max(1);
        let key = if key.is_empty() { row.clone() } else { row_text(key) };
        format!(" WHERE pg_catalog.hashtextextended({key}, 1) % {parts} = 0")
    });
    format!(
        "SELECT count(*), coalesce(sum(pg_catalog.hashtextextended({row}, 0)), 0)::text \
           FROM ONLY {}{}",
        table.name.quoted(),
        picked.unwrap_or_default()
    )
}

fn row_text(columns: &[String]) -> String {
    let names: Vec<String> = columns.iter().map(|name| quote_identifier(name)).collect();
    format!("ROW({})::text", names.join(", "))
}

async fn key_columns(
    source: &Session,
    table: &Table,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = source.query(KEY_SQL, &[&table.name.schema, &table.name.name]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

const KEY_SQL: &str = "\
SELECT a.attname::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
       AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
 WHERE n.nspname = $1 AND c.relname = $2 ORDER BY a.attnum";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_of_keys() {
        let table = Table {
            name: crate::source::TableName { schema: "s".into(), name: "t".into() },
            bytes: 28_000,
            columns: vec!["id".into(), "v".into()],
            ..Table::default()
        };
        let sql = sum_sql(&table, &["id".into()], Some(10));
        assert!(
            sql.ends_with(r#"WHERE pg_catalog.hashtextextended(ROW("id")::text, 1) % 100 = 0"#)
        );
        assert!(!sum_sql(&table, &[], None).contains("WHERE"));
    }
}
