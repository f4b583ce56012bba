//! What our role lacks for reading the selected tables, as lists that both the report and the
//! grant script are made from.

use proxy::client::Session;

use super::error::Error;
use super::facts::TableName;

/// What has to be granted. All empty means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// The role may not replicate.
    pub(super) replication: bool,
    /// The statement that lists wal2json, if it must be listed.
    pub(super) plugin: Option<String>,
    /// Schemas asked for that are not there.
    pub(super) absent_schemas: Vec<String>,
    /// Schemas without USAGE.
    pub(super) schemas: Vec<String>,
    /// Tables without SELECT.
    pub(super) tables: Vec<TableName>,
    /// Tables whose row security would hide rows from us.
    pub(super) hidden: Vec<TableName>,
    /// Owners of those.
    pub(super) hidden_owners: Vec<String>,
    /// The role may not make a schema in the database.
    pub(super) create: bool,
    /// Sequences without SELECT.
    pub(super) sequences: Vec<TableName>,
    /// (schema, owner) whose future tables would be invisible to us.
    pub(super) owners: Vec<(String, String)>,
}

impl Missing {
    pub(super) async fn read(session: &Session, schemas: &[String]) -> Result<Self, Error> {
        let mut missing = Self {
            absent_schemas: names(session, ABSENT_SQL, schemas).await?,
            schemas: names(session, SCHEMAS_SQL, schemas).await?,
            ..Self::default()
        };
        for row in session.query(TABLES_SQL, &[&schemas]).await? {
            let name = TableName { schema: row.try_get(0)?, name: row.try_get(1)? };
            if !row.try_get::<_, bool>(2)? {
                missing.tables.push(name.clone());
            }
            if row.try_get(3)? {
                missing.hidden.push(name);
                let owner: String = row.try_get(4)?;
                if !missing.hidden_owners.contains(&owner) {
                    missing.hidden_owners.push(owner);
                }
            }
        }
        missing.create = session.query_one(CREATE_SQL, &[]).await?.try_get(0)?;
        for row in session.query(SEQUENCES_SQL, &[&schemas]).await? {
            missing.sequences.push(TableName { schema: row.try_get(0)?, name: row.try_get(1)? });
        }
        for row in session.query(OWNERS_SQL, &[&schemas]).await? {
            missing.owners.push((row.try_get(0)?, row.try_get(1)?));
        }
        Ok(missing)
    }

    /// Lines for the check `can read tables`; none means it passes.
    pub(super) fn reading_problems(&self) -> Vec<String> {
        let absent = self.absent_schemas.iter().map(|name| format!("Schema {name} does not exist"));
        let schemas = self.schemas.iter().map(|name| format!("Missing USAGE on schema {name}"));
        let tables = self.tables.iter().map(|name| format!("Missing SELECT on {name}"));
        let hidden = self.hidden.iter().map(|name| format!("Row security hides rows of {name}"));
        let sequences =
            self.sequences.iter().map(|name| format!("Missing SELECT on sequence {name}"));
        absent.chain(schemas).chain(tables).chain(hidden).chain(sequences).collect()
    }

    /// True if SQL can mend something.
    pub(super) fn is_grantable(&self) -> bool {
        self.replication
            || self.plugin.is_some()
            || !(self.schemas.is_empty()
                && self.tables.is_empty()
                && self.hidden.is_empty()
                && self.sequences.is_empty())
    }
}

async fn names(session: &Session, sql: &str, schemas: &[String]) -> Result<Vec<String>, Error> {
    let rows = session.query(sql, &[&schemas]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

const CREATE_SQL: &str = "\
SELECT NOT has_database_privilege(current_database(), 'CREATE')";

const ABSENT_SQL: &str = "\
SELECT s FROM unnest($1::text[]) s WHERE to_regnamespace(quote_ident(s)) IS NULL ORDER BY 1";

const SCHEMAS_SQL: &str = "\
SELECT nspname::text FROM pg_catalog.pg_namespace n
 WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR nspname = ANY ($1))
   AND NOT has_schema_privilege(n.oid, 'USAGE') ORDER BY 1";

const TABLES_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, has_table_privilege(c.oid, 'SELECT'),
       c.relrowsecurity
       AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles
                 WHERE rolname = current_user)
       AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')),
       pg_get_userbyid(c.relowner)::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND (NOT has_table_privilege(c.oid, 'SELECT') OR c.relrowsecurity) ORDER BY 1, 2";

// The CASE keeps the planner from asking about relations that are not sequences.
const SEQUENCES_SQL: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'S' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'SELECT') END
 ORDER BY 1, 2";

const OWNERS_SQL: &str = "\
SELECT DISTINCT n.nspname::text, pg_get_userbyid(c.relowner)::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND NOT pg_has_role(c.relowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'pg_read_all_data'
                      AND pg_has_role(r.oid, 'USAGE'))
   AND NOT EXISTS (
     SELECT FROM pg_catalog.pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) a
      WHERE d.defaclobjtype = 'r' AND d.defaclrole = c.relowner
        AND d.defaclnamespace IN (0, n.oid) AND a.privilege_type = 'SELECT'
        AND CASE WHEN a.grantee = 0 THEN true ELSE pg_has_role(a.grantee, 'USAGE') END)
 ORDER BY 1, 2";
