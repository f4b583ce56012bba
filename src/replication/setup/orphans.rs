//! Files that nobody's table knows: what a transaction makes and dies with, no recovery of Postgres
//! removes. A kill amid a first copy leaves as much as the table that was being copied, and every
//! branch would count it.
//!
//! A file is removed if it was there while no Postgres ran and no relation of the database has it
//! once one runs. That is safe, for
//! * whoever made it has ended, and if it had committed, recovery would have brought its relation;
//! * Postgres gives no new relation a name that a file has.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use proxy::client::Session;

use super::super::error::{Error, at_trunk};
use super::super::link::TrunkAccess;
use super::super::progress;

/// The files of relations below a data directory, by database.
#[derive(Debug)]
pub struct RelationFiles(Vec<RelationFile>);

#[derive(Debug)]
struct RelationFile {
    database: u32,
    number: u32,
    path: PathBuf,
}

impl RelationFiles {
    /// Lists them. No Postgres may run on the directory, or what it is at work on would be taken
    /// for nobody's.
    pub fn list(data_dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for directory in std::fs::read_dir(data_dir.join("base"))? {
            let directory = directory?;
            let Some(database) = directory.file_name().to_str().and_then(|name| name.parse().ok())
            else {
                continue;
            };
            for file in std::fs::read_dir(directory.path())? {
                let file = file?;
                let number = file.file_name().to_str().and_then(relation_of);
                files.extend(number.map(|number| RelationFile {
                    database,
                    number,
                    path: file.path(),
                }));
            }
        }
        Ok(Self(files))
    }

    /// Removes those of the trunk's database that no relation has. To be called once Postgres runs
    /// again, before anybody works with it. What cannot be removed only takes room.
    pub async fn remove_orphans(self, trunk: &TrunkAccess) {
        let outcome = match self.orphans(trunk).await {
            Ok(orphans) => remove(&orphans).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.chain()),
        };
        if let Err(reason) = outcome {
            tracing::warn!(reason, "files that no table has stay in a first copy");
        }
    }

    async fn orphans(self, trunk: &TrunkAccess) -> Result<Vec<PathBuf>, Error> {
        let Some(system) = progress::open_existing(trunk).await? else { return Ok(Vec::new()) };
        let read = read(&system).await;
        system.close().await;
        let (own, known) = read.map_err(at_trunk)?;
        let is_orphan = |file: &RelationFile| file.database == own && !known.contains(&file.number);
        Ok(self.0.into_iter().filter(is_orphan).map(|file| file.path).collect())
    }
}

/// The number in `16384`, `16384.1`, `16384_fsm` or `16384_vm.2`; none of what is no relation's.
fn relation_of(name: &str) -> Option<u32> {
    let (name, segment) = name.split_once('.').unwrap_or((name, "0"));
    let (number, fork) = name.split_once('_').unwrap_or((name, "main"));
    segment.parse::<u32>().ok()?;
    if !["main", "fsm", "vm", "init"].contains(&fork) {
        return None;
    }
    number.parse().ok()
}

/// The database's number, and those of its relations' files.
async fn read(system: &Session) -> Result<(u32, BTreeSet<u32>), tokio_postgres::Error> {
    let own = "SELECT oid FROM pg_catalog.pg_database
                WHERE datname = pg_catalog.current_database()";
    let known = "SELECT pg_catalog.pg_relation_filenode(oid) FROM pg_catalog.pg_class
                  WHERE pg_catalog.pg_relation_filenode(oid) IS NOT NULL";
    let own = system.query_one(own, &[]).await?.try_get(0)?;
    let rows = system.query(known, &[]).await?;
    let known: Result<_, _> = rows.iter().map(|row| row.try_get(0)).collect();
    Ok((own, known?))
}

async fn remove(orphans: &[PathBuf]) -> io::Result<()> {
    for path in orphans {
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    if !orphans.is_empty() {
        tracing::info!(files = orphans.len(), "what no table has was removed from a first copy");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relations_are_told_from_others() {
        for name in ["16384", "16384.12", "16384_fsm", "16384_vm.1", "16384_init"] {
            assert_eq!(relation_of(name), Some(16384), "{name}");
        }
        for name in ["PG_VERSION", "pg_filenode.map", "pg_internal.init", "t3_16384", "16384.x"] {
            assert_eq!(relation_of(name), None, "{name}");
        }
        assert_eq!(relation_of("16384_old"), None);
    }
}
