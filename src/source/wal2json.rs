//! The check `wal2json`: is the plugin there, may we use it, can a slot be made now, and does it tell
//! NaN from null?

use proxy::client::{self, ReplicationConnection, Session};

use super::error::Error;
use super::plugin::{Probe, probe_wal2json};
use super::privileges::Missing;
use super::report::Row;
use super::server::literal;

/// What is asked about, and of whom.
pub(super) struct Wal2json<'a> {
    pub(super) session: &'a Session,
    pub(super) schemas: &'a [String],
}

impl Wal2json<'_> {
    pub(super) async fn row(
        &self,
        replication: Result<ReplicationConnection, client::Error>,
        missing: &mut Missing,
    ) -> Result<Row, Error> {
        let name = "wal2json";
        let Ok(mut connection) = replication else {
            return Ok(Row::skip(name, "no replication connection to ask with"));
        };
        let probe = probe_wal2json(&mut connection).await;
        connection.close().await;
        Ok(match probe {
            Probe::Works { tells_nan_from_null: true } => Row::pass(name),
            Probe::Works { tells_nan_from_null: false } => self.old_wal2json().await?,
            Probe::Blocked => self.blocked().await?,
            Probe::NotInstalled => Row::fail(
                name,
                "wal2json is not installed",
                format!("Install the package {} on the source.", self.package().await?),
            ),
            Probe::NotListed => {
                let sql = self.listing_sql().await?;
                missing.plugin = Some(sql.clone());
                Row::fail(
                    name,
                    "wal2json is not in output_plugin_libraries",
                    format!(
                        "Run as superuser: {sql} (no restart; package {} must be installed)",
                        self.package().await?
                    ),
                )
            }
            Probe::Unasked(why) => Row::skip(name, why),
            Probe::Failed(said) => Row::fail(name, said, "Check the server's log."),
        })
    }

    /// wal2json before 2.6 prints NaN and infinities as null. Worth a word only where a column can
    /// hold them.
    async fn old_wal2json(&self) -> Result<Row, Error> {
        let rows = self.session.query(FLOATING_SQL, &[&self.schemas]).await?;
        let tables = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        if tables.is_empty() {
            return Ok(Row::pass("wal2json"));
        }
        Ok(Row::warn(
            "wal2json",
            format!(
                "Before 2.6, NaN and infinity arrive as null in {}",
                super::report::listed(&tables)
            ),
            "Upgrade wal2json to 2.6 or newer if these columns hold such values.",
        ))
    }

    /// The setting is a list of names; quoting it as a whole would store one name.
    async fn listing_sql(&self) -> Result<String, Error> {
        let row = self.session.query_opt(LIBRARIES_SQL, &[]).await?;
        let present: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
        let present = present.unwrap_or_else(|| "pgoutput, test_decoding".to_owned());
        let mut names: Vec<String> = present
            .split(',')
            .map(|name| name.trim().trim_matches('"'))
            .filter(|name| !name.is_empty())
            .map(|name| format!("'{}'", name.replace('\'', "''")))
            .collect();
        names.push("'wal2json'".to_owned());
        let names = names.join(", ");
        Ok(format!("ALTER SYSTEM SET output_plugin_libraries = {names}; SELECT pg_reload_conf();"))
    }

    async fn package(&self) -> Result<String, Error> {
        let sql = "SELECT current_setting('server_version_num')::int / 10000";
        let major: i32 = self.session.query_one(sql, &[]).await?.try_get(0)?;
        Ok(format!("postgresql-{major}-wal2json"))
    }

    /// Whoever has written and not ended holds a new slot back.
    async fn blocked(&self) -> Result<Row, Error> {
        let mut lines =
            vec!["A long transaction on the source holds back slot creation".to_owned()];
        let mut mend = Vec::new();
        for row in self.session.query(OPEN_SQL, &[]).await? {
            let (pid, role, age): (i32, Option<String>, Option<String>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (role, age) = (role.unwrap_or_default(), age.unwrap_or_default());
            lines.push(format!("Process {pid} of role {role}, open for {age}"));
            mend.push(format!("SELECT pg_terminate_backend({pid});"));
        }
        for row in self.session.query(PREPARED_SQL, &[]).await? {
            let gid: String = row.try_get(0)?;
            lines.push(format!("Prepared transaction {gid}"));
            mend.push(format!("ROLLBACK PREPARED {};", literal(&gid)));
        }
        let remedy = match mend.join(" ") {
            none if none.is_empty() => {
                "End transactions that are open for long before creating the connector.".to_owned()
            }
            sql => format!("Let it end before creating the connector, or end it: {sql}"),
        };
        Ok(Row::warn("wal2json", lines.join("\n"), remedy))
    }
}

const LIBRARIES_SQL: &str =
    "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries'";

const FLOATING_SQL: &str = "\
SELECT DISTINCT n.nspname || '.' || c.relname
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relkind = 'r' AND c.relpersistence = 'p'
   AND a.atttypid = ANY ('{float4,float8,numeric}'::regtype[])
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1)) ORDER BY 1";

const OPEN_SQL: &str = "\
SELECT pid, usename::text, date_trunc('second', now() - xact_start)::text
  FROM pg_catalog.pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5";

const PREPARED_SQL: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 5";
