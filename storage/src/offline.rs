//! The consistency check of a store that no process serves.
//!
//! A start is rehearsed on its files, as the next one would go, and what comes out of it is checked
//! like a store in service. Nothing is changed.

use std::path::Path;
use std::sync::Arc;

use crate::claim::Claim;
use crate::disk::{RealDisk, Rehearsal};
use crate::error::Error;
use crate::store::{Running, Store};
use crate::wire::Finding;

/// Data files to keep open though nobody uses them.
const OPEN_FILES: usize = 256;

/// Checks the store in `store_dir`. An error says that there is none, or that it is in use.
pub fn check(store_dir: &Path) -> Result<Vec<Finding>, Error> {
    let claim = Claim::take(store_dir, false)?;
    let disk = Arc::new(Rehearsal::new(Arc::new(RealDisk::new(store_dir))));
    let running = Running { open_files: OPEN_FILES, run_max: None, reserve: 0 };
    let findings = Store::open(disk, store_dir, running)?.check();
    drop(claim);
    findings
}
