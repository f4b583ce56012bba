//! What only sessions do that were handed off.

use proxy::SessionState;

use crate::raw::{APP, Raw, packet, query, startup};
use crate::support::{Door, until, within};

fn all_handed_off(door: &Door, count: usize) -> bool {
    let sessions = door.sessions.list();
    sessions.len() == count
        && sessions.iter().all(|session| session.state == SessionState::HandedOff)
}

#[tokio::test]
async fn a_session_outlives_its_front_door_and_can_be_cancelled_through_the_next() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    let greeting = raw.log_in(&startup(0, &APP), "secret").await;
    let key = greeting.into_iter().find(|(tag, _)| *tag == 'K').unwrap().1;
    until("it is handed off", || all_handed_off(&door, 1)).await;
    door.stop.accepting.cancel();
    within(door.server).await.unwrap();

    let next = Door::open().await;
    raw.send(&query("select pg_sleep(600) /* outlives */")).await;
    let running = "select count(*) from pg_stat_activity where query like '%600) /* outlives%' \
                   and pid <> pg_backend_pid()";
    next.postgres.eventually(running, "1").await;
    let cancel = packet(&[&80_877_102_u32.to_be_bytes(), key.as_slice()].concat());
    assert_eq!(Raw::exchange(next.address, &cancel).await, b"");
    assert!(raw.answer().await.contains("C57014"));
    raw.send(&query("select 'still here'")).await;
    assert!(raw.answer().await.contains("still here"));
}

#[tokio::test]
async fn clients_of_the_unix_socket_are_handed_off_too() {
    let door = Door::open().await;
    let stream = tokio::net::UnixStream::connect(&door.unix_socket).await.unwrap();
    let mut raw = Raw(stream);
    raw.log_in(&startup(0, &APP), "secret").await;
    until("it is handed off", || all_handed_off(&door, 1)).await;
    raw.send(&query("select 'over a unix socket'")).await;
    assert!(raw.answer().await.contains("over a unix socket"));
}
