//! The consistency check of a store that no process serves.
//!
//! A start is rehearsed on its files, as the next one would go, and what comes out of it is checked
//! like a store in service. Nothing is changed.

use std::path::Path;
use std::sync::Arc;

use crate::claim::Claim;
use crate::disk::{RealDisk, Rehearsal};
use crate::error::Error;
use crate::running::Running;
use crate::store::Store;
use crate::wire::Finding;

/// Data files to keep open though nobody uses them.
const OPEN_FILES: usize = 256;

/// Checks the store in `store_dir`. An error says that there is none, or that it is in use.
pub fn check(store_dir: &Path) -> Result<Vec<Finding>, Error> {
    let claim = Claim::take(store_dir, false)?;
    let disk = Arc::new(Rehearsal::new(Arc::new(RealDisk::new(store_dir))));
    let running = Running {
        open_files: OPEN_FILES,
        run_max: None,
        records_max: 0,
        top_records_max: 0,
        reserve: 0,
    };
    let findings = match Store::open(disk, store_dir, running) {
        Err(Error::Damaged { path, detail }) => Ok(vec![Finding {
            place: path.display().to_string(),
            problem: format!("no branch can be served: {detail}"),
            remedy: "bring the store directory back from a backup; a start changes nothing"
                .to_owned(),
        }]),
        opened => opened?.check(),
    };
    drop(claim);
    findings
}
