//! Who runs the source: some remedies differ by provider.

use std::fmt;

use proxy::client::Session;

use super::error::Error;

/// A detected provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider(String);

impl Provider {
    /// Asks the source, by the marks each provider leaves (replication notes, query 06).
    pub async fn detect(session: &Session) -> Result<Self, Error> {
        Ok(Self(session.query_one(PROVIDER_SQL, &[]).await?.try_get(0)?))
    }

    /// How this provider lets a role replicate.
    pub(super) fn replication_grant(&self, role: &str) -> String {
        match self.0.as_str() {
            "aws-rds" | "aws-aurora" => format!("GRANT rds_replication TO {role};"),
            _ => format!("ALTER ROLE {role} WITH REPLICATION;"),
        }
    }

    /// How this provider switches logical decoding on.
    pub(super) fn wal_level_remedy(&self) -> &'static str {
        match self.0.as_str() {
            "aws-rds" | "aws-aurora" => {
                "Set rds.logical_replication = 1 in the parameter group and reboot."
            }
            "gcp-cloudsql" => "Set the flag cloudsql.logical_decoding = on and restart.",
            "gcp-alloydb" => "Set the flag alloydb.logical_decoding = on and restart.",
            "neon" => "Switch logical replication on in the project's settings.",
            _ => "Run ALTER SYSTEM SET wal_level = logical; and restart the server.",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const PROVIDER_SQL: &str = "\
WITH s AS (SELECT array_agg(DISTINCT split_part(name, '.', 1)) AS prefixes
             FROM pg_catalog.pg_settings WHERE name LIKE '%.%'),
     r AS (SELECT array_agg(rolname::text) AS roles FROM pg_catalog.pg_roles)
SELECT CASE
  WHEN to_regproc('pg_catalog.aurora_version') IS NOT NULL
       OR to_regproc('aurora_version') IS NOT NULL THEN 'aws-aurora'
  WHEN 'rds' = ANY (prefixes) OR 'rds_superuser' = ANY (roles) THEN 'aws-rds'
  WHEN 'alloydb' = ANY (prefixes) OR 'alloydbsuperuser' = ANY (roles) THEN 'gcp-alloydb'
  WHEN 'cloudsql' = ANY (prefixes) OR 'cloudsqlsuperuser' = ANY (roles) THEN 'gcp-cloudsql'
  WHEN 'azure' = ANY (prefixes) OR 'azure_pg_admin' = ANY (roles) THEN 'azure'
  WHEN 'neon' = ANY (prefixes) OR 'neon_superuser' = ANY (roles) THEN 'neon'
  WHEN 'supautils' = ANY (prefixes) OR 'supabase_admin' = ANY (roles) THEN 'supabase'
  WHEN EXISTS (SELECT FROM unnest(roles) x WHERE x LIKE 'pscale%') THEN 'planetscale'
  WHEN 'crunchy_superuser' = ANY (roles) THEN 'crunchy'
  WHEN roles && ARRAY['avnadmin', 'doadmin'] THEN 'aiven/digitalocean'
  WHEN 'tsdbadmin' = ANY (roles) THEN 'timescale'
  ELSE 'vanilla' END
  FROM s, r";
