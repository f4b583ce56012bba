//! The first copy of a source, in stages.
//!
//! Order and why: the slot first, because its snapshot is the moment everything is copied at; roles
//! and extensions before the schema that names them; rows before indexes and constraints, which are
//! cheaper and cannot fail half-way then; sequences; the progress row last, because its presence is
//! what says the copy is whole. A setup that died before that goes on with the tables that are not
//! whole ([`resume`]); one that died before the first row starts from scratch.

mod copy;
mod database;
mod extensions;
mod foreign_keys;
mod materialized_views;
mod opening;
mod orphans;
mod resume;
mod roles;
mod schema;
mod snapshot;

pub(super) use database::{literal, maintenance_database};
pub(super) use extensions::is_extension_allowed;
pub use opening::{Opening, open};
pub use orphans::RelationFiles;
pub(super) use roles::mirror_again as mirror_roles;
pub(super) use snapshot::{Snapshot, file_sql};

use std::path::Path;

use proxy::client::Session;

use crate::lsn::Lsn;
use crate::source::{Facts, Table, TableName};

use super::ddl;
use super::error::{Action, Error, at_source, at_trunk};
use super::format;
use super::ledger::{self, Entry, Ledger, Unmet};
use super::link::{Link, TrunkAccess};
use super::progress::{self, Progress};
use super::sequences;
use super::settings;
use opening::Moment;
use resume::Earlier;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Following the source until all tables are at one position.
    CatchUp,
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
            Self::CatchUp => "catching up",
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

/// What a first copy is made with.
pub struct Means<'a> {
    /// Where the `pg_dump` of the trunk's installation is.
    pub bin_dir: &'a Path,
    /// So many sessions copy at once, and as many make indexes.
    pub jobs: usize,
    /// For a trunk that is new; taken by the copy itself if there is none.
    pub opening: Option<Opening>,
}

/// Copies the source into the trunk. Where an earlier setup finished, does nothing; where one was
/// cut short, goes on.
///
/// After [`Error::Interrupted`] what is copied stays, and with it the slot: the caller calls again,
/// or drops the source's objects. After any other error they are gone.
pub async fn setup(
    link: &Link,
    trunk: &TrunkAccess,
    Means { bin_dir, jobs, opening }: Means<'_>,
    report: &(dyn Fn(&SetupProgress) + Send + Sync),
) -> Result<SetupOutcome, Error> {
    let mut state = SetupProgress::default();
    report(&state);
    let found = match &opening {
        Some(_) => Ok(None),
        None => resume::find(link, trunk).await,
    };
    let is_resumed = !matches!(found, Ok(None));
    let begun = match (opening, found) {
        (_, Ok(Some(Earlier::Finished(lsn)))) => {
            return Ok(SetupOutcome { lsn, warnings: Vec::new() });
        }
        (_, Ok(Some(Earlier::CutShort(found)))) => {
            let (ledger, snapshot) = *found;
            Moment::of(link, snapshot).await.map(|moment| (moment, Extent::Rest(ledger)))
        }
        (Some(opening), Ok(None)) => Ok(opening.into_parts()),
        (None, Ok(None)) => open(link, bin_dir).await.map(Opening::into_parts),
        (_, Err(error)) => Err(error),
    };
    let outcome = match begun {
        Ok((moment, extent)) => {
            let snapshot = &moment.snapshot;
            let setup = Setup { link, trunk, bin_dir, jobs, snapshot, is_resumed, report };
            setup.run(&moment, extent, &mut state).await
        }
        Err(error) => Err(error),
    };
    let has_ledger = is_resumed || state.stage >= Stage::Copy;
    match outcome {
        Err(error) if has_ledger && may_pass(&error) => Err(Error::Interrupted(Box::new(error))),
        Err(error) => {
            // A slot would hold log on the source for nobody. If this fails too, the next attempt
            // or the deletion of the connector drops it.
            drop(super::drop_source_objects(&link.source, &link.connector).await);
            Err(error)
        }
        outcome => outcome,
    }
}

/// A program that fails says not whether the trunk went away under it.
fn may_pass(error: &Error) -> bool {
    error.action() == Action::Retry || matches!(error, Error::ProgramFailed { .. })
}

/// No log carries large objects, so none are copied either.
async fn large_objects(source: &Session) -> Result<Option<String>, Error> {
    let sql = "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata";
    let row = source.query_one(sql, &[]).await.map_err(at_source)?;
    let count: i64 = row.try_get(0).map_err(at_source)?;
    Ok((count > 0).then(|| format!("{count} large objects are not carried over")))
}

/// What there is to do.
enum Extent {
    /// Everything, with a dump of the schema.
    All(Vec<u8>),
    /// What an earlier setup did not come to.
    Rest(Ledger),
}

struct Setup<'a> {
    link: &'a Link,
    trunk: &'a TrunkAccess,
    bin_dir: &'a Path,
    jobs: usize,
    snapshot: &'a Snapshot,
    /// The snapshot is not the first one.
    is_resumed: bool,
    report: &'a (dyn Fn(&SetupProgress) + Send + Sync),
}

/// A trunk that is ready for rows.
struct Begun {
    system: Session,
    ledger: Ledger,
    dump: schema::Dump,
    /// To be copied.
    tables: Vec<Table>,
}

impl Setup<'_> {
    async fn run(
        &self,
        moment: &Moment,
        extent: Extent,
        state: &mut SetupProgress,
    ) -> Result<SetupOutcome, Error> {
        let Moment { facts, tables, .. } = moment;
        state.tables_total = u64::try_from(tables.len()).unwrap_or(u64::MAX);
        state.bytes_total = tables.iter().map(|table| table.bytes).sum();
        let begun = match extent {
            Extent::All(dump) => self.make_tables((facts, tables), dump, state).await?,
            Extent::Rest(ledger) => resume::go_on(self, ledger, (facts, tables), state).await?,
        };
        self.fill(begun, facts, state).await
    }

    async fn make_tables(
        &self,
        (facts, tables): (&Facts, &[Table]),
        dump: Vec<u8>,
        state: &mut SetupProgress,
    ) -> Result<Begun, Error> {
        let source = &self.snapshot.session;
        self.enter(state, Stage::Roles);
        let (system, mut warnings) = self.make_database(facts).await?;
        self.enter(state, Stage::Schema);
        roles::begin_restore(&system, &self.trunk.database).await?;
        let unpacked = schema::Dump::unpack(self, &dump).await?;
        warnings.extend(unpacked.restore_tables(self).await?);
        ddl::remember_all(source, &system, &self.link.schemas).await?;
        let ledger = self.ledger(dump, tables, warnings).await?;
        ledger.open(&system).await?;
        Ok(Begun { system, ledger, dump: unpacked, tables: tables.to_vec() })
    }

    /// A database with the source's roles and extensions. Returns a session in it, and warnings.
    async fn make_database(&self, facts: &Facts) -> Result<(Session, Vec<String>), Error> {
        let mut warnings = database::recreate(self.trunk, facts).await?;
        let system = self.open_system().await?;
        warnings.extend(roles::mirror(&system, facts).await?);
        warnings.extend(extensions::create(&system, facts).await?);
        format::create(&system).await?;
        Ok((system, warnings))
    }

    async fn ledger(
        &self,
        dump: Vec<u8>,
        tables: &[Table],
        warnings: Vec<String>,
    ) -> Result<Ledger, Error> {
        let Snapshot { session, lsn, identity, .. } = self.snapshot;
        let mut shapes = resume::shapes(self).await?;
        let enter = |table: &Table| Entry {
            table: table.name.clone(),
            shape: shapes.remove(&table.name).unwrap_or_default(),
            copied: None,
        };
        let foreign_keys = foreign_keys::read(session, &self.link.schemas).await;
        Ok(Ledger {
            origin: Progress {
                identity: *identity,
                slot: self.link.slot(),
                lsn: *lsn,
                idle_lsn: *lsn,
                commit_time_us: None,
            },
            terms: ledger::terms(self.link),
            dump,
            foreign_keys: foreign_keys.map_err(at_source)?,
            warnings,
            tables: tables.iter().map(enter).collect(),
        })
    }

    async fn fill(
        &self,
        Begun { system, ledger, dump, tables }: Begun,
        facts: &Facts,
        state: &mut SetupProgress,
    ) -> Result<SetupOutcome, Error> {
        let source = &self.snapshot.session;
        let mut warnings = ledger.warnings;
        self.enter(state, Stage::Copy);
        warnings.extend(copy::copy_tables(self, &tables, facts.version, state).await?);
        self.enter(state, Stage::Indexes);
        warnings.extend(dump.restore_rest(self).await?);
        let unmet = foreign_keys::add_unvalidated(self, &ledger.foreign_keys).await?;
        warnings.extend(materialized_views::refresh(self).await?);
        roles::end_restore(&system, facts).await?;
        let wanted = settings::read(self.link).await?;
        warnings.extend(settings::mirror(&system, &self.trunk.database, &wanted).await?);
        warnings.extend(large_objects(source).await?);
        self.enter(state, Stage::Finish);
        warnings.extend(progress::disable_replica_triggers(self.trunk).await?);
        self.set_sequences(source).await?;
        warnings.extend(self.close(&system, &ledger.origin, unmet).await?);
        system.close().await;
        self.enter(state, Stage::Done);
        Ok(SetupOutcome { lsn: ledger.origin.lsn, warnings })
    }

    /// Makes the trunk count as a copy. Returns what stays as it is.
    async fn close(
        &self,
        system: &Session,
        origin: &Progress,
        unmet: Unmet,
    ) -> Result<Vec<String>, Error> {
        let row = system.query_one(UNEVEN_SQL, &[&origin.lsn.to_string()]).await;
        let is_uneven: bool = row.and_then(|row| row.try_get(0)).map_err(at_trunk)?;
        system.batch_execute("BEGIN").await.map_err(at_trunk)?;
        progress::begin(system, self.link, &origin.identity, origin.lsn).await?;
        Ledger::close(system, is_uneven.then_some(&unmet)).await?;
        system.batch_execute("COMMIT").await.map_err(at_trunk)?;
        Ok(if is_uneven { Vec::new() } else { unmet.warnings() })
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

const UNEVEN_SQL: &str = "\
SELECT EXISTS (SELECT FROM ardent.copied WHERE lsn > $1::text::pg_lsn)
    OR EXISTS (SELECT FROM ardent.quarantine WHERE is_resync_due)";
