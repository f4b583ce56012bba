//! What the process that runs a store decides about it.

/// How a store is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    /// Data files to keep open though nobody uses them.
    pub(crate) open_files: usize,
    /// How many layers that could be merged may lie on each other; see [`Keeper::start`]. Without
    /// it the keeper does not work: nothing but requests touches the disk.
    pub(crate) run_max: Option<usize>,
    /// Records that `branches.journal` may hold before it is compacted.
    pub(crate) records_max: u64,
    /// The same for the journal of the top layer of each branch.
    pub(crate) top_records_max: u64,
    /// Bytes of the disk that are kept for branches that exist; see `room.rs`.
    pub(crate) reserve: u64,
}
