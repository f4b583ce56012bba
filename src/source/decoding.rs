//! The check `wal2json`: can any plugin decode this source's log for us, and which?
//!
//! | wanted | wal2json works | pgoutput serves | row | plugin |
//! |---|---|---|---|---|
//! | `auto` | yes | | pass, or what old versions lack | wal2json |
//! | `auto` | no | yes | a warning that says so | pgoutput |
//! | `wal2json` | yes | | pass, or what old versions lack | wal2json |
//! | `pgoutput` | | yes | pass | pgoutput |
//! | any | otherwise | | what failed | none |

use proxy::client::{self, ReplicationConnection, Session, Target};

use super::error::Error;
use super::plugin::{PROBE_OPTIONS, Plugin, Probe, probe};
use super::preflight::{PluginChoice, PreflightOptions};
use super::privileges::Missing;
use super::report::{Row, RowStatus, listed};
use super::server::literal;

/// The name of the row, whichever plugin it is about.
const NAME: &str = "wal2json";
/// pgoutput passes our messages on from here on.
const VERSION_MESSAGES: i32 = 140_000;

pub(super) struct Decoding<'a> {
    pub(super) session: &'a Session,
    pub(super) target: &'a Target,
    pub(super) options: &'a PreflightOptions,
}

impl Decoding<'_> {
    pub(super) async fn check(
        &self,
        replication: Result<ReplicationConnection, client::Error>,
        missing: &mut Missing,
    ) -> Result<(Row, Option<Plugin>), Error> {
        let Ok(mut connection) = replication else {
            return Ok((Row::skip(NAME, "no replication connection to ask with"), None));
        };
        if self.options.plugin == PluginChoice::Only(Plugin::Pgoutput) {
            return self.pgoutput(connection).await;
        }
        let probed = probe(&mut connection, Plugin::Wal2json).await;
        connection.close().await;
        let row = self.wal2json(probed, missing).await?;
        let works = matches!(row.status, RowStatus::Pass | RowStatus::Warn);
        if works || row.status == RowStatus::Skip || self.options.plugin != PluginChoice::Auto {
            return Ok((row, works.then_some(Plugin::Wal2json)));
        }
        let Ok(connection) =
            ReplicationConnection::open(&self.target.with_options(PROBE_OPTIONS)).await
        else {
            return Ok((row, None));
        };
        match self.pgoutput(connection).await? {
            (_, Some(plugin)) => {
                // Nothing has to be mended, so the script does not offer it.
                missing.plugin = None;
                let detail = row.detail.unwrap_or_default();
                let detail = format!("{detail}: pgoutput is used instead");
                let remedy = row.remedy.unwrap_or_default();
                Ok((Row::warn(NAME, detail, remedy), Some(plugin)))
            }
            _ => Ok((row, None)),
        }
    }

    /// pgoutput needs publications, and those need the tables' owner.
    async fn pgoutput(
        &self,
        mut connection: ReplicationConnection,
    ) -> Result<(Row, Option<Plugin>), Error> {
        let probed = probe(&mut connection, Plugin::Pgoutput).await;
        connection.close().await;
        match probed {
            Probe::Works { .. } => {}
            Probe::Unasked(why) => return Ok((Row::skip(NAME, why), None)),
            other => return Ok((self.wal2json(other, &mut Missing::default()).await?, None)),
        }
        let row = self.session.query_one(PUBLISHING_SQL, &[&self.options.schemas]).await?;
        let (version, may_create): (i32, bool) = (row.try_get(0)?, row.try_get(1)?);
        let foreign: Vec<String> = row.try_get(2)?;
        let user = &self.target.user;
        let failed = if version < VERSION_MESSAGES {
            Row::fail(
                NAME,
                "pgoutput passes no messages on before Postgres 14",
                format!("Install the package {}.", self.package().await?),
            )
        } else if !may_create {
            Row::fail(
                NAME,
                format!("Role {user} may not create publications in this database"),
                format!("Grant it CREATE on the database, or use {NAME}."),
            )
        } else if !foreign.is_empty() {
            Row::fail(
                NAME,
                format!("Role {user} cannot publish tables of others: {}", listed(&foreign)),
                format!("Use a role that owns them or a superuser, or use {NAME}."),
            )
        } else {
            let row = Row::pass(NAME).with_detail("plugin: pgoutput");
            return Ok((row, Some(Plugin::Pgoutput)));
        };
        Ok((failed, None))
    }

    /// What a probe says, as the row.
    async fn wal2json(&self, probed: Probe, missing: &mut Missing) -> Result<Row, Error> {
        Ok(match probed {
            Probe::Works { tells_nan_from_null: true } => Row::pass(NAME),
            Probe::Works { tells_nan_from_null: false } => self.old_wal2json().await?,
            Probe::Blocked => self.blocked().await?,
            Probe::NotInstalled => Row::fail(
                NAME,
                "wal2json is not installed",
                format!("Install the package {} on the source.", self.package().await?),
            ),
            Probe::NotListed => {
                let sql = self.listing_sql().await?;
                missing.plugin = Some(sql.clone());
                Row::fail(
                    NAME,
                    "wal2json is not in output_plugin_libraries",
                    format!(
                        "Run as superuser: {sql} (no restart; package {} must be installed)",
                        self.package().await?
                    ),
                )
            }
            Probe::Unasked(why) => Row::skip(NAME, why),
            Probe::Failed(said) => Row::fail(NAME, said, "Check the server's log."),
        })
    }

    /// wal2json before 2.6 prints NaN and infinities as null. Worth a word only where a column can
    /// hold them.
    async fn old_wal2json(&self) -> Result<Row, Error> {
        let rows = self.session.query(FLOATING_SQL, &[&self.options.schemas]).await?;
        let tables = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        if tables.is_empty() {
            return Ok(Row::pass(NAME));
        }
        Ok(Row::warn(
            NAME,
            format!("Before 2.6, NaN and infinity arrive as null in {}", listed(&tables)),
            "Upgrade wal2json to 2.6 or newer, or use pgoutput, if these columns hold such values.",
        ))
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
        Ok(Row::warn(NAME, lines.join("\n"), remedy))
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
}

const OPEN_SQL: &str = "\
SELECT pid, usename::text, date_trunc('second', now() - xact_start)::text
  FROM pg_catalog.pg_stat_activity
 WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 5";

const PREPARED_SQL: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 5";

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

const PUBLISHING_SQL: &str = "\
SELECT current_setting('server_version_num')::int,
       has_database_privilege(current_database(), 'CREATE'),
       ARRAY(SELECT n.nspname || '.' || c.relname
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
                AND n.nspname NOT IN ('information_schema', 'ardent')
                AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
                AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1)";
