//! Who runs the source: some remedies differ by provider.

use std::fmt;

use proxy::client::{Session, quote_identifier};

use super::error::Error;

/// A detected provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider(String);

impl Provider {
    /// Asks the source, by the marks each provider leaves (replication notes, query 06).
    pub async fn detect(session: &Session) -> Result<Self, Error> {
        Ok(Self(session.query_one(PROVIDER_SQL, &[]).await?.try_get(0)?))
    }

    /// Stock Postgres, or a host that adds nothing of its own.
    pub(super) fn vanilla() -> Self {
        Self("vanilla".to_owned())
    }

    fn is_aws(&self) -> bool {
        matches!(self.0.as_str(), "aws-rds" | "aws-aurora")
    }

    /// Who can run the grant script there.
    pub(super) fn administrator(&self) -> &'static str {
        match self.0.as_str() {
            "aws-rds" | "aws-aurora" => "a role with rds_superuser",
            "gcp-cloudsql" => "a role with cloudsqlsuperuser",
            "gcp-alloydb" => "a role with alloydbsuperuser",
            "azure" => "a role with azure_pg_admin",
            "neon" => "a role with neon_superuser",
            "supabase" => "the role postgres",
            "planetscale" => "the role postgres of the branch",
            _ => "a superuser",
        }
    }

    /// Event triggers can be made there without being a superuser, so a schema of ours is of use.
    pub(super) fn lets_others_capture(&self) -> bool {
        self.is_aws() || matches!(self.0.as_str(), "supabase" | "gcp-cloudsql" | "neon")
    }

    /// How this provider lets a role replicate.
    pub(super) fn replication_grant(&self, role: &str) -> String {
        if self.is_aws() {
            format!("GRANT rds_replication TO {role};")
        } else {
            format!("ALTER ROLE {role} WITH REPLICATION;")
        }
    }

    /// How this provider lets a role see rows that row security hides: nobody there can give
    /// BYPASSRLS away on AWS, but owners are not subject to their own policies.
    pub(super) fn row_security_grants(&self, role: &str, owners: &[String]) -> Vec<String> {
        if self.is_aws() {
            let grant = |owner: &String| format!("GRANT {} TO {role};", quote_identifier(owner));
            owners.iter().map(grant).collect()
        } else {
            vec![format!("ALTER ROLE {role} BYPASSRLS;")]
        }
    }

    /// How a setting is changed there.
    pub(super) fn setting_remedy(&self, setting: &str, value: &str) -> String {
        let place = match self.0.as_str() {
            "aws-rds" | "aws-aurora" => "in the parameter group",
            "gcp-cloudsql" | "gcp-alloydb" => "as a database flag",
            "azure" => "as a server parameter",
            "planetscale" => "as a cluster parameter",
            "neon" | "supabase" => "through the provider's support",
            _ => {
                return format!(
                    "Run ALTER SYSTEM SET {setting} = {value}; and restart the server."
                );
            }
        };
        format!("Set {setting} = {value} {place} and restart.")
    }

    /// How this provider switches logical decoding on.
    pub(super) fn wal_level_remedy(&self) -> String {
        match self.0.as_str() {
            "aws-rds" | "aws-aurora" => {
                "Set rds.logical_replication = 1 in the parameter group and reboot.".to_owned()
            }
            "gcp-cloudsql" => "Set the flag cloudsql.logical_decoding = on and restart.".to_owned(),
            "gcp-alloydb" => "Set the flag alloydb.logical_decoding = on and restart.".to_owned(),
            "neon" => "Switch logical replication on in the project's settings.".to_owned(),
            "planetscale" => {
                "Enable Logical Replication in the dashboard: Settings > Integrations.".to_owned()
            }
            _ => self.setting_remedy("wal_level", "logical"),
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
  WHEN 'extwlist' = ANY (prefixes)
       OR EXISTS (SELECT FROM unnest(roles) x WHERE x LIKE 'pscale%') THEN 'planetscale'
  WHEN 'crunchy_superuser' = ANY (roles) THEN 'crunchy'
  WHEN roles && ARRAY['avnadmin', 'doadmin'] THEN 'aiven/digitalocean'
  WHEN 'tsdbadmin' = ANY (roles) THEN 'timescale'
  ELSE 'vanilla' END
  FROM s, r";
