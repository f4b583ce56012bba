//! The identity filter: what a fork must not inherit from a running Postgres, and the little else
//! that the store knows of a data directory.
//!
//! Applied to a child's first namespace, and again, with the same result, whenever that namespace
//! is loaded. The list is the one that `pg_basebackup` leaves out (`basebackup.c`,
//! `excludeDirContents` and `excludeFiles`), plus relation caches and temporary files. A change of
//! this list needs a new filter version in the fork record.

use crate::id::{FileId, LayerId};
use crate::locks;
use crate::tree::Tree;

/// Names the process that serves the data directory now.
const LOCK_FILE: &str = "postmaster.pid";

/// Files in the data directory itself.
const FILES: [&str; 4] = [LOCK_FILE, "postmaster.opts", "backup_label", "tablespace_map"];

/// Directories whose contents stay behind.
const EMPTIED: [&str; 7] = [
    "pg_replslot",
    "pg_stat_tmp",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_subtrans",
    "pg_dynshmem",
];

/// Directories whose files must be able to grow as long as there is any space.
const VITAL: [&str; 10] = [
    "",
    "global",
    "pg_wal",
    "pg_xact",
    "pg_multixact/offsets",
    "pg_multixact/members",
    "pg_commit_ts",
    "pg_subtrans",
    "pg_twophase",
    "pg_logical",
];

/// A relation cache file, whole or still being written.
const RELATION_CACHE: &str = "pg_internal.init";
/// Temporary files of queries, and their directory.
const TEMPORARY: &str = "pgsql_tmp";

/// A data directory is the branch's own directory or one of this many in it. So the filter costs
/// the same however many files a branch holds.
const CLUSTERS_MAX: usize = 64;

/// Takes what must not be inherited out of `tree`, whose changes belong to `layer`. Returns how
/// many bytes of files went.
pub(crate) fn strip(tree: &mut Tree, layer: LayerId) -> u64 {
    clusters(tree).into_iter().map(|directory| strip_cluster(tree, directory, layer)).sum()
}

/// Whether a Postgres that cannot extend `file` is down, rather than one of its statements: WAL,
/// the states of transactions, the small files in the data directory itself. Costs a look at all of
/// those.
pub(crate) fn is_vital(tree: &Tree, file: FileId) -> bool {
    clusters(tree).into_iter().any(|cluster| {
        VITAL.iter().any(|path| {
            let mut names = path.split('/').filter(|name| !name.is_empty());
            let directory = names.try_fold(cluster, |at, name| child(tree, at, name));
            let files = directory.map(|directory| children(tree, directory, b"", usize::MAX));
            files.into_iter().flatten().any(|(_, found)| found == file)
        })
    })
}

/// Whether `file` is of no use after a crash of the host: whoever starts Postgres then takes it
/// away. Postgres syncs it seven times at a start.
pub(crate) fn is_lock_file(tree: &Tree, file: FileId) -> bool {
    child(tree, FileId::ROOT, LOCK_FILE) == Some(file)
}

fn clusters(tree: &Tree) -> Vec<FileId> {
    let mut clusters = vec![FileId::ROOT];
    if child(tree, FileId::ROOT, "PG_VERSION").is_none() {
        let inside = children(tree, FileId::ROOT, b"", CLUSTERS_MAX);
        clusters.extend(inside.into_iter().map(|(_, file)| file));
    }
    clusters.retain(|directory| child(tree, *directory, "PG_VERSION").is_some());
    clusters
}

fn strip_cluster(tree: &mut Tree, cluster: FileId, layer: LayerId) -> u64 {
    let mut gone = 0;
    for name in FILES {
        gone += tree.hide(cluster, name.as_bytes(), layer);
    }
    for name in EMPTIED {
        if let Some(directory) = child(tree, cluster, name) {
            gone += hide_all(tree, directory, b"", |_| true, layer);
        }
    }
    if let Some(global) = child(tree, cluster, "global") {
        gone += hide_all(tree, global, RELATION_CACHE.as_bytes(), is_relation_cache, layer);
    }
    if let Some(base) = child(tree, cluster, "base") {
        gone += hide_all(tree, base, TEMPORARY.as_bytes(), is_temporary, layer);
        for (_, database) in children(tree, base, b"", usize::MAX) {
            gone += hide_all(tree, database, RELATION_CACHE.as_bytes(), is_relation_cache, layer);
        }
    }
    gone
}

fn is_temporary(name: &[u8]) -> bool {
    name.starts_with(TEMPORARY.as_bytes())
}

fn is_relation_cache(name: &[u8]) -> bool {
    name.starts_with(RELATION_CACHE.as_bytes())
}

/// Hides entries that `which` picks. It is asked only about names from `from` on: a database may
/// have 100,000 relations, whose numbers all sort before the names of interest.
fn hide_all(
    tree: &mut Tree,
    directory: FileId,
    from: &[u8],
    which: impl Fn(&[u8]) -> bool,
    layer: LayerId,
) -> u64 {
    let doomed =
        children(tree, directory, from, usize::MAX).into_iter().filter(|(name, _)| which(name));
    doomed.collect::<Vec<_>>().into_iter().map(|(name, _)| tree.hide(directory, &name, layer)).sum()
}

fn child(tree: &Tree, directory: FileId, name: &str) -> Option<FileId> {
    tree.entry(directory, name.as_bytes()).ok().flatten()
}

/// At most `max` entries whose name is not before `first`.
fn children(tree: &Tree, directory: FileId, first: &[u8], max: usize) -> Vec<(Vec<u8>, FileId)> {
    let Some(inode) = tree.cell(directory).and_then(|cell| locks::read(&cell.inode).ok()) else {
        return Vec::new();
    };
    inode.directory().map_or_else(Vec::new, |directory| {
        directory.from(first).take(max).map(|(name, file)| (name.to_vec(), file)).collect()
    })
}
