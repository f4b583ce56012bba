//! What the front door does with clients it must not let in, and with those that misbehave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::drivers::{Driver, cancelled, psql, refused};
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

/// Two branches of a small source; their computes are running.
fn two_branches() -> (Source, Server, String, String) {
    let source = Source::start();
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let server = Server::start();
    server.follow(&source);
    let (one, two) = (server.branch("one"), server.branch("two"));
    (source, server, one, two)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", server.port())).expect("connect");
    let limit = Some(Duration::from_secs(90));
    stream.set_read_timeout(limit).expect("set a read timeout");
    stream
}

/// The password between the role and the host of a URL.
fn password(url: &str) -> &str {
    let (credentials, _) = url.rsplit_once('@').expect("a host");
    credentials.rsplit_once(':').expect("a password").1
}

#[test]
fn wrong_names_and_passwords_are_refused_with_the_right_sqlstate() {
    let (_source, server, one, two) = two_branches();

    let wrong = refused(&one.replace(password(&one), "wrong"));
    assert_eq!((wrong.severity.as_str(), wrong.sqlstate.as_str()), ("FATAL", "28P01"), "{wrong:?}");
    assert!(wrong.message.starts_with("password authentication failed for user"), "{wrong:?}");

    let other = refused(&one.replace(password(&one), password(&two)));
    assert_eq!(other.sqlstate, "28P01", "the password of another branch: {other:?}");

    let nobody = refused(&one.replace("branch_owner", "nobody"));
    assert_eq!(nobody.sqlstate, "28P01", "an unknown role looks like a wrong password: {nobody:?}");

    let unknown = refused(&one.replace(".one:", ".absent:"));
    assert!(["28P01", "08004"].contains(&unknown.sqlstate.as_str()), "{unknown:?}");
    assert_eq!(unknown.severity, "FATAL", "{unknown:?}");

    let unnamed = refused(&one.replace(".one:", ":"));
    assert_eq!(unnamed.sqlstate, "08004", "no branch named: {unnamed:?}");
    assert!(!unnamed.hint.is_empty(), "the ways to name one: {unnamed:?}");

    let admin = refused(&format!("postgresql://root:x@127.0.0.1:{}/ardent", server.port()));
    assert_eq!(admin.sqlstate, "28P01", "no admin role exists over TCP: {admin:?}");
}

#[test]
fn the_branch_can_be_named_by_a_startup_parameter() {
    let (_source, _server, one, two) = two_branches();
    let plain = one.replace("branch_owner.one:", "branch_owner:");
    let named = format!("{plain}{}options=-c%20ardent.branch%3Done", separator(&plain));
    assert_eq!(psql(&named, "select count(*) from item").ok(), "1");
    let contradict = |url: &str| {
        let url = url.replace("branch_owner.two:", "branch_owner.one:");
        format!("{url}{}options=-c%20ardent.branch%3Dtwo", separator(&url))
    };
    // Which names exist is told to those who have the password of the branch that was meant.
    assert_eq!(refused(&contradict(&one)).sqlstate, "28P01");
    assert_eq!(refused(&contradict(&two)).sqlstate, "08004");
    let said = psql(&contradict(&two), "select 1").failed(2);
    assert!(said.contains("one") && said.contains("two"), "both names are said: {said}");
}

fn separator(url: &str) -> char {
    if url.contains('?') { '&' } else { '?' }
}

#[test]
fn garbage_and_half_open_clients_are_ended_and_wake_nothing() {
    let (_source, mut server, one, _two) = two_branches();
    assert!(server.interrupt().success());
    server.start_again();
    assert!(server.running_compute("one").is_none());

    let mut oversized = vec![0x7f, 0xff, 0xff, 0xff];
    oversized.extend([0; 64]);
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x00\x00\x00\x08\x00\x09\x00\x00",
        b"\x00\x00\x00\x0e\x00\x03\x00\x00user\x00x",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",
        &oversized,
    ];
    for bytes in garbage {
        let mut stream = connect(&server);
        stream.write_all(bytes).expect("send garbage");
        // Whoever was refused before this line finds the connection gone already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(!matches!(&ended, Err(error) if is_timeout(error)), "{bytes:?} was left open");
        assert_proper(bytes, &answer);
    }
    half_open_clients_are_closed(&server);
    // A lone SSL or GSS request followed by silence from a closed client is ordinary.
    connect(&server).write_all(b"\x00\x00\x00\x08\x04\xd2\x16\x2f").expect("send SSLRequest");

    assert_eq!(server.ardent(&["branch", "list"]).code, 0, "the server lives on");
    let wrong = refused(&one.replace(password(&one), "wrong"));
    assert_eq!(wrong.sqlstate, "28P01", "{wrong:?}");
    let text = server.log_text();
    assert!(!text.contains("panicked"), "{text}");
    assert!(server.running_compute("one").is_none(), "an unauthenticated byte woke a compute");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from item"), "1", "the owner wakes it");
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// An answer to garbage is nothing, or one ErrorResponse with a SQLSTATE.
#[track_caller]
fn assert_proper(sent: &[u8], answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    // A TLS client hello may be answered by a TLS alert.
    if sent.first() == Some(&0x16) && answer.first() == Some(&0x15) {
        return;
    }
    let text = String::from_utf8_lossy(answer);
    assert_eq!(answer.first(), Some(&b'E'), "{sent:?}: {text}");
    assert!(text.contains("SFATAL\0") && text.contains("\0C"), "{sent:?}: {text}");
}

/// Clients that connect and say nothing, or half a startup, are closed in bounded time and do not
/// keep others out meanwhile.
fn half_open_clients_are_closed(server: &Server) {
    let mut idle: Vec<TcpStream> = (0..50).map(|_| connect(server)).collect();
    for stream in idle.iter_mut().skip(25) {
        stream.write_all(b"\x00\x00\x00\x40\x00\x03\x00\x00us").expect("send half a startup");
    }
    let started = Instant::now();
    assert_eq!(server.ardent(&["branch", "list"]).code, 0, "others get in beside them");
    for stream in &mut idle {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        assert!(!matches!(&ended, Err(error) if is_timeout(error)), "a half-open client stays");
    }
    assert!(started.elapsed() < Duration::from_secs(85), "half-open clients end in bounded time");
}

#[test]
fn a_query_is_cancelled_from_another_connection() {
    let (_source, _server, one, _two) = two_branches();
    let sleeper = std::thread::spawn({
        let one = one.clone();
        move || psql(&one, "set application_name = 'sleeper'; select pg_sleep(120)")
    });
    let cancel = "select pg_cancel_backend(pid) from pg_stat_activity \
                  where application_name = 'sleeper' and query like '%pg_sleep%'";
    eventually(Duration::from_secs(20), "the sleeper is seen and cancelled", || {
        (psql(&one, cancel).stdout.trim() == "t").then_some(())
    });
    let said = sleeper.join().expect("psql ends").failed(1);
    assert!(said.contains("57014"), "{said}");
    assert_eq!(cancelled(&one), "57014", "by the protocol's own request");
}

#[test]
fn a_sleeping_branch_is_woken_once_by_many_clients() {
    let (_source, mut server, one, two) = two_branches();
    assert!(server.interrupt().success());
    server.start_again();
    assert!(server.running_compute("one").is_none(), "a branch starts when it is needed");
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let one = one.clone();
            std::thread::spawn(move || psql(&one, "select count(*) from item").ok())
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("the client got its answer"), "1");
    }
    let started = "select pg_postmaster_start_time()";
    let first = Driver::Psql.rows(&one, started);
    assert_eq!(Driver::Psql.rows(&one, started), first, "one start serves them all");
    assert!(server.running_compute("two").is_none(), "{two} was not asked for");
}

#[test]
fn bulk_data_passes_unchanged_in_both_directions() {
    let (_source, server, one, _two) = two_branches();
    let rows = "select g, repeat(md5(g::text), 5) from generate_series(1, 200000) g";
    Driver::Psql
        .rows(&one, &format!("create table bulk (id int, body text); insert into bulk {rows}"));
    let out = psql(&one, "copy bulk to stdout").ok();
    assert_eq!(out.lines().count(), 200_000);
    let file = server.data_dir().with_file_name("bulk.txt");
    std::fs::write(&file, format!("{out}\n")).expect("write the rows");
    let copy_in = format!("\\copy back from '{}'", file.display());
    Driver::Psql.rows(&one, "create table back (like bulk)");
    Driver::Psql.rows(&one, &copy_in);
    let differing = "select count(*) from (table bulk except table back) d";
    assert_eq!(Driver::Psql.rows(&one, differing), "0");
    assert_eq!(Driver::Psql.rows(&one, "select count(*) from back"), "200000");
}

#[test]
fn a_deleted_branch_is_gone_and_refused_while_others_go_on() {
    let (_source, server, one, two) = two_branches();
    let compute = server.compute_of("one");
    let open = std::thread::spawn({
        let one = one.clone();
        move || psql(&one, "select pg_sleep(60)")
    });
    eventually(Duration::from_secs(20), "a session is open", || {
        let sessions = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'";
        (psql(&one, sessions).stdout.trim() == "1").then_some(())
    });
    server.ardent(&["branch", "delete", "one"]).ok();
    assert_ne!(open.join().expect("psql ends").code, 0, "its session ends with it");
    assert_eq!(refused(&one).severity, "FATAL");
    let pid = compute.pid;
    eventually(Duration::from_secs(10), "its compute is gone", || {
        let still = server.leftovers().into_iter().any(|line| line.starts_with(&format!("{pid} ")));
        (!still).then_some(())
    });
    assert_eq!(Driver::Psql.rows(&two, "select count(*) from item"), "1");
    let again = server.branch("one");
    assert_eq!(Driver::Psql.rows(&again, "select count(*) from item"), "1", "the name is free");
    assert_ne!(password(&again), password(&one), "a new branch has a password of its own");
}
