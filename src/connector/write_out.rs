//! Writes a first copy out while it is made. Its computes sync nothing, so without this the import
//! would wait for the disk to take all of the copy at once, with every processor idle.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// Long enough for the disk to have something to do, short enough to leave the import little.
const INTERVAL: Duration = Duration::from_secs(2);

/// Runs until dropped. What cannot be written now is for the import to say: it syncs once more.
pub(super) async fn write_out(directory: PathBuf) -> Infallible {
    let mut looks = interval(INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let directory = directory.clone();
        let written = tokio::task::spawn_blocking(move || sync(&directory)).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "a copy is not written out early");
        }
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}
