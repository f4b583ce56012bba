//! Setting a connector up: a trunk with the source's roles and locale, then the first copy.
//!
//! ```text
//! row of the trunk -> incoming/<n>: initdb, load -> store imports it -> trunk runs -> row: Active
//! ```
//! The copy is made on the host's own file system, without a thought for durability
//! (`config/load.conf`), and becomes a branch of the store, durable, by the renaming of its files.
//! Whatever ends before the row says `Active` is thrown away and made again.

use std::io;
use std::sync::Arc;

use proxy::client::Session;
use storage::BranchId;
use tokio::sync::watch;

use super::write_out::write_out;
use super::{ConnectorServices, ConnectorView, SetupError};
use crate::catalog::{BranchKind, BranchRecord, BranchState, ConnectorRecord, NewBranch};
use crate::compute::ComputeTarget;
use crate::postgres::{self, Installation, LocaleProvider, TemplateSpec};
use crate::replication::{self, Link, SetupProgress, SlotWal, TrunkAccess};
use crate::source::{self, Facts, SourceUrl, TableName};

const MIB: u64 = 1 << 20;

/// What setup works on.
pub(super) struct Setup {
    pub(super) services: Arc<ConnectorServices>,
    pub(super) record: ConnectorRecord,
    pub(super) source: SourceUrl,
    pub(super) view: watch::Sender<ConnectorView>,
}

impl Setup {
    /// Returns once the trunk is a copy of the source.
    pub(super) async fn run(self) -> Result<(), SetupError> {
        let (trunk, warnings) = match self.finished_trunk()? {
            // The copy that an earlier server finished has told what there is to tell.
            Some(trunk) => (trunk, self.record.warnings.clone()),
            None => self.make_trunk().await?,
        };
        let lease = self.services.computes.wake(ComputeTarget::of(&trunk)).await?;
        let socket_dir = lease.compute().socket_dir();
        let session = postgres::Session::connect(socket_dir, &self.record.made.database).await?;
        postgres::grant_mirrored_roles(&session).await?;
        postgres::prepare_database(&session, &self.record.made.database).await?;
        // The first cut would wait for it.
        session.checkpoint().await?;
        self.services.catalog.set_branch_state(trunk.number, BranchState::Active)?;
        self.view.send_modify(|view| {
            view.setup = None;
            view.warnings = warnings;
        });
        Ok(())
    }

    /// Makes the trunk and its first copy. Of an attempt that fails nothing is left.
    async fn make_trunk(&self) -> Result<(BranchRecord, Vec<String>), SetupError> {
        self.log_stage("preparing trunk");
        remove_trunk(&self.services, &self.record).await?;
        let facts = self.read_facts().await?;
        let major = facts.version / 10_000;
        let installation = self.services.computes.places().installation(major)?.clone();
        let trunk = self.insert_trunk(installation.major)?;
        let made = self.fill(&trunk, &facts, &installation).await;
        if made.is_err()
            && let Err(error) = remove_trunk(&self.services, &self.record).await
        {
            tracing::warn!(connector = %self.record.made.name, %error, "an unfinished trunk is left");
        }
        Ok((trunk, made?))
    }

    /// Copies the source and gives what came of it to the store. Returns warnings.
    async fn fill(
        &self,
        trunk: &BranchRecord,
        facts: &Facts,
        installation: &Installation,
    ) -> Result<Vec<String>, SetupError> {
        let number = trunk.number;
        let owner = self.services.computes.places().owner(number);
        postgres::create_template(self.template(trunk, facts)?).await?;
        let warnings = self.load(trunk, installation).await?;
        self.log_stage("taking the copy into the store");
        self.services.store.import(number, owner).await?;
        self.services.data_dir.remove_incoming(number).await?;
        self.services.catalog.set_connector_warnings(self.record.id, &warnings)?;
        Ok(warnings)
    }

    /// Makes the first copy, in a compute that does not care for durability. Returns warnings.
    async fn load(
        &self,
        trunk: &BranchRecord,
        installation: &Installation,
    ) -> Result<Vec<String>, SetupError> {
        let computes = &self.services.computes;
        let lease = computes.wake(ComputeTarget::load_of(trunk)).await?;
        let access = TrunkAccess {
            socket_dir: lease.compute().socket_dir().to_owned(),
            database: self.record.made.database.clone(),
        };
        let link = link(&self.services, &self.record, &self.source)?;
        let report = |progress: &SetupProgress| {
            self.view.send_modify(|view| {
                if view.setup.as_ref().map(|before| before.stage) != Some(progress.stage) {
                    self.log_stage(progress.stage.as_str());
                }
                view.setup = Some(progress.clone());
            });
        };
        let jobs = self.services.config.replication.copy_jobs;
        let copy = replication::setup(&link, &access, &installation.bin_dir, jobs, &report);
        let copied = tokio::select! {
            copied = copy => copied?,
            never = write_out(self.services.data_dir.incoming(trunk.number)) => match never {},
        };
        drop(lease);
        computes.release(trunk.number).await?;
        Ok(copied.warnings)
    }

    async fn read_facts(&self) -> Result<Facts, SetupError> {
        let session = Session::open(&self.source.pinned()).await?;
        let facts = source::read_facts(&session).await?;
        let link = link(&self.services, &self.record, &self.source)?;
        let mut tables = source::tables(&session, &link.schemas).await?;
        session.close().await;
        tables.retain(|table| link.follows(&table.name));
        self.check_room(tables.iter().map(|table| table.total_bytes).sum())?;
        Ok(facts)
    }

    /// Refuses a copy that would take what is kept for branches that exist. A guess: the copy has
    /// no dead rows.
    fn check_room(&self, needed: u64) -> Result<(), SetupError> {
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

    fn template(&self, trunk: &BranchRecord, facts: &Facts) -> Result<TemplateSpec, SetupError> {
        Ok(TemplateSpec {
            installation: self.services.computes.places().installation(trunk.made.major)?.clone(),
            data_dir: self.services.data_dir.incoming(trunk.number),
            account: self.services.computes.places().account(trunk.number),
            scratch_dir: self.services.data_dir.run().join(format!("{}.initdb", trunk.number)),
            user: self.services.config.compute.user.clone(),
            database: self.record.made.database.clone(),
            encoding: facts.encoding.clone(),
            collate: facts.collate.clone(),
            ctype: facts.ctype.clone(),
            provider: facts.icu_locale.clone().map_or(LocaleProvider::Libc, LocaleProvider::Icu),
            settings: Vec::new(),
        })
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
