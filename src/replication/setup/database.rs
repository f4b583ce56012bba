//! The trunk's database: the source's name, encoding and locale.

use proxy::client::{Session, quote_identifier};

use crate::postgres::local_locale;
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
    let warnings = create(&session, &name, facts).await?;
    let resemble = RESEMBLE_SQL.replace("{name}", &literal(&trunk.database));
    session.batch_execute(&resemble).await.map_err(at_trunk)?;
    session.close().await;
    Ok(warnings)
}

async fn create(session: &Session, name: &str, facts: &Facts) -> Result<Vec<String>, Error> {
    let provider = match &facts.icu_locale {
        Some(icu) => format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", literal(icu)),
        None => String::new(),
    };
    let sql = |collate: &str, ctype: &str| {
        format!(
            "CREATE DATABASE {name} OWNER {APPLY_ROLE} TEMPLATE template0 ENCODING {} \
             LC_COLLATE {} LC_CTYPE {}{provider}",
            literal(&facts.encoding),
            literal(collate),
            literal(ctype)
        )
    };
    let local = async |name| local_locale(name, &facts.encoding).await.unwrap_or(name.to_owned());
    let (collate, ctype) = (local(&facts.collate).await, local(&facts.ctype).await);
    match session.batch_execute(&sql(&collate, &ctype)).await {
        Ok(()) => return Ok(Vec::new()),
        Err(error) if error.as_db_error().is_none() => return Err(at_trunk(error)),
        Err(_) => {}
    }
    session.batch_execute(&sql(FALLBACK_LOCALE, FALLBACK_LOCALE)).await.map_err(at_trunk)?;
    Ok(vec![format!(
        "locale {} is not installed here: text sorts as in {FALLBACK_LOCALE}",
        facts.collate
    )])
}

/// The other databases are as `initdb` left them, in a plain locale, and what is made from them in
/// a branch has theirs: they get that of the source. They hold nothing but catalogs, which are
/// ASCII and sort by their bytes in every locale; `pg_upgrade` changes `template0` in this way too.
/// The columns differ from major to major.
const RESEMBLE_SQL: &str = "\
DO $$ DECLARE
    columns text := (
        SELECT string_agg(quote_ident(attname), ', ') FROM pg_catalog.pg_attribute
         WHERE attrelid = 'pg_catalog.pg_database'::regclass AND attname IN (
               'encoding', 'datlocprovider', 'datcollate', 'datctype', 'daticulocale', 'datlocale',
               'daticurules', 'datcollversion'));
BEGIN
    EXECUTE format('UPDATE pg_catalog.pg_database SET (%1$s) = (
        SELECT %1$s FROM pg_catalog.pg_database WHERE datname = %2$L) WHERE datname <> %2$L',
        columns, {name});
END $$";

/// A database to be in while another is dropped.
pub(in super::super) fn maintenance_database(database: &str) -> &'static str {
    if database == "postgres" { "template1" } else { "postgres" }
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub(in super::super) fn literal(text: &str) -> String {
    let quoted = text.replace('\\', "\\\\").replace('\'', "''");
    if text.contains('\\') { format!("E'{quoted}'") } else { format!("'{quoted}'") }
}
