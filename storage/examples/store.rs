//! The store process by itself, for measurements: `store <store dir> <mount dir> <socket>`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [store_dir, mount_dir, socket] = paths.as_slice() else {
        eprintln!("usage: store <store dir> <mount dir> <socket>");
        return ExitCode::from(2);
    };
    let config = storage::StoreConfig {
        store_dir: store_dir.clone(),
        mount_dir: mount_dir.clone(),
        socket: socket.clone(),
    };
    match storage::daemon::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}
