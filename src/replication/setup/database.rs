//! The trunk's database: the source's name, encoding and locale.

use proxy::client::{Session, quote_identifier};

use crate::source::Facts;

use super::super::error::{Error, at_trunk};
use super::super::link::{APPLY_ROLE, TrunkAccess};

/// Every host has it, so it stands in for a locale that this one lacks.
const FALLBACK_LOCALE: &str = "C.UTF-8";

/// Drops what an earlier attempt left, and makes the database anew. It belongs to the applying
/// role, which restores the schema into it without being a superuser.
pub(super) async fn recreate(trunk: &TrunkAccess, facts: &Facts) -> Result<Vec<String>, Error> {
    let session = Session::open(&trunk.as_system(maintenance_database(&trunk.database)))
        .await
        .map_err(at_trunk)?;
    let name = quote_identifier(&trunk.database);
    session
        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        .await
        .map_err(at_trunk)?;
    let locale = match &facts.icu_locale {
        Some(icu) => format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(icu)),
        None => String::new(),
    };
    let create = |collate: &str, ctype: &str| {
        format!(
            "CREATE DATABASE {name} OWNER {APPLY_ROLE} TEMPLATE template0 ENCODING {} \
             LC_COLLATE {} LC_CTYPE {}{locale}",
            literal(&facts.encoding),
            literal(collate),
            literal(ctype)
        )
    };
    let mut warnings = Vec::new();
    if let Err(error) = session.batch_execute(&create(&facts.collate, &facts.ctype)).await {
        if error.as_db_error().is_none() {
            return Err(at_trunk(error));
        }
        let sql = create(FALLBACK_LOCALE, FALLBACK_LOCALE);
        session.batch_execute(&sql).await.map_err(at_trunk)?;
        warnings.push(format!(
            "locale {} is not installed here: text sorts as in {FALLBACK_LOCALE}",
            facts.collate
        ));
    }
    session.close().await;
    Ok(warnings)
}

/// A database to be in while another is dropped.
pub(in super::super) fn maintenance_database(database: &str) -> &'static str {
    if database == "postgres" { "template1" } else { "postgres" }
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub(in super::super) fn literal(text: &str) -> String {
    let quoted = text.replace('\\', "\\\\").replace('\'', "''");
    if text.contains('\\') { format!("E'{quoted}'") } else { format!("'{quoted}'") }
}
