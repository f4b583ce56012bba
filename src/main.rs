//! Turns argv into a server or a client call, and the outcome into an exit code.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use ardent::cause::Causes;
use ardent::cli::{
    self,
    args::{Cli, Command},
    conceal,
    processes::StoreVerb,
};
use ardent::data_dir::DataDir;
use ardent::logging;
use ardent::server::{self, ServeOptions};
use ardent::store;
use storage::StoreConfig;

fn main() -> ExitCode {
    // Not every argument of Unix is UTF-8, but every name, option and URL of ours is.
    let words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words = conceal::concealed(words);
    let Cli { global, command } = match cli::parse(&words) {
        Ok(cli) => cli,
        Err((text, code)) => return show(&text, code),
    };
    let outcome: Result<u8, Box<dyn Error>> = match command {
        Command::Serve(serve) => {
            let options = ServeOptions {
                data_dir: cli::data_dir(&global),
                listen: serve.listen,
                config: serve.config,
                takeover: serve.takeover,
            };
            logging::start();
            server::run(&options).map(|()| 0).map_err(Into::into)
        }
        Command::Store { verb: Some(StoreVerb::Check { directory }), .. } => {
            let directory = directory.unwrap_or_else(|| cli::data_dir(&global));
            return check_store(&DataDir::of_server(directory));
        }
        Command::Store { verb: None, reserve_bytes, io_uring, hold_back } => {
            let data_dir = DataDir::of_server(cli::data_dir(&global));
            let config = StoreConfig {
                store_dir: data_dir.store(),
                mount_dir: data_dir.mount(),
                wal_dir: data_dir.wal_root(),
                socket: data_dir.store_socket(),
                reserve_bytes,
                io_uring,
                hold_back,
            };
            logging::start();
            storage::daemon::run(config).map(|()| 0).map_err(Into::into)
        }
        verb => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map(|runtime| runtime.block_on(cli::run(&global, &verb)))
            .map_err(Into::into),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            drop(writeln!(
                std::io::stderr(),
                "ardent: {}",
                Causes(&*error).to_string().replace('\n', " ")
            ));
            ExitCode::FAILURE
        }
    }
}

/// Tells everything that is not as it must be in the store of `data_dir`.
fn check_store(data_dir: &DataDir) -> ExitCode {
    let mut out = std::io::stdout();
    let (code, written) = match store::check(&data_dir.store(), &data_dir.store_socket()) {
        Ok(findings) => {
            let lines = findings.iter().try_for_each(|finding| writeln!(out, "{finding}"));
            let last = match findings.len() {
                0 => writeln!(out, "the store is sound"),
                count => writeln!(out, "{count} findings"),
            };
            (u8::from(!findings.is_empty()), lines.and(last))
        }
        Err(error) => (2, writeln!(std::io::stderr(), "ardent: {}", Causes(&error))),
    };
    // What could not be told is not sound.
    written.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}

/// Help is an answer; everything else that ends the parsing is an error.
fn show(text: &str, code: u8) -> ExitCode {
    let written = match code {
        0 => std::io::stdout().write_all(text.as_bytes()),
        _ => std::io::stderr().write_all(text.as_bytes()),
    };
    written.map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
}
