//! How the server starts, refuses to start, and stops.

use std::path::Path;
use std::process::Command;

use crate::support::cli::{ARDENT, Ran, bounded, run};
use crate::support::drivers::psql;
use crate::support::scratch::Scratch;
use crate::support::server::{Server, configure};
use crate::support::source::{Source, free_port};

/// Runs `serve` where it must refuse to start: exit code 1 and one clear line.
#[track_caller]
fn assert_refuses(mut command: Command, said: &[&str]) {
    let ran = run(&mut command);
    assert_eq!(ran.code, 1, "{ran:#?}");
    assert!(!ran.stdout.contains("ready"), "{ran:#?}");
    let line = ran.stderr.trim_end().lines().last().unwrap_or_default().to_owned();
    for text in said {
        assert!(line.contains(text), "no {text:?} in the last line of {ran:#?}");
    }
    assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
}

fn serve(data_dir: &Path, port: u16) -> Command {
    let mut command = bounded(ARDENT);
    with_serve_arguments(&mut command, data_dir, port);
    command
}

fn with_serve_arguments(command: &mut Command, data_dir: &Path, port: u16) {
    let (listen, config) = (format!("127.0.0.1:{port}"), data_dir.with_extension("toml"));
    configure(&config, port, "");
    command.arg("serve").arg("--data-dir").arg(data_dir).args(["--listen", &listen]);
    command.arg("--config").arg(config);
}

/// Runs `serve` in a mount namespace of its own in which `hide` has taken something away.
fn serve_without(hide: &str, data_dir: &Path) -> Command {
    let mut command = bounded("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-ec"]);
    command.arg(format!("{hide}\nexec \"$0\" \"$@\"")).arg(ARDENT);
    with_serve_arguments(&mut command, data_dir, free_port());
    command
}

#[test]
fn a_port_in_use_is_named() {
    let scratch = Scratch::new("start");
    let port = free_port();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).expect("take the port");
    let address = format!("127.0.0.1:{port}");
    assert_refuses(serve(&scratch.path().join("data"), port), &[&address, "in use"]);
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let server = Server::start();
    assert_refuses(serve(&server.data_dir(), free_port()), &["data"]);
    server.ardent(&["connector", "list"]).ok();
}

#[test]
fn a_data_directory_of_another_version_is_refused() {
    let mut server = Server::start();
    assert!(server.interrupt().success());
    let catalog = server.data_dir().join("catalog.db");
    run(bounded("python3").args(["-c", RAISE_VERSION]).arg(&catalog)).ok();
    assert_refuses(serve(&server.data_dir(), server.port()), &["version"]);
}

/// Makes a catalog look as if a much later release had written it.
const RAISE_VERSION: &str = "import sqlite3, sys\n\
    catalog = sqlite3.connect(sys.argv[1])\n\
    catalog.execute('pragma user_version = 9999')\n\
    catalog.commit()";

#[test]
fn a_missing_fuse_device_is_named_with_its_remedy() {
    let scratch = Scratch::new("start");
    let devices = scratch.path().join("dev");
    std::fs::create_dir(&devices).expect("create a directory for devices");
    let hide = format!(
        "dev={}; for name in null zero random urandom; do\n\
           touch $dev/$name; mount --bind /dev/$name $dev/$name\n\
         done\n\
         mkdir $dev/shm; mount --bind /dev/shm $dev/shm\n\
         mount --rbind $dev /dev",
        devices.display()
    );
    let command = serve_without(&hide, &scratch.path().join("data"));
    assert_refuses(command, &["/dev/fuse"]);
}

#[test]
fn a_missing_postgres_is_named_with_its_package() {
    let scratch = Scratch::new("start");
    let hide = "mount -t tmpfs none /usr/lib/postgresql; export PATH=/usr/sbin:/sbin:/bin";
    let command = serve_without(hide, &scratch.path().join("data"));
    assert_refuses(command, &["postgresql"]);
}

#[test]
fn an_unknown_option_or_verb_is_a_usage_error() {
    for arguments in [&["serve", "--nonsense"][..], &["nonsense"], &["branch", "create"]] {
        let ran: Ran = run(bounded(ARDENT).args(arguments));
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:#?}");
    }
}

#[test]
fn a_client_without_a_server_says_where_it_looked() {
    let scratch = Scratch::new("start");
    let ran = crate::support::cli::ardent(scratch.path(), &["connector", "list"]);
    let said = ran.failed(1);
    assert!(said.contains(&*scratch.path().to_string_lossy()), "{said}");
}

#[test]
fn an_interrupt_stops_everything_and_a_start_brings_everything_back() {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1), (2)");
    let mut server = Server::start();
    server.follow(&source);
    let url = server.branch("kept");
    psql(&url, "insert into item values (3)").ok();
    let asleep = server.branch("other");

    let status = server.interrupt();
    assert_eq!(status.code(), Some(0), "{}", server.log_text());
    assert_eq!(server.leftovers(), Vec::<String>::new(), "after SIGINT");
    assert_ne!(psql(&url, "select 1").code, 0, "nobody listens any more");

    source.sql("insert into item values (4)");
    server.start_again();
    assert_eq!(psql(&url, "select string_agg(id::text, ',' order by id) from item").ok(), "1,2,3");
    assert_eq!(psql(&asleep, "select count(*) from item").ok(), "2");
    let fresh = server.branch("fresh");
    let rows = psql(&fresh, "select string_agg(id::text, ',' order by id) from item").ok();
    assert_eq!(rows, "1,2,4", "the stream went on where it stopped");
}

#[test]
fn an_interrupt_in_the_middle_of_the_first_copy_stops_cleanly() {
    let source = Source::start();
    source.pgbench(10);
    let mut server = Server::start();
    let (directory, url) = (server.data_dir(), source.url());
    let create = std::thread::spawn(move || {
        let arguments = ["connector", "create", "postgresql", &url, "--name", "prod"];
        crate::support::cli::ardent(&directory, &arguments)
    });
    crate::support::wait::eventually(std::time::Duration::from_secs(60), "the copy begins", || {
        let copies = source.sql("select count(*) from pg_stat_progress_copy");
        (copies != "0").then_some(())
    });
    assert_eq!(server.interrupt().code(), Some(0), "{}", server.log_text());
    assert_eq!(server.leftovers(), Vec::<String>::new());
    assert_ne!(create.join().expect("the client ends").code, 0);
}
