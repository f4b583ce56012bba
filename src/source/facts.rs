//! Facts about a source that setup and the stream build on.

use std::fmt;

use proxy::client::{ReplicationConnection, Session, quote_identifier};

use super::error::Error;

/// Which database this is, wherever it is reached from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Made by initdb, copied by physical standbys and restored backups.
    pub system_identifier: u64,
    /// Of the database that is followed.
    pub database_oid: u32,
    /// Changes when a standby is promoted or a backup restored to a point in time. Not part of
    /// "the same database", but of "the same log".
    pub timeline: u32,
}

impl Identity {
    /// The same database, perhaps on another timeline.
    pub fn is_same_database(&self, other: &Self) -> bool {
        self.system_identifier == other.system_identifier && self.database_oid == other.database_oid
    }
}

/// A table's schema and name, unquoted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Schema.
    pub schema: String,
    /// Name inside it.
    pub name: String,
}

impl TableName {
    /// As SQL takes it whatever it contains.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What a trunk has to have in common with its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `server_version_num`.
    pub version: u32,
    /// Server encoding of the database.
    pub encoding: String,
    /// LC_COLLATE.
    pub collate: String,
    /// LC_CTYPE.
    pub ctype: String,
    /// The ICU locale, where the database uses ICU.
    pub icu_locale: Option<String>,
    /// Every role that is not Postgres' own.
    pub roles: Vec<RoleFacts>,
    /// Memberships as (member, of role, with admin option).
    pub memberships: Vec<(String, String, bool)>,
    /// Extensions as (name, schema).
    pub extensions: Vec<(String, String)>,
}

/// A role of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFacts {
    /// Its name.
    pub name: String,
    /// INHERIT.
    pub inherit: bool,
    /// CREATEROLE.
    pub create_role: bool,
    /// CREATEDB.
    pub create_db: bool,
    /// LOGIN.
    pub login: bool,
    /// BYPASSRLS.
    pub bypass_rls: bool,
}

/// A table to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// Bytes of its heap.
    pub bytes: u64,
    /// Bytes of all that belongs to it, indexes too.
    pub total_bytes: u64,
    /// Its columns in order, generated ones left out.
    pub columns: Vec<String>,
    /// It can say which row an UPDATE or DELETE meant.
    pub has_identity: bool,
    /// Its rows lie in numbered blocks, so ranges of them can be read.
    pub is_heap: bool,
    /// Every column has a binary form that means the same on any two servers.
    pub is_portable: bool,
}

/// A sequence and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sequence {
    /// Schema.
    pub schema: String,
    /// Name inside it.
    pub name: String,
    /// The last value handed out, or the next one if none was.
    pub last_value: i64,
    /// A value was handed out.
    pub is_called: bool,
}

/// Asks a walsender which database it serves. Columns are read by name: forks order them anew.
pub async fn identity(connection: &mut ReplicationConnection) -> Result<Identity, Error> {
    let system = connection.command("IDENTIFY_SYSTEM").await?;
    let database = connection
        .command("SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()")
        .await?;
    let field = |rows: &[Vec<(String, Option<String>)>], name: &'static str| {
        rows.first()
            .and_then(|row| row.iter().find(|(column, _)| column == name))
            .and_then(|(_, value)| value.clone())
            .ok_or(Error::Unexpected(name))
    };
    Ok(Identity {
        system_identifier: field(&system, "systemid")?
            .parse()
            .map_err(|_| Error::Unexpected("a numeric systemid"))?,
        timeline: field(&system, "timeline")?
            .parse()
            .map_err(|_| Error::Unexpected("a numeric timeline"))?,
        database_oid: field(&database, "oid")?
            .parse()
            .map_err(|_| Error::Unexpected("a numeric database oid"))?,
    })
}

/// Reads what a trunk has to have in common with its source.
pub async fn read_facts(session: &Session) -> Result<Facts, Error> {
    let row = session.query_one(DATABASE_SQL, &[]).await?;
    let version: i32 = row.try_get("version")?;
    let roles = session.query(ROLES_SQL, &[]).await?;
    let memberships = session.query(MEMBERSHIPS_SQL, &[]).await?;
    let extensions = session.query(EXTENSIONS_SQL, &[]).await?;
    Ok(Facts {
        version: u32::try_from(version).map_err(|_| Error::Unexpected("a version"))?,
        encoding: row.try_get("encoding")?,
        collate: row.try_get("collate")?,
        ctype: row.try_get("ctype")?,
        icu_locale: row.try_get("icu_locale")?,
        roles: roles
            .iter()
            .map(|row| {
                Ok(RoleFacts {
                    name: row.try_get("rolname")?,
                    inherit: row.try_get("rolinherit")?,
                    create_role: row.try_get("rolcreaterole")?,
                    create_db: row.try_get("rolcreatedb")?,
                    login: row.try_get("rolcanlogin")?,
                    bypass_rls: row.try_get("rolbypassrls")?,
                })
            })
            .collect::<Result<_, tokio_postgres::Error>>()?,
        memberships: memberships
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?,
        extensions: extensions
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?,
    })
}

/// The tables to follow, largest first. An empty list of schemas means all that are not the
/// system's.
pub async fn tables(session: &Session, schemas: &[String]) -> Result<Vec<Table>, Error> {
    let rows = session.query(TABLES_SQL, &[&schemas]).await?;
    let table = |row: &tokio_postgres::Row| {
        let (bytes, total): (i64, i64) = (row.try_get("bytes")?, row.try_get("total_bytes")?);
        Ok(Table {
            name: TableName { schema: row.try_get("nspname")?, name: row.try_get("relname")? },
            bytes: u64::try_from(bytes).unwrap_or(0),
            total_bytes: u64::try_from(total).unwrap_or(0),
            columns: row.try_get("columns")?,
            has_identity: row.try_get("has_identity")?,
            is_heap: row.try_get("is_heap")?,
            is_portable: row.try_get("is_portable")?,
        })
    };
    Ok(rows.iter().map(table).collect::<Result<_, tokio_postgres::Error>>()?)
}

/// The tables among those to follow that cannot say which row an UPDATE or DELETE meant, by name.
pub(super) async fn tables_without_identity(
    session: &Session,
    schemas: &[String],
) -> Result<Vec<TableName>, Error> {
    let rows = session.query(WITHOUT_IDENTITY_SQL, &[&schemas]).await?;
    let name = |row: &tokio_postgres::Row| {
        Ok(TableName { schema: row.try_get(0)?, name: row.try_get(1)? })
    };
    Ok(rows.iter().map(name).collect::<Result<_, tokio_postgres::Error>>()?)
}

// to_jsonb() reads columns that exist in some majors only: datlocprovider and the ICU locale came
// with 15 (daticulocale), which 17 renamed (datlocale).
const DATABASE_SQL: &str = "\
SELECT current_setting('server_version_num')::int AS version,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       d.datcollate::text AS collate, d.datctype::text AS ctype,
       CASE WHEN to_jsonb(d)->>'datlocprovider' = 'i'
            THEN coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale') END AS icu_locale
  FROM pg_catalog.pg_database d WHERE d.datname = current_database()";

const ROLES_SQL: &str = "\
SELECT rolname::text, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolbypassrls
  FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_' ORDER BY 1";

const MEMBERSHIPS_SQL: &str = "\
SELECT DISTINCT ON (1, 2) m.rolname::text, r.rolname::text, a.admin_option
  FROM pg_catalog.pg_auth_members a
  JOIN pg_catalog.pg_roles m ON m.oid = a.member JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
 ORDER BY 1, 2, 3 DESC";

const EXTENSIONS_SQL: &str = "\
SELECT e.extname::text, n.nspname::text
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
 ORDER BY 1";

// Binary forms are portable for Postgres' own types and arrays of them, whose identifiers are
// fixed. Composite, enum and extension types have identifiers of each database in theirs, and so
// does what names an object (regclass and its kin); a domain is left out to keep the list plain.
//
// The same rule as below. Apart from it, because there may be many tables and preflight must be
// quick: their columns are of no use to it.
const WITHOUT_IDENTITY_SQL: &str = "\
SELECT n.nspname::text, c.relname::text
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_index i
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident
                ELSE false END)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1, 2";

// An identity counts as the server counts it: a deferrable or partial index does not, nor does one
// over expressions or nullable columns (replication notes, section 0 facts 4 and 5).
const TABLES_SQL: &str = "\
SELECT n.nspname::text, c.relname::text, pg_catalog.pg_relation_size(c.oid) AS bytes,
       pg_catalog.pg_total_relation_size(c.oid) AS total_bytes,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND a.attgenerated = '' ORDER BY a.attnum) AS columns,
       c.relreplident = 'f' OR EXISTS (
         SELECT FROM pg_catalog.pg_index i
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
            AND i.indpred IS NULL AND i.indexprs IS NULL
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident
                ELSE false END) AS has_identity,
       EXISTS (SELECT FROM pg_catalog.pg_am m WHERE m.oid = c.relam AND m.amname = 'heap')
         AS is_heap,
       NOT EXISTS (
         SELECT FROM pg_catalog.pg_attribute a
           JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
           LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND coalesce(e.oid, t.oid) <> ALL (
                '{bool,bytea,\"char\",name,int8,int2,int4,text,oid,json,xml,jsonb,float4,float8,
                  money,macaddr,macaddr8,inet,cidr,bpchar,varchar,date,time,timetz,timestamp,
                  timestamptz,interval,numeric,uuid,pg_lsn,bit,varbit,point,lseg,path,box,polygon,
                  line,circle,tsvector,tsquery,jsonpath}'::pg_catalog.regtype[])) AS is_portable
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'ardent')
   AND (cardinality($1::text[]) = 0 OR n.nspname = ANY ($1))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY bytes DESC, 1, 2";
