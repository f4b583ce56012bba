//! What a first copy needs of its source before it needs a trunk, so that the trunk can be made
//! meanwhile.

use std::path::Path;

use crate::source::{self, Facts, Plugin, Table};

use super::super::ddl;
use super::super::error::Error;
use super::super::link::Link;
use super::super::publication;
use super::Extent;
use super::schema;
use super::snapshot::Snapshot;

/// A moment of the source that is kept, and what there is at it.
pub(super) struct Moment {
    pub(super) snapshot: Snapshot,
    pub(super) facts: Facts,
    /// Those that are followed.
    pub(super) tables: Vec<Table>,
}

/// The moment that everything is copied at, with a dump of its schema. One that is dropped leaves
/// objects on the source, its slot among them.
pub struct Opening {
    moment: Moment,
    dump: Vec<u8>,
}

/// Begins a first copy at its source. Waits for transactions that are open there.
///
/// The event triggers come before the slot, so that no schema change falls between its snapshot
/// and their first message.
pub async fn open(link: &Link, bin_dir: &Path) -> Result<Opening, Error> {
    super::super::drop_source_objects(&link.source, &link.connector).await?;
    ddl::install(link).await?;
    if link.plugin == Plugin::Pgoutput {
        publication::create(link).await?;
    }
    let moment = Moment::of(link, Snapshot::take(link).await?).await?;
    // No longer than the dump takes: whoever wants a table exclusively waits for it.
    moment.snapshot.lock(&moment.tables).await?;
    let dump = schema::dump(link, &moment.snapshot, bin_dir).await?;
    moment.snapshot.unlock().await?;
    Ok(Opening { moment, dump })
}

impl Moment {
    pub(super) async fn of(link: &Link, snapshot: Snapshot) -> Result<Self, Error> {
        let facts = source::read_facts(&snapshot.session).await?;
        let mut tables = source::tables(&snapshot.session, &link.schemas).await?;
        tables.retain(|table| link.follows(&table.name));
        Ok(Self { snapshot, facts, tables })
    }
}

impl Opening {
    pub(super) fn into_parts(self) -> (Moment, Extent) {
        (self.moment, Extent::All(self.dump))
    }
}
