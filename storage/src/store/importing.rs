//! Taking a directory in as a branch of its own.

use std::sync::Arc;

use super::{Store, io_error, misfit};
use crate::branch::Parts;
use crate::error::Error;
use crate::id::{BranchId, LayerId};
use crate::import::{INCOMING, Inventory, incoming};
use crate::journal::{BranchEdit, Log};
use crate::layer::Layer;
use crate::load;
use crate::tree::Tree;
use crate::wire::Owner;

/// A layer that is durable and not known yet.
struct Arrived {
    layer: Arc<Layer>,
    tree: Tree,
    logical_bytes: u64,
}

impl Store {
    /// Makes a branch of what lies in the branch's incoming directory; files leave that. The record
    /// that makes the branch known comes last, when every byte is durable. On an error there is no
    /// branch, and the directory may lack files.
    pub(crate) fn import(&self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        self.holdings.media.room.check()?;
        let (id, journal) = self.prepare()?;
        let edit = BranchEdit::Create { branch, owner, top: id };
        let discard = |_: &Error| self.discard(&[id]);
        let arrived = self.take_in(&edit, branch, (id, journal)).inspect_err(discard)?;
        let Arrived { layer, tree, logical_bytes } = arrived;
        let (record, account) = {
            let mut shape = self.shape()?;
            let record = self.record(&mut shape, &edit).inspect_err(discard)?;
            shape.layers.insert(id, layer.clone());
            shape.ledger.created(branch);
            (record, shape.ledger.account(branch))
        };
        // Served only then, so that the layer need not wait for the record at each sync.
        self.sync(record)?;
        let parent = None;
        let max_bytes = None;
        let (id, top) = (branch, layer);
        self.serve(Parts { id, parent, owner, tree, top, logical_bytes, account, max_bytes })
    }

    fn take_in(
        &self,
        edit: &BranchEdit,
        branch: BranchId,
        (id, journal): (LayerId, Log),
    ) -> Result<Arrived, Error> {
        let media = &self.holdings.media;
        let failed = || io_error("import", INCOMING);
        self.shape()?.graph.check(edit).map_err(misfit)?;
        let mut tree = Tree::new(id, 0);
        let inventory = Inventory::take(&*media.disk, &incoming(branch), &mut tree)?;
        inventory.carry_in(&*media.disk, (id, &journal), &mut tree).map_err(failed())?;
        media.disk.sync_all().map_err(failed())?;
        let layer = Arc::new(Layer::new(id, media.clone(), journal, 0, None));
        layer.touch();
        // After the sync, since the file system below may not know its holes before.
        load::restore_data(&layer, &mut tree).map_err(failed())?;
        Ok(Arrived { layer, tree, logical_bytes: inventory.bytes })
    }
}
