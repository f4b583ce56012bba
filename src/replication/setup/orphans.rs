//! Files that nobody's table knows: what a transaction makes and dies with, no recovery of Postgres
//! removes. A kill amid a first copy leaves as much as the table that was being copied, and every
//! branch would count it.
//!
//! The files of a number are removed if it was there while no Postgres ran, and no relation of the
//! database has it once one runs. That is safe, for
//! * whoever made them has ended, and recovery brings the relations of who had committed;
//! * Postgres gives no new relation a number that a file has.
//!
//! They are listed again by then: recovery may have made more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use proxy::client::Session;

use super::super::error::{Error, at_trunk};
use super::super::link::TrunkAccess;
use super::super::progress;

/// The numbers that files of relations have, by database.
#[derive(Debug)]
pub struct RelationFiles {
    base: PathBuf,
    numbers: BTreeMap<u32, BTreeSet<u32>>,
}

impl RelationFiles {
    /// Lists those below a data directory. No Postgres may run on it, or what it is at work on
    /// would be taken for nobody's.
    pub fn list(data_dir: &Path) -> io::Result<Self> {
        let base = data_dir.join("base");
        let mut numbers = BTreeMap::new();
        for (name, directory) in entries(&base)? {
            let Ok(database) = name.parse() else { continue };
            let files = entries(&directory)?.into_iter();
            numbers.insert(database, files.filter_map(|(name, _)| name.parse().ok()).collect());
        }
        Ok(Self { base, numbers })
    }

    /// Removes what no relation of the trunk's database has. To be called once Postgres runs again.
    /// What cannot be removed only takes room.
    pub async fn remove_orphans(mut self, trunk: &TrunkAccess) {
        let removed = match self.take_orphans(trunk).await {
            Ok(Some((database, orphans))) => {
                let directory = self.base.join(database.to_string());
                remove(&directory, &orphans).await.map_err(|error| error.to_string())
            }
            Ok(None) => return,
            Err(error) => Err(error.chain()),
        };
        match removed {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "what no table has was removed from a first copy"),
            Err(reason) => tracing::warn!(reason, "files that no table has stay in a first copy"),
        }
    }

    /// None if the database is not there.
    async fn take_orphans(
        &mut self,
        trunk: &TrunkAccess,
    ) -> Result<Option<(u32, BTreeSet<u32>)>, Error> {
        let Some(system) = progress::open_existing(trunk).await? else { return Ok(None) };
        let read = read(&system).await;
        system.close().await;
        let (database, known) = read.map_err(at_trunk)?;
        let mut numbers = self.numbers.remove(&database).unwrap_or_default();
        numbers.retain(|number| !known.contains(number));
        Ok(Some((database, numbers)))
    }
}

/// What is in a directory, by name.
fn entries(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let named = |entry: io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
    };
    std::fs::read_dir(directory)?.map(named).collect()
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

/// Returns how many files there were.
async fn remove(directory: &Path, orphans: &BTreeSet<u32>) -> io::Result<usize> {
    let mut removed = 0;
    for (name, path) in entries(directory)? {
        if !relation_of(&name).is_some_and(|number| orphans.contains(&number)) {
            continue;
        }
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
        removed += 1;
    }
    Ok(removed)
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
