//! The first copy of a source, in stages.
//!
//! Order and why: the slot first, because its snapshot is the moment everything is copied at; roles
//! and extensions before the schema that names them; rows before indexes and constraints, which are
//! cheaper and cannot fail half-way then; sequences; the progress row last, because its presence is
//! what says the copy is whole. A setup that died before that starts from scratch: nothing of it is
//! worth the doubt.

mod copy;
mod database;
mod extensions;
mod foreign_keys;
mod roles;
mod schema;
mod snapshot;

pub(super) use database::maintenance_database;
pub(super) use extensions::is_extension_allowed;
pub(super) use roles::mirror_again as mirror_roles;
pub(super) use snapshot::{FILE_SQL, Snapshot};

use std::path::Path;

use proxy::client::Session;

use crate::lsn::Lsn;
use crate::source::{self, Plugin, Table, TableName};

use super::ddl;
use super::error::{Error, at_source, at_trunk};
use super::format;
use super::link::{Link, TrunkAccess};
use super::progress;
use super::publication;
use super::sequences;
use super::settings;

/// How far setup is. Every call tells the whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetupProgress {
    /// The stage at work.
    pub stage: Stage,
    /// The tables being copied.
    pub copying: Vec<TableProgress>,
    /// Tables done.
    pub tables_done: u64,
    /// Tables to do.
    pub tables_total: u64,
    /// Bytes of source heap copied.
    pub bytes_done: u64,
    /// Bytes of source heap to copy.
    pub bytes_total: u64,
    /// Rows copied.
    pub rows: u64,
    /// How fast the copy has been so far, as bytes of source heap.
    pub bytes_per_second: u64,
}

/// How far the copy of one table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableProgress {
    /// The table.
    pub table: TableName,
    /// Bytes of its heap copied.
    pub bytes_done: u64,
    /// Bytes of its heap.
    pub bytes_total: u64,
    /// Rows copied.
    pub rows: u64,
}

impl TableProgress {
    fn new(table: TableName, bytes_total: u64) -> Self {
        Self { table, bytes_done: 0, bytes_total, rows: 0 }
    }
}

/// The stages of setup, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Making the slot and its snapshot; waits for transactions open on the source.
    #[default]
    Slot,
    /// Making the trunk's database, roles and extensions.
    Roles,
    /// Making tables and types.
    Schema,
    /// Copying rows.
    Copy,
    /// Making indexes, constraints and triggers.
    Indexes,
    /// Setting sequences and recording the position.
    Finish,
    /// The trunk is a copy of the source.
    Done,
}

impl Stage {
    /// The word for it in status and progress lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "creating slot",
            Self::Roles => "creating roles",
            Self::Schema => "creating tables",
            Self::Copy => "copying",
            Self::Indexes => "creating indexes",
            Self::Finish => "finishing",
            Self::Done => "done",
        }
    }
}

/// A finished setup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupOutcome {
    /// The copy holds exactly what was committed on the source before this position.
    pub lsn: Lsn,
    /// What is not carried, or not as on the source.
    pub warnings: Vec<String>,
}

/// Copies the source into the trunk. Where an earlier setup finished, does nothing; where one died,
/// starts from scratch. `bin_dir` holds the `pg_dump` of the trunk's installation; `jobs` sessions
/// copy at once, and as many make indexes.
pub async fn setup(
    link: &Link,
    trunk: &TrunkAccess,
    bin_dir: &Path,
    jobs: usize,
    report: &(dyn Fn(&SetupProgress) + Send + Sync),
) -> Result<SetupOutcome, Error> {
    if let Some(lsn) = progress::finished(link, trunk).await? {
        return Ok(SetupOutcome { lsn, warnings: Vec::new() });
    }
    super::drop_source_objects(&link.source, &link.connector).await?;
    let mut state = SetupProgress::default();
    report(&state);
    let outcome = match begin(link).await {
        Ok(snapshot) => {
            let setup = Setup { link, trunk, bin_dir, jobs, snapshot: &snapshot, report };
            let outcome = setup.run(&mut state).await;
            snapshot.release().await;
            outcome
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // A slot would hold log on the source for nobody. If this fails too, the next attempt or
        // the deletion of the connector drops it.
        drop(super::drop_source_objects(&link.source, &link.connector).await);
    }
    outcome
}

/// No log carries large objects, so none are copied either.
async fn large_objects(source: &Session) -> Result<Option<String>, Error> {
    let sql = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
    let row = source.query_one(sql, &[]).await.map_err(at_source)?;
    let count: i64 = row.try_get(0).map_err(at_source)?;
    Ok((count > 0).then(|| format!("{count} large objects are not carried over")))
}

/// What stands on the source before the first row is copied. The event triggers come before the
/// slot, so that no schema change falls between its snapshot and their first message.
async fn begin(link: &Link) -> Result<Snapshot, Error> {
    ddl::install(link).await?;
    if link.plugin == Plugin::Pgoutput {
        publication::create(link).await?;
    }
    Snapshot::take(link).await
}

struct Setup<'a> {
    link: &'a Link,
    trunk: &'a TrunkAccess,
    bin_dir: &'a Path,
    jobs: usize,
    snapshot: &'a Snapshot,
    report: &'a (dyn Fn(&SetupProgress) + Send + Sync),
}

impl Setup<'_> {
    async fn run(&self, state: &mut SetupProgress) -> Result<SetupOutcome, Error> {
        let source = &self.snapshot.session;
        let facts = source::read_facts(source).await?;
        let tables = self.followed_tables(source).await?;
        self.snapshot.lock(&tables).await?;
        state.tables_total = u64::try_from(tables.len()).unwrap_or(u64::MAX);
        state.bytes_total = tables.iter().map(|table| table.bytes).sum();
        self.enter(state, Stage::Roles);
        let mut warnings = database::recreate(self.trunk, &facts).await?;
        let system = self.open_system().await?;
        warnings.extend(roles::mirror(&system, &facts).await?);
        warnings.extend(extensions::create(&system, &facts).await?);
        format::create(&system).await?;
        self.enter(state, Stage::Schema);
        let dump = schema::Dump::take(self).await?;
        self.snapshot.unlock().await?;
        roles::begin_restore(&system, &self.trunk.database).await?;
        warnings.extend(dump.restore_tables(self).await?);
        self.enter(state, Stage::Copy);
        warnings.extend(copy::copy_tables(self, &tables, facts.version, state).await?);
        self.enter(state, Stage::Indexes);
        warnings.extend(dump.restore_rest(self).await?);
        warnings.extend(foreign_keys::add_unvalidated_keys(self).await?);
        roles::end_restore(&system, &facts).await?;
        let wanted = settings::read(self.link).await?;
        warnings.extend(settings::mirror(&system, &self.trunk.database, &wanted).await?);
        warnings.extend(large_objects(source).await?);
        self.enter(state, Stage::Finish);
        warnings.extend(progress::disable_replica_triggers(self.trunk).await?);
        ddl::remember_all(source, &system, &self.link.schemas).await?;
        self.set_sequences(source).await?;
        progress::begin(&system, self.link, &self.snapshot.identity, self.snapshot.lsn).await?;
        system.close().await;
        self.enter(state, Stage::Done);
        Ok(SetupOutcome { lsn: self.snapshot.lsn, warnings })
    }

    async fn followed_tables(&self, source: &Session) -> Result<Vec<Table>, Error> {
        let mut tables = source::tables(source, &self.link.schemas).await?;
        tables.retain(|table| self.link.follows(&table.name));
        Ok(tables)
    }

    async fn open_system(&self) -> Result<Session, Error> {
        Session::open(&self.trunk.as_system(&self.trunk.database)).await.map_err(at_trunk)
    }

    /// Read after the snapshot: a sequence may be ahead of the rows, as in any running database,
    /// and never behind them.
    async fn set_sequences(&self, source: &Session) -> Result<(), Error> {
        let values = sequences::read(source, &self.link.schemas).await.map_err(at_source)?;
        let apply = Session::open(&self.trunk.as_apply("")).await.map_err(at_trunk)?;
        sequences::set(&apply, &values).await.map_err(at_trunk)?;
        apply.close().await;
        Ok(())
    }

    fn enter(&self, state: &mut SetupProgress, stage: Stage) {
        state.stage = stage;
        state.copying.clear();
        (self.report)(state);
    }
}
