//! Extensions of the source that the trunk can have too.
//!
//! Their scripts run as superuser, so they are installed before any object of the source exists
//! that could stand in their way (CVE-2020-14350 and its kin), and from a closed list only.

use std::collections::BTreeSet;

use proxy::client::{Session, quote_identifier};

use crate::source::Facts;

use super::super::error::{Error, at_trunk};
use super::super::link::APPLY_ROLE;

/// Extensions that come with Postgres or are well kept, that give no way to files or programs of
/// the host, and that do no work of their own in the background.
const ALLOWED: &[&str] = &[
    "address_standardizer",
    "amcheck",
    "bloom",
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "dict_int",
    "dict_xsyn",
    "earthdistance",
    "fuzzystrmatch",
    "h3",
    "hll",
    "hstore",
    "hypopg",
    "intarray",
    "ip4r",
    "isn",
    "lo",
    "ltree",
    "pg_stat_statements",
    "pg_trgm",
    "pg_uuidv7",
    "pgcrypto",
    "pgrowlocks",
    "pgstattuple",
    "postgis",
    "postgis_raster",
    "postgis_topology",
    "prefix",
    "rum",
    "seg",
    "semver",
    "sslinfo",
    "tablefunc",
    "tcn",
    "tsm_system_rows",
    "tsm_system_time",
    "unaccent",
    "unit",
    "uuid-ossp",
    "vector",
];
/// Extensions depend on each other at most this deep; each pass installs one level.
const PASSES: usize = 3;

/// True for an extension that may be made by the superuser.
pub(in super::super) fn is_extension_allowed(name: &str) -> bool {
    ALLOWED.contains(&name)
}

pub(super) async fn create(system: &Session, facts: &Facts) -> Result<Vec<String>, Error> {
    let available = system
        .query("SELECT name::text FROM pg_catalog.pg_available_extensions", &[])
        .await
        .map_err(at_trunk)?
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<BTreeSet<String>, _>>()
        .map_err(at_trunk)?;
    let mut warnings = Vec::new();
    let mut wanted = Vec::new();
    for (name, schema) in facts.extensions.iter().filter(|(name, _)| name != "plpgsql") {
        if !ALLOWED.contains(&name.as_str()) {
            warnings.push(format!("extension {name} is not carried over"));
        } else if available.contains(name) {
            wanted.push((name, schema));
        } else {
            warnings.push(format!("extension {name} is not installed here"));
        }
    }
    for pass in 1..=PASSES {
        let mut left = Vec::new();
        for (name, schema) in wanted {
            match install(system, name, schema).await {
                Ok(()) => {}
                Err(error) if error.as_db_error().is_none() => return Err(at_trunk(error)),
                Err(error) if pass == PASSES => {
                    let said = error.as_db_error().map(|error| error.message().to_owned());
                    let said = said.unwrap_or_default();
                    warnings.push(format!("extension {name} is not carried over: {said}"));
                }
                Err(_) => left.push((name, schema)),
            }
        }
        wanted = left;
    }
    Ok(warnings)
}

async fn install(system: &Session, name: &str, schema: &str) -> Result<(), tokio_postgres::Error> {
    let (name, quoted) = (quote_identifier(name), quote_identifier(schema));
    if schema != "pg_catalog" {
        let sql = format!("CREATE SCHEMA IF NOT EXISTS {quoted} AUTHORIZATION {APPLY_ROLE}");
        system.batch_execute(&sql).await?;
    }
    system.batch_execute(&format!("CREATE EXTENSION {name} WITH SCHEMA {quoted}")).await
}
