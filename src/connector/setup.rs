//! Setting a connector up: a trunk with the source's roles and locale, then the first copy.
//!
//! ```text
//! row of the trunk -> incoming/<n>: template, load -> store imports it -> trunk runs -> Active
//! ```
//! The copy is made on the host's own file system, without a thought for a loss of power
//! (`config/load.conf`), and becomes a branch of the store, durable, by the renaming of its files.
//!
//! | ends before | next setup |
//! |---|---|
//! | there are tables | begins anew |
//! | the files are given to the store | goes on with the tables that are not whole |
//! | the row says `Active` | begins anew |
//!
//! It goes on only if the host has run on, the source still keeps its log for us, and no other
//! build left it in a format that this one does not know.
//! A source or a loading Postgres that goes away is waited for, [`RETRIES_MAX`] times in a row
//! without a table more. Then nothing is left, here and on the source.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use proxy::client::Session;
use storage::BranchId;
use tokio::sync::watch;

use super::write_out::write_out;
use super::{ConnectorServices, ConnectorView, SetupError};
use crate::catalog::{BranchKind, BranchRecord, BranchState, ConnectorRecord, NewBranch};
use crate::cause::Causes;
use crate::compute::{ComputeTarget, Lease};
use crate::postgres::{self, Installation};
use crate::replication::{
    self, Link, Means, Opening, RelationFiles, SetupProgress, SlotWal, TrunkAccess,
};
use crate::source::{self, Facts, SourceUrl, TableName};

const MIB: u64 = 1 << 20;
/// How often a first copy is tried again in a row; two minutes with the pauses between.
const RETRIES_MAX: u32 = 8;
/// Pause after an interruption; doubled with each one in a row.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What setup works on.
pub(super) struct Setup {
    pub(super) services: Arc<ConnectorServices>,
    pub(super) record: ConnectorRecord,
    pub(super) source: SourceUrl,
    pub(super) view: watch::Sender<ConnectorView>,
}

impl Setup {
    /// Returns once the trunk is a copy of the source. True if the stream has yet to bring its
    /// tables to one position.
    pub(super) async fn run(self) -> Result<bool, SetupError> {
        let (trunk, warnings) = match self.finished_trunk()? {
            // The copy that an earlier server finished has told what there is to tell.
            Some(trunk) => (trunk, self.record.warnings.clone()),
            None => self.make_trunk().await?,
        };
        let lease = self.services.computes.wake(ComputeTarget::of(&trunk)).await?;
        let access = self.access(&lease);
        let session =
            postgres::Session::connect(&access.socket_dir, &self.record.made.database).await?;
        postgres::grant_mirrored_roles(&session).await?;
        postgres::prepare_database(&session, &self.record.made.database).await?;
        // The first cut would wait for it.
        session.checkpoint().await?;
        let is_uneven = replication::is_uneven(&access).await?;
        self.view.send_modify(|view| {
            view.setup = None;
            view.warnings = warnings;
        });
        Ok(is_uneven)
    }

    /// Makes the trunk and its first copy. Of an attempt that fails nothing is left.
    async fn make_trunk(&self) -> Result<(BranchRecord, Vec<String>), SetupError> {
        self.log_stage("preparing trunk");
        let facts = self.read_facts().await?;
        let major = facts.version / 10_000;
        let installation = self.services.computes.places().installation(major)?.clone();
        let made = match self.begun_trunk(installation.major).await? {
            Some(trunk) => self.fill(trunk, &installation, None).await,
            None => self.make_new_trunk(&facts, &installation).await,
        };
        if made.is_err() {
            abandon(&self.services, &self.record, &self.source).await;
        }
        made
    }

    /// The data directory here and the slot with the schema on the source, each in its time.
    async fn make_new_trunk(
        &self,
        facts: &Facts,
        installation: &Installation,
    ) -> Result<(BranchRecord, Vec<String>), SetupError> {
        remove_trunk(&self.services, &self.record).await?;
        self.check_room().await?;
        for locale in [&facts.collate, &facts.ctype] {
            postgres::local_locale(locale, &facts.encoding).await?;
        }
        self.tell(&SetupProgress::default());
        let link = link(&self.services, &self.record, &self.source)?;
        let opening = pin!(replication::open(&link, &installation.bin_dir));
        let trunk = pin!(self.begin_trunk(installation));
        let (trunk, opening) = match select(trunk, opening).await {
            Either::Left((trunk, opening)) => (trunk?, opening.await?),
            // To its end, come what may: nobody would remove a directory that comes later.
            Either::Right((opening, trunk)) => {
                let trunk = trunk.await;
                (trunk?, opening?)
            }
        };
        self.fill(trunk, installation, Some(opening)).await
    }

    /// The trunk of a first copy that was cut short, if Postgres starts on it.
    async fn begun_trunk(&self, major: u32) -> Result<Option<BranchRecord>, SetupError> {
        let Some(trunk) = find_trunk(&self.services, &self.record)? else { return Ok(None) };
        if trunk.made.major != major || !self.services.data_dir.is_incoming_noted(trunk.number) {
            return Ok(None);
        }
        // Known to this server as a branch of the store, which it is not yet.
        self.services.computes.release(trunk.number).await?;
        match self.services.computes.wake(ComputeTarget::load_of(&trunk)).await {
            Ok(_lease) => Ok(Some(trunk)),
            Err(error) => {
                let (connector, error) = (&self.record.made.name, Causes(&error));
                tracing::warn!(%connector, %error, "first copy begins anew");
                Ok(None)
            }
        }
    }

    async fn begin_trunk(&self, installation: &Installation) -> Result<BranchRecord, SetupError> {
        let trunk = self.insert_trunk(installation.major)?;
        let number = trunk.number;
        let template = self.services.templates.take(&self.services, installation).await?;
        let account = self.services.computes.places().account(number);
        template.place(self.services.data_dir.incoming(number), account).await?;
        self.services.data_dir.note_incoming(number)?;
        Ok(trunk)
    }

    /// Copies the source and gives what came of it to the store. Returns the trunk, and warnings.
    async fn fill(
        &self,
        trunk: BranchRecord,
        installation: &Installation,
        opening: Option<Opening>,
    ) -> Result<(BranchRecord, Vec<String>), SetupError> {
        let number = trunk.number;
        let owner = self.services.computes.places().owner(number);
        let warnings = self.load_at_last(&trunk, installation, opening).await?;
        self.log_stage("taking the copy into the store");
        self.services.data_dir.forget_incoming(number)?;
        self.services.store.import(number, owner).await?;
        self.services.data_dir.remove_incoming(number).await?;
        self.services.catalog.set_connector_warnings(self.record.id, &warnings)?;
        self.services.catalog.set_branch_state(number, BranchState::Active)?;
        Ok((trunk, warnings))
    }

    /// Loads as often as it is interrupted, within reason.
    async fn load_at_last(
        &self,
        trunk: &BranchRecord,
        installation: &Installation,
        mut opening: Option<Opening>,
    ) -> Result<Vec<String>, SetupError> {
        let (mut failures, mut whole, mut pause) = (0, 0, RETRY_PAUSE_MIN);
        loop {
            let error = match self.load(trunk, installation, opening.take()).await {
                Ok(warnings) => return Ok(warnings),
                Err(error) => error,
            };
            let now_whole = self.view.borrow().setup.as_ref().map_or(0, |setup| setup.tables_done);
            if now_whole > whole {
                (failures, whole, pause) = (0, now_whole, RETRY_PAUSE_MIN);
            }
            let is_passing =
                error.is_interruption() || failures > 0 && matches!(error, SetupError::Compute(_));
            if !is_passing || failures >= RETRIES_MAX {
                return Err(error);
            }
            failures += 1;
            let (connector, error) = (&self.record.made.name, Causes(&error).to_string());
            tracing::warn!(%connector, error, "first copy interrupted");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// Makes the first copy, in a compute that does not care for durability. Returns warnings.
    async fn load(
        &self,
        trunk: &BranchRecord,
        installation: &Installation,
        opening: Option<Opening>,
    ) -> Result<Vec<String>, SetupError> {
        let lease = self.start_loading(trunk).await?;
        let access = self.access(&lease);
        let link = link(&self.services, &self.record, &self.source)?;
        let report = |progress: &SetupProgress| self.tell(progress);
        let jobs = self.services.config.replication.copy_jobs;
        let means = Means { bin_dir: &installation.bin_dir, jobs, opening };
        let copy = replication::setup(&link, &access, means, &report);
        let copied = tokio::select! {
            copied = copy => copied?,
            never = write_out(self.services.data_dir.incoming(trunk.number)) => match never {},
        };
        drop(lease);
        self.services.computes.release(trunk.number).await?;
        Ok(copied.warnings)
    }

    /// Starts the compute anew: what one that was killed left is told while none runs.
    async fn start_loading(&self, trunk: &BranchRecord) -> Result<Lease, SetupError> {
        let computes = &self.services.computes;
        computes.release(trunk.number).await?;
        let files = RelationFiles::list(&self.services.data_dir.incoming(trunk.number))?;
        let lease = computes.wake(ComputeTarget::load_of(trunk)).await?;
        files.remove_orphans(&self.access(&lease)).await;
        Ok(lease)
    }

    fn access(&self, lease: &Lease) -> TrunkAccess {
        TrunkAccess {
            socket_dir: lease.compute().socket_dir().to_owned(),
            database: self.record.made.database.clone(),
        }
    }

    async fn read_facts(&self) -> Result<Facts, SetupError> {
        let session = Session::open(&self.source.pinned()).await?;
        let facts = source::read_facts(&session).await;
        session.close().await;
        Ok(facts?)
    }

    /// Refuses a copy that would take what is kept for branches that exist. A guess: the copy has
    /// no dead rows.
    async fn check_room(&self) -> Result<(), SetupError> {
        let session = Session::open(&self.source.pinned()).await?;
        let link = link(&self.services, &self.record, &self.source)?;
        let tables = source::tables(&session, &link.schemas).await;
        session.close().await;
        let followed = tables?.into_iter().filter(|table| link.follows(&table.name));
        let needed: u64 = followed.map(|table| table.total_bytes).sum();
        let space = rustix::fs::statvfs(self.services.data_dir.store()).map_err(io::Error::from)?;
        let available = space.f_bavail.saturating_mul(space.f_frsize);
        let reserve = self.services.config.store.reserve_mb.saturating_mul(MIB);
        if needed.saturating_add(reserve) <= available {
            return Ok(());
        }
        Err(SetupError::NoRoom { needed, available, reserve })
    }

    /// The trunk of an earlier attempt, if its copy is whole and durable.
    fn finished_trunk(&self) -> Result<Option<BranchRecord>, SetupError> {
        let trunk = find_trunk(&self.services, &self.record)?;
        Ok(trunk.filter(|trunk| trunk.state == BranchState::Active))
    }

    fn tell(&self, progress: &SetupProgress) {
        self.view.send_modify(|view| {
            if view.setup.as_ref().map(|before| before.stage) != Some(progress.stage) {
                self.log_stage(progress.stage.as_str());
            }
            view.setup = Some(progress.clone());
        });
    }

    fn log_stage(&self, stage: &str) {
        tracing::info!(connector = %self.record.made.name, stage, "setup");
    }

    fn insert_trunk(&self, major: u32) -> Result<BranchRecord, SetupError> {
        Ok(self.services.catalog.insert_branch(&NewBranch {
            kind: BranchKind::Trunk,
            connector: self.record.id,
            name: format!("trunk-of-{}", self.record.made.name),
            endpoint: None,
            parent: None,
            major,
            database: self.record.made.database.clone(),
            role: postgres::OWNER_ROLE.to_owned(),
            password: None,
            verifier: None,
            default_database: None,
            max_size_bytes: None,
        })?)
    }
}

/// The row of a connector's trunk, finished or not.
pub(super) fn find_trunk(
    services: &ConnectorServices,
    record: &ConnectorRecord,
) -> Result<Option<BranchRecord>, crate::catalog::CatalogError> {
    let is_trunk = |branch: &BranchRecord| {
        branch.made.kind == BranchKind::Trunk && branch.made.connector == record.id
    };
    Ok(services.catalog.branches()?.into_iter().find(is_trunk))
}

/// Leaves nothing of a setup that failed, here and on the source. What cannot be removed now, the
/// next setup removes, or the deletion of the connector.
pub(super) async fn abandon(
    services: &ConnectorServices,
    record: &ConnectorRecord,
    source: &SourceUrl,
) {
    let connector = &record.made.name;
    if let Err(error) = remove_trunk(services, record).await {
        tracing::warn!(%connector, error = %Causes(&error), "an unfinished trunk is left");
    }
    if let Err(error) = replication::drop_source_objects(source, &record.id.to_string()).await {
        tracing::warn!(%connector, error = %Causes(&error), "a slot is left on the source");
    }
}

/// Removes a trunk, however far it got.
pub(super) async fn remove_trunk(
    services: &ConnectorServices,
    record: &ConnectorRecord,
) -> Result<(), SetupError> {
    let Some(trunk) = find_trunk(services, record)? else { return Ok(()) };
    let number: BranchId = trunk.number;
    services.computes.remove(number).await?;
    services.data_dir.remove_incoming(number).await?;
    services.store.delete(number).await?;
    services.computes.remove_wal(number).await?;
    services.catalog.delete_branch(number)?;
    Ok(())
}

/// The two ends of a connector, as replication sees them.
pub(super) fn link(
    services: &ConnectorServices,
    record: &ConnectorRecord,
    source: &SourceUrl,
) -> Result<Link, SetupError> {
    let limits = &services.config.replication;
    let decisions: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&record.made.decisions)
            .map_err(|_| crate::catalog::CatalogError::Damaged("replica identity decisions"))?;
    let excluded = decisions
        .into_iter()
        .filter(|(_, decision)| decision == EXCLUDE)
        .filter_map(|(table, _)| {
            let (schema, name) = table.split_once('.')?;
            Some(TableName { schema: schema.to_owned(), name: name.to_owned() })
        })
        .collect();
    Ok(Link {
        connector: record.id.to_string(),
        source: source.clone(),
        schemas: record.made.schemas.clone(),
        excluded,
        plugin: source::Plugin::named(&record.made.plugin)
            .ok_or(crate::catalog::CatalogError::Damaged("plugin"))?,
        slot_wal: SlotWal {
            alarm_bytes: limits.slot_wal_alarm_mb.saturating_mul(MIB),
            drop_bytes: limits.slot_wal_drop_mb.saturating_mul(MIB),
        },
    })
}

/// The decision that leaves a table out.
pub const EXCLUDE: &str = "exclude";
