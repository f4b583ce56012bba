//! Clients that are slow, odd or gone, in every phase: nobody else notices, nothing is left.

use std::time::Duration;

use rustix::net::sockopt;

use crate::raw::{APP, Raw, message, query, sasl_initial, startup};
use crate::support::{Door, until};

/// Counts the backends with this comment in their query: the tests share one Postgres.
fn running(comment: &str) -> String {
    let of_app = "select count(*) from pg_stat_activity where usename = 'app'";
    format!("{of_app} and query like '%/* {comment} */%'")
}

/// Ends a connection with a reset instead of a proper close.
fn reset(raw: Raw) {
    sockopt::set_socket_linger(&raw.0, Some(Duration::ZERO)).unwrap();
}

/// Nobody is left of the front door's sessions.
async fn all_gone(door: &Door) {
    until("sessions are gone", || door.sessions.list().is_empty()).await;
    until("strangers are gone", || door.settings.entrants.strangers() == 0).await;
    until("leases are given back", || {
        door.route.in_use.load(std::sync::atomic::Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    for byte in startup(0, &APP) {
        raw.send(&[byte]).await;
    }
    raw.scram("secret").await;
    raw.until('Z').await;
    let script = [query("select 'one byte'"), message(b'X', b"")].concat();
    for byte in script {
        raw.send(&[byte]).await;
    }
    assert!(String::from_utf8_lossy(&raw.rest().await).contains("one byte"));
    all_gone(&door).await;
}

#[tokio::test]
async fn a_reset_in_any_phase_leaves_nothing() {
    let door = Door::open().await;
    let connect = async || Raw::connect(door.address).await;
    reset(connect().await);

    let mut raw = connect().await;
    raw.send(&startup(0, &APP)[..9]).await;
    reset(raw);

    let mut raw = connect().await;
    raw.send(&startup(0, &APP)).await;
    raw.message().await;
    reset(raw);

    let mut raw = connect().await;
    raw.send(&startup(0, &APP)).await;
    raw.message().await;
    raw.send(&sasl_initial("SCRAM-SHA-256", b"n,,n=,r=abc")).await;
    raw.message().await;
    reset(raw);

    door.route.awake.send_replace(false);
    let mut raw = connect().await;
    raw.send(&startup(0, &APP)).await;
    raw.scram("secret").await;
    reset(raw);
    all_gone(&door).await;
    door.route.awake.send_replace(true);

    let mut raw = connect().await;
    raw.log_in(&startup(0, &APP), "secret").await;
    raw.send(&query("select pg_sleep(600) /* reset */")).await;
    door.postgres.eventually(&running("reset"), "1").await;
    reset(raw);
    all_gone(&door).await;
    door.postgres.eventually(&running("reset"), "0").await;
    door.client().await.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn a_client_that_dies_with_an_unread_backlog_leaves_no_backend() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &APP), "secret").await;
    let endless = "select repeat('x', 100000) from generate_series(1, 1000000) /* backlog */";
    raw.send(&query(endless)).await;
    door.postgres.eventually(&running("backlog"), "1").await;
    let unread = || rustix::io::ioctl_fionread(&raw.0).unwrap();
    until("the backlog fills", || unread() > 100_000).await;
    let blocked = format!("{} and wait_event = 'ClientWrite'", running("backlog"));
    // What the client does not read is not gathered on the way: the backend waits, and goes on
    // waiting, for a moment of it would be seen of any writer.
    let waits = || (0..10).all(|_| door.postgres.value(&blocked) == "1");
    until("the backend waits for its client", waits).await;
    reset(raw);
    all_gone(&door).await;
    door.postgres.eventually(&running("backlog"), "0").await;
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    raw.log_in(&startup(0, &APP), "secret").await;
    let rows = "select repeat('y', 1000) from generate_series(1, 20000)";
    raw.send(&[query(rows), message(b'X', b"")].concat()).await;
    let mut received = 0;
    loop {
        let (tag, body) = raw.message().await;
        received += usize::from(tag == 'D' && body.len() == 1006);
        if received % 1000 == 0 {
            tokio::task::yield_now().await;
        }
        if tag == 'Z' {
            break;
        }
    }
    assert_eq!(received, 20_000);
}
