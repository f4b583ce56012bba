//! The admin database, in both protocols.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, future, stream};
use proxy::Sample;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::raw::{Raw, message, query, startup};
use crate::support::{Door, until, within};

const OP: [(&str, &str); 2] = [("user", "op"), ("database", "ardent")];

async fn console(door: &Door) -> (Client, UnboundedReceiver<String>) {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(door.address.port());
    config.user("op").password("pw").dbname("ardent");
    let (client, mut connection) = config.connect(NoTls).await.unwrap();
    let (sender, notices) = unbounded_channel();
    tokio::spawn(async move {
        let mut messages = pin!(stream::poll_fn(move |cx| connection.poll_message(cx)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = sender.send(format!("{} {}", notice.severity(), notice.message()));
            }
        }
    });
    (client, notices)
}

#[tokio::test]
async fn simple_protocol() {
    let door = Door::open().await;
    let (client, _) = console(&door).await;
    let answers = client.simple_query("SELECT 1; KINDS").await.unwrap();
    let rows: Vec<Vec<_>> = answers
        .iter()
        .filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i)).collect()),
            _ => None,
        })
        .collect();
    let full = ["b1", "42", "t", "0.25", "2024-02-29 00:00:00.25+00"].map(Some).to_vec();
    assert_eq!(rows, [vec![Some("1")], full, vec![None; 5]]);
    assert!(client.simple_query("").await.is_ok());
}

#[tokio::test]
async fn extended_protocol_in_binary() {
    let door = Door::open().await;
    let (client, _) = console(&door).await;
    let rows = client.query("KINDS", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>("name"), "b1");
    assert_eq!(rows[0].get::<_, i64>("size"), 42);
    assert!(rows[0].get::<_, bool>("ready"));
    assert!((rows[0].get::<_, f64>("share") - 0.25).abs() < 1e-12);
    let made: std::time::SystemTime = rows[0].get("made");
    assert_eq!(made.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(), 1_709_164_800_250);
    assert_eq!(rows[1].get::<_, Option<i64>>("size"), None);
    let echo = client.query_one("ECHO $1", &[&"héllo"]).await.unwrap();
    assert_eq!(echo.get::<_, &str>(0), "héllo");
    let null = client.query_one("ECHO $1", &[&None::<&str>]).await.unwrap();
    assert_eq!(null.get::<_, Option<&str>>(0), None);
    let two = client.prepare("SELECT 1; SELECT 1").await.err().unwrap();
    assert_eq!(two.code().unwrap().code(), "42601");
    assert!(client.query("SELECT 1", &[]).await.is_ok());
}

#[tokio::test]
async fn a_row_limit_suspends() {
    let door = Door::open().await;
    let (mut client, _) = console(&door).await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("KINDS", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&portal, 1).await.unwrap().len(), 1);
    assert_eq!(transaction.query_portal(&portal, 5).await.unwrap().len(), 1);
    assert_eq!(transaction.query_portal(&portal, 5).await.unwrap().len(), 0);
}

#[tokio::test]
async fn errors_point_into_the_whole_text() {
    let door = Door::open().await;
    let (client, _) = console(&door).await;
    for (sql, position) in [("WRONG", 1), ("SELECT 1; WRONG", 11), ("äöü; WRONG", 1), ("; FAIL", 3)]
    {
        let error = client.simple_query(sql).await.err().unwrap();
        let error = error.as_db_error().unwrap();
        let original = tokio_postgres::error::ErrorPosition::Original(position);
        assert_eq!(error.position(), Some(&original), "{sql}");
    }
    let error = client.query("WRONG", &[]).await.err().unwrap();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.hint(), Some("Did you mean \"SELECT\"?"));
    assert_eq!(error.detail(), Some("Expected a statement."));
}

#[tokio::test]
async fn notices_come_while_the_statement_runs() {
    let door = Door::open().await;
    let (client, mut notices) = console(&door).await;
    client.batch_execute("PROGRESS").await.unwrap();
    for text in ["INFO one", "INFO two", "INFO three"] {
        assert_eq!(within(notices.recv()).await.unwrap(), text);
    }
    let forever = client.batch_execute("FOREVER");
    let cancel = async {
        assert_eq!(within(notices.recv()).await.unwrap(), "NOTICE begun");
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (cancelled, ()) = within(future::join(forever, cancel)).await;
    assert_eq!(cancelled.unwrap_err().code().unwrap().code(), "57014");
    assert_eq!(door.console.dropped.load(Ordering::SeqCst), 1);
    // A cancel that comes late hits nothing. Its sender does not wait until it was looked at.
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let is_second = |sample: &Sample| {
        sample.name == "ardent_proxy_cancel_requests_total" && sample.value >= 2.0
    };
    let meters = &door.settings.meters;
    until("the late cancel was looked at", || meters.samples().iter().any(is_second)).await;
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_dead_client_drops_its_statement() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &OP), "pw").await;
    raw.send(&query("FOREVER")).await;
    assert_eq!(raw.message().await.0, 'N');
    let dropped = Arc::clone(&door.console.dropped);
    drop(raw);
    until("the statement is dropped", || {
        dropped.load(Ordering::SeqCst) > 0 && door.sessions.list().is_empty()
    })
    .await;
}

#[tokio::test]
async fn transaction_blocks() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &OP), "pw").await;
    let mut say = async |sql: &str| {
        raw.send(&query(sql)).await;
        let answer = raw.until('Z').await;
        let text =
            |(tag, body): &(char, Vec<u8>)| format!("{tag}{}", String::from_utf8_lossy(body));
        let said: Vec<String> = answer.iter().map(text).collect();
        (said[0].replace('\0', "|"), answer.last().unwrap().1[0] as char)
    };
    assert_eq!(say("BEGIN").await, ("CBEGIN|".into(), 'T'));
    assert!(say("BEGIN").await.0.contains("C25001|"));
    let (failed, status) = say("FAIL").await;
    assert!(failed.contains("C55000|") && status == 'E', "{failed}");
    let (refused, status) = say("SELECT 1").await;
    assert!(refused.contains("C25P02|") && status == 'E', "{refused}");
    assert_eq!(say("COMMIT").await, ("CROLLBACK|".into(), 'I'));
    assert!(say("COMMIT").await.0.contains("C25P01|"));
}

#[tokio::test]
async fn passwords_and_local_admins() {
    let door = Door::open().await;
    let wrong = door.connect(|config| config.user("op").password("x").dbname("ardent"));
    assert_eq!(wrong.await.err().unwrap().code().unwrap().code(), "28P01");
    let unknown = door.connect(|config| config.user("nobody").password("pw").dbname("ardent"));
    assert_eq!(unknown.await.err().unwrap().code().unwrap().code(), "28P01");
    let mut config = tokio_postgres::Config::new();
    let file = door.unix_socket.extension().unwrap().to_str().unwrap();
    config.host_path(door.unix_socket.parent().unwrap()).port(file.parse().unwrap()).user("me");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(client.query("SELECT 1", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn broken_messages_end_one_session_only() {
    let door = Door::open().await;
    let bind = |parameters: &[u8]| {
        let parse = message(b'P', b"\0KINDS\0\0\0");
        let bind = message(b'B', &[b"\0\0", parameters].concat());
        [parse, bind, message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat()
    };
    // Two result formats for five columns; a parameter too many.
    for parameters in [&b"\0\0\0\0\0\x02\0\0\0\0"[..], b"\0\0\0\x01\xff\xff\xff\xff\0\0"] {
        let mut raw = Raw::connect(door.address).await;
        raw.log_in(&startup(0, &OP), "pw").await;
        raw.send(&bind(parameters)).await;
        let answer = raw.until('Z').await;
        assert!(String::from_utf8_lossy(&answer[1].1).contains("C08P01"), "{answer:?}");
    }
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &OP), "pw").await;
    raw.send(&message(b'?', b"what")).await;
    assert!(String::from_utf8_lossy(&raw.rest().await).contains("FATAL"));
    console(&door).await.0.batch_execute("SELECT 1").await.unwrap();
}
