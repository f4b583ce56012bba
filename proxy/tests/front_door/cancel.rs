//! Cancel requests reach the query they are meant for, and no other.

use std::sync::atomic::Ordering;

use futures_util::future;
use tokio_postgres::NoTls;

use crate::raw::{APP, Raw, message, packet, query, startup};
use crate::support::{Door, within};

fn cancel_request(key_data: &[u8]) -> Vec<u8> {
    packet(&[&80_877_102_u32.to_be_bytes(), key_data].concat())
}

#[tokio::test]
async fn a_cancel_hits_its_own_query_only() {
    let door = Door::open().await;
    let (victim, bystander) = (door.client().await, door.client().await);
    let running =
        "select count(*) from pg_stat_activity where query like 'select pg_sleep(%) /* c%'";
    let cancel = async {
        door.postgres.eventually(running, "2").await;
        victim.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (cancelled, ended, ()) = within(future::join3(
        victim.batch_execute("select pg_sleep(600) /* c1 */"),
        bystander.batch_execute("select pg_sleep(2) /* c2 */"),
        cancel,
    ))
    .await;
    assert_eq!(cancelled.unwrap_err().code().unwrap().code(), "57014");
    ended.unwrap();
    victim.batch_execute("select 1").await.unwrap();
}

#[tokio::test]
async fn long_keys_of_protocol_3_2_and_wrong_keys() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    let greeting = raw.log_in(&startup(2, &APP), "secret").await;
    let key = greeting.into_iter().find(|(tag, _)| *tag == 'K').unwrap().1;
    raw.send(&query("select pg_sleep(600)")).await;
    door.postgres
        .eventually(
            "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'",
            "1",
        )
        .await;
    let mut wrong = key.clone();
    *wrong.last_mut().unwrap() ^= 1;
    // A session that may be handed off has its backend's own key of 4 bytes.
    let bytes = if crate::HANDOFF { 4 + 4 } else { 4 + 32 };
    assert_eq!(key.len(), bytes);
    for request in [&wrong[..], &wrong[..8]] {
        assert_eq!(Raw::exchange(door.address, &cancel_request(request)).await, b"");
    }
    assert_eq!(Raw::exchange(door.address, &cancel_request(&key)).await, b"");
    assert!(raw.answer().await.contains("C57014"));
    // The key dies with its session.
    raw.send(&message(b'X', b"")).await;
    raw.rest().await;
    assert_eq!(Raw::exchange(door.address, &cancel_request(&key)).await, b"");
    assert_eq!(door.route.wakes.load(Ordering::SeqCst), 1);
}
