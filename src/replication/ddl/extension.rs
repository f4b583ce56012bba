//! Extensions that the source made or dropped after the first copy.
//!
//! One that Postgres trusts is made by the applying role in its own transaction. Any other needs
//! the superuser: from the closed list of setup only, on a connection of its own, and never waiting
//! for long, since the applier may hold what it waits for.

use proxy::client::{Session, quote_identifier};

use super::super::applier::Applier;
use super::super::error::{Error, at_trunk};
use super::super::setup::is_extension_allowed;
use super::captured::NewExtension;

const SYSTEM_OPTIONS: &str = "-c lock_timeout=2s -c statement_timeout=60s";

pub(super) async fn install(applier: &mut Applier, new: &NewExtension) -> Result<(), Error> {
    let NewExtension { name, schema } = new;
    let (quoted, place) = (quote_identifier(name), quote_identifier(schema));
    let sql = format!("CREATE EXTENSION IF NOT EXISTS {quoted} WITH SCHEMA {place}");
    let Err(refusal) = applier.attempt(&sql).await? else { return Ok(()) };
    if !is_extension_allowed(name) {
        applier.warn(format!("extension {name} is not carried over: {refusal}"));
        return Ok(());
    }
    if let Err(said) = as_system(applier, &sql).await? {
        applier.warn(format!("extension {name} is not carried over: {said}"));
    }
    Ok(())
}

pub(super) async fn uninstall(applier: &mut Applier, identity: &str) -> Result<(), Error> {
    let sql = format!("DROP EXTENSION IF EXISTS {identity} CASCADE");
    if applier.attempt(&sql).await?.is_ok() {
        return Ok(());
    }
    if let Err(said) = as_system(applier, &sql).await? {
        applier.warn(format!("extension {identity} is gone from the source only: {said}"));
    }
    Ok(())
}

async fn as_system(applier: &Applier, sql: &str) -> Result<Result<(), String>, Error> {
    let target = applier.replay.trunk.as_system(&applier.replay.trunk.database);
    let system = Session::open(&target.with_options(SYSTEM_OPTIONS)).await.map_err(at_trunk)?;
    let outcome = system.batch_execute(sql).await;
    system.close().await;
    match outcome {
        Ok(()) => Ok(Ok(())),
        Err(error) => match error.as_db_error() {
            Some(db) => Ok(Err(db.message().to_owned())),
            None => Err(at_trunk(error)),
        },
    }
}
