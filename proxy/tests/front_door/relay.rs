//! Bytes both ways, and how sessions end.

use std::io::{Read, Write};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, TryStreamExt, future, stream};
use tokio::net::UnixStream;

use proxy::Policy;

use crate::raw::{APP, Message, Raw, message, query, startup};
use crate::support::{Door, until, within};

#[tokio::test]
async fn the_compute_refuses_in_its_own_words() {
    let door = Door::open().await;
    let refused = door.connect(|config| config.user("app.b1").password("secret").dbname("nope"));
    let error = refused.await.err().unwrap();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        (error.code().code(), error.message()),
        ("3D000", "database \"nope\" does not exist")
    );
    assert_eq!(error.routine(), Some("InitPostgres"));
}

/// Every way a statement can answer: rows, errors with all their fields, notices, parameters that
/// change, extended protocol, a pipeline, COPY both ways, an empty query.
fn script() -> Vec<u8> {
    let mut script = Vec::new();
    for sql in [
        "select 1, null, 'text'; select 2",
        "",
        "set timezone to 'Europe/Zurich'",
        "select 1/0",
        "selec",
        "do $$ begin raise notice 'n %', 1 using hint = 'h'; end $$",
        "begin",
        "select nope",
        "rollback",
        "copy (select generate_series(1, 5)) to stdout",
        "create temp table t (a int)",
        "copy t from stdin",
    ] {
        script.extend(query(sql));
    }
    script.extend(message(b'd', b"1\n2\n"));
    script.extend(message(b'c', b""));
    for sql in ["select $1::int + 1", "select nope"] {
        script.extend(message(b'P', format!("\0{sql}\0\0\0").as_bytes()));
        script.extend(message(b'D', b"S\0"));
        script.extend(message(b'B', b"\0\0\0\0\0\x01\0\0\0\x0241\0\0"));
        script.extend(message(b'E', b"\0\0\0\0\0"));
        script.extend(message(b'S', b""));
    }
    script.extend(query("select 'the end'"));
    script.extend(message(b'X', b""));
    script
}

/// An extended query in the two steps of pgx: statement by name, described; then bound in binary.
fn in_steps_of_pgx() -> Vec<u8> {
    let sync = message(b'S', b"");
    let mut script = Vec::new();
    for (number, sql) in ["select $1::int8, 'x'::text", "select $1::int8 / 0"].iter().enumerate() {
        let name = format!("stmtcache_{number}");
        script.extend(message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes()));
        script.extend(message(b'D', format!("S{name}\0").as_bytes()));
        script.extend(&sync);
        let eight = b"\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x07\0\x01\0\x01";
        script.extend(message(b'B', &[format!("\0{name}\0").as_bytes(), eight].concat()));
        script.extend(message(b'D', b"P\0"));
        script.extend(message(b'E', b"\0\0\0\0\0"));
        script.extend(&sync);
        // Invalidated in the same round trip as the next use.
        script.extend(message(b'C', format!("S{name}\0").as_bytes()));
    }
    // CopyFrom: binary, header and trailer in one piece.
    script.extend(query("create temp table pgx (a int8)"));
    script.extend(query("copy pgx (a) from stdin binary"));
    let rows = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x09\xff\xff";
    script.extend(message(b'd', rows));
    script.extend(message(b'c', b""));
    script.extend(query("select a + 0 from pgx"));
    script.extend(message(b'X', b""));
    script
}

/// What npgsql sends on a pooled connection: a reset before the first query, then a batch of
/// several statements with one Sync, a failure in the middle, and Flush where it waits.
fn in_batches_of_npgsql() -> Vec<u8> {
    let mut script = query("DISCARD ALL");
    for failing in [false, true] {
        for sql in ["begin", "select 1", if failing { "select nope" } else { "select 2" }, "commit"]
        {
            script.extend(message(b'P', format!("\0{sql}\0\0\0").as_bytes()));
            script.extend(message(b'B', b"\0\0\0\0\0\0\0\x01\0\x01"));
            script.extend(message(b'D', b"P\0"));
            script.extend(message(b'E', b"\0\0\0\0\0"));
        }
        script.extend(message(b'H', b""));
        script.extend(message(b'S', b""));
    }
    script.extend(query("rollback"));
    script.extend(message(b'P', b"_p1\0select generate_series(1, 5)\0\0\0"));
    script.extend(message(b'B', b"\0_p1\0\0\0\0\0\0\0"));
    // Two rows at a time.
    script.extend([message(b'E', b"\0\0\0\0\x02"), message(b'E', b"\0\0\0\0\x02")].concat());
    script.extend([message(b'C', b"P\0"), message(b'S', b""), message(b'X', b"")].concat());
    script
}

fn text(messages: &[Message]) -> String {
    let lines = messages.iter().filter(|(tag, _)| *tag != 'K');
    lines.map(|(tag, body)| format!("{tag} {}\n", String::from_utf8_lossy(body))).collect()
}

#[tokio::test]
async fn same_bytes_as_without_us() {
    same_bytes(Door::open().await).await;
}

/// In `front_door` no backend knows of such offers.
#[tokio::test]
async fn same_bytes_whatever_becomes_of_an_offer() {
    same_bytes(Door::with_policy(Policy { handoff: true, ..Policy::default() }).await).await;
}

async fn same_bytes(door: Door) {
    for script in [script(), in_steps_of_pgx(), in_batches_of_npgsql()] {
        same_answers(&door, &script).await;
    }
}

async fn same_answers(door: &Door, script: &[u8]) {
    let mut through = Raw::connect(door.address).await;
    let parameters = [("application_name", "script"), ("DateStyle", "German")];
    let login = startup(0, &[APP[0], APP[1], parameters[0], parameters[1]]);
    let greeting = text(&through.log_in(&login, "secret").await);
    through.send(script).await;
    let answers = through.rest().await;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut direct = UnixStream::connect(door.postgres.socket()).await.unwrap();
    let user = ("user", "app");
    direct.write_all(&startup(0, &[user, APP[1], parameters[0], parameters[1]])).await.unwrap();
    direct.write_all(script).await.unwrap();
    let mut expected = Vec::new();
    within(direct.read_to_end(&mut expected)).await.unwrap();
    let mut messages = Vec::new();
    let mut rest = expected.as_slice();
    while messages.last().is_none_or(|(tag, _)| *tag != 'Z') {
        let end = 1 + u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        messages.push((char::from(rest[0]), rest[5..end].to_vec()));
        rest = &rest[end..];
    }
    assert_eq!(messages.remove(0), ('R', vec![0; 4]));
    assert_eq!(greeting, text(&messages));
    assert_eq!(String::from_utf8_lossy(&answers), String::from_utf8_lossy(rest));
}

#[tokio::test]
async fn what_a_client_sends_ahead_is_answered_after_the_greeting() {
    let door = Door::open().await;
    let ahead = [query("select 'ahead'"), message(b'X', b"")].concat();
    for _ in 0..20 {
        let mut raw = Raw::connect(door.address).await;
        raw.send(&startup(0, &APP)).await;
        raw.scram("secret").await;
        raw.send(&ahead).await;
        let greeting = raw.until('Z').await;
        assert!(greeting.iter().any(|(tag, _)| *tag == 'K'), "{greeting:?}");
        assert!(String::from_utf8_lossy(&raw.rest().await).contains("ahead"));
    }
}

#[tokio::test]
async fn large_copies_in_both_directions() {
    let door = Door::open().await;
    let client = door.client().await;
    client.batch_execute("create temp table big (line text)").await.unwrap();
    let chunk = bytes::Bytes::from(format!("{}\n", "x".repeat(999)).repeat(100));
    let mut sink = pin!(client.copy_in("copy big from stdin").await.unwrap());
    for _ in 0..300 {
        sink.send(chunk.clone()).await.unwrap();
    }
    assert_eq!(within(sink.finish()).await.unwrap(), 30_000);
    let out = client.copy_out("copy big to stdout").await.unwrap();
    let bytes = out.try_fold(0, |sum, bytes| future::ok(sum + bytes.len()));
    assert_eq!(within(bytes).await.unwrap(), 30_000_000);
    let [session] = door.sessions.list().try_into().unwrap();
    if crate::HANDOFF {
        assert_eq!((session.bytes_in, session.bytes_out), (0, 0), "they did not pass us");
    } else {
        assert!(session.bytes_in > 30_000_000 && session.bytes_out > 30_000_000);
    }
}

/// The runtime of this test is the one that routes; here it is blocked.
#[tokio::test]
async fn sessions_do_not_wait_for_what_routes() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &APP), "secret").await;
    let mut socket = raw.0.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.write_all(&query("select 'moved'")).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"Z\0\0\0\x05I") {
        let mut bytes = [0; 256];
        let count = socket.read(&mut bytes).unwrap();
        answer.extend_from_slice(&bytes[..count]);
    }
    assert!(String::from_utf8_lossy(&answer).contains("moved"));
    drop(socket);
    door.close().await;
}

#[tokio::test]
async fn a_dead_client_leaves_no_backend() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &APP), "secret").await;
    raw.send(&query("select pg_sleep(600) /* orphan */")).await;
    let running = "select count(*) from pg_stat_activity where query like '%600) /* orphan%' \
                   and pid <> pg_backend_pid()";
    door.postgres.eventually(running, "1").await;
    drop(raw);
    door.postgres.eventually(running, "0").await;
    until("the session is no longer counted", || {
        door.route.in_use.load(Ordering::SeqCst) == 0 && door.sessions.count("b1") == 0
    })
    .await;
    door.close().await;
}

#[tokio::test]
async fn a_dead_backend_ends_its_client() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    let greeting = raw.log_in(&startup(0, &APP), "secret").await;
    let key = &greeting.iter().find(|(tag, _)| *tag == 'K').unwrap().1;
    let pid = i32::from_be_bytes(key[..4].try_into().unwrap());
    raw.send(&query("select pg_sleep(600)")).await;
    let killed = door.postgres.value(&format!("select pg_terminate_backend({pid})"));
    assert_eq!(killed, "t");
    assert!(String::from_utf8_lossy(&raw.rest().await).contains("\0C57P01\0"));
}

#[tokio::test]
async fn fifty_connects_to_a_sleeping_branch() {
    let door = Door::open().await;
    door.route.awake.send_replace(false);
    let connects = future::join_all((0..50).map(|_| door.client()));
    let waking = async {
        while door.route.wakes.load(Ordering::SeqCst) < 50 {
            tokio::task::yield_now().await;
        }
        assert_eq!(door.sessions.count("b1"), 50);
        door.route.awake.send_replace(true);
    };
    let (clients, ()) = within(future::join(connects, waking)).await;
    assert_eq!(door.route.wakes.load(Ordering::SeqCst), 50);
    assert_eq!(door.route.in_use.load(Ordering::SeqCst), 50);
    let answers = clients.iter().map(|client| client.simple_query("select 1"));
    assert!(future::join_all(answers).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_client_that_waits_is_told_and_may_leave() {
    let limits = proxy::Limits { wake_notice: Duration::from_millis(10), ..Default::default() };
    let door = Door::with_limits(limits).await;
    door.route.awake.send_replace(false);
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &APP)).await;
    raw.scram("secret").await;
    raw.message().await;
    let (tag, notice) = raw.message().await;
    assert_eq!(tag, 'N');
    assert!(String::from_utf8_lossy(&notice).contains("Mbranch \"b1\" is starting"));
    drop(raw);
    until("the session is no longer counted", || door.sessions.count("b1") == 0).await;
    assert_eq!(door.route.in_use.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn notifications_arrive_unasked() {
    let door = Door::open().await;
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(door.address.port());
    config.user("app.b1").password("secret").dbname("shop");
    let (client, mut connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(message) = messages.next().await {
            sender.send(message).unwrap();
        }
    });
    client.batch_execute("listen news").await.unwrap();
    door.client().await.batch_execute("notify news, 'hello'").await.unwrap();
    let notice = within(notices.recv()).await.unwrap().unwrap();
    let tokio_postgres::AsyncMessage::Notification(notice) = notice else { panic!("{notice:?}") };
    assert_eq!(notice.payload(), "hello");
}
