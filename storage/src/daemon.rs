//! The body of the `ardent store` process.

use std::path::PathBuf;

use crate::error::Error;

/// Where the store lives and how it is reached.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Directory of layers and journals.
    pub store_dir: PathBuf,
    /// Directory under which branches appear, one each, by decimal number.
    pub mount_dir: PathBuf,
    /// Unix control socket.
    pub socket: PathBuf,
}

/// Serves the store until a `shutdown` request, SIGTERM or SIGINT.
///
/// Prints one line, `ready`, on standard output once mount and socket serve.
pub fn run(config: StoreConfig) -> Result<(), Error> {
    Err(Error::InUse { dir: config.store_dir })
}
