//! Every bound refuses with its SQLSTATE, and nobody else is kept out by it.

use std::sync::atomic::Ordering;

use proxy::{Limits, Policy, Tls};
use rcgen::{CertificateParams, KeyPair};

use crate::raw::{APP, Raw, error, query, startup};
use crate::support::{Door, until, within};

async fn refusal(door: &Door, user: &str, password: &str) -> String {
    let user = user.to_owned();
    let refused = door.connect(|config| config.user(&user).password(password).dbname("shop")).await;
    let refused = refused.expect_err("refused");
    let refused = refused.as_db_error().expect("an ErrorResponse");
    format!("{} {} {:?}", refused.code().code(), refused.message(), refused.hint())
}

#[tokio::test]
async fn guessing_is_slowed_down_for_known_and_unknown_names_alike() {
    let door = Door::with_limits(Limits { failed_logins: 3, ..Limits::default() }).await;
    for user in ["app.b1", "app.b9"] {
        for _ in 0..3 {
            assert!(refusal(&door, user, "wrong").await.starts_with("28P01 "), "{user}");
        }
        let slowed = refusal(&door, user, "secret").await;
        let wanted = "53400 too many failed logins from your address Some(\"Try again in ";
        assert!(slowed.starts_with(wanted), "{slowed}");
    }
    let other = door.connect(|config| config.user("app.b2").password("secret").dbname("shop"));
    assert!(other.await.is_ok(), "another branch is not affected");
    let samples = door.settings.meters.samples();
    let throttled = samples.iter().find(|sample| sample.labels == [("result", "throttled".into())]);
    assert_eq!(throttled.expect("counted").value, 2.0);
}

#[tokio::test]
async fn connections_of_one_address_are_bounded() {
    let door = Door::with_limits(Limits { connections_per_address: 2, ..Limits::default() }).await;
    let _first = door.client().await;
    let _second = door.client().await;
    let refused = refusal(&door, "app.b1", "secret").await;
    assert_eq!(refused, "53300 too many connections from your address None");
}

#[tokio::test]
async fn silent_strangers_make_room_for_others() {
    let door = Door::with_limits(Limits { preauth_connections: 4, ..Limits::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Raw::connect(door.address).await);
    }
    door.client().await.batch_execute("select 1").await.unwrap();
    let answer = silent[0].rest().await;
    assert!(error(&answer).contains("C53300|Msorry, too many clients already"));
    until("the limit holds", || door.settings.entrants.strangers() <= 4).await;
}

#[tokio::test]
async fn the_wake_queue_is_bounded_and_awake_branches_do_not_queue() {
    let door = Door::with_limits(Limits { wakes_waiting: 1, ..Limits::default() }).await;
    door.route.awake.send_replace(false);
    let mut first = Raw::connect(door.address).await;
    first.send(&startup(0, &APP)).await;
    first.scram("secret").await;
    until("it waits", || door.route.wakes.load(Ordering::SeqCst) == 1).await;
    let refused = refusal(&door, "app.b1", "secret").await;
    assert!(refused.starts_with("53300 too many clients wait for branches to start"), "{refused}");
    door.route.awake.send_replace(true);
    first.until('Z').await;
    for _ in 0..3 {
        door.client().await;
    }
}

fn identity() -> Tls {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    Tls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn a_new_policy_drops_nobody() {
    let door = Door::with_policy(Policy { tls: Some(identity()), ..Policy::default() }).await;
    let client = door.client().await;
    let strict = Limits { sessions_per_endpoint: 1, ..Limits::default() };
    let tls = Some(identity());
    let policy = Policy { limits: strict, tls, require_tls: true, ..Policy::default() };
    door.settings.policy.replace(policy);
    assert!(refusal(&door, "app.b1", "secret").await.starts_with("28000 connection requires TLS"));
    client.batch_execute("select 1").await.unwrap();
    door.settings.policy.replace(Policy::default());
    let _second = door.client().await;
}

#[tokio::test]
async fn a_closed_door_lets_sessions_go_on() {
    let door = Door::open().await;
    let client = door.client().await;
    let mut console = Raw::connect(door.address).await;
    console.send(&startup(0, &[("user", "op"), ("database", "ardent")])).await;
    console.scram("pw").await;
    console.until('Z').await;
    within(door.settings.entrants.all_settled()).await;
    let mut silent = Raw::connect(door.address).await;
    until("it is accepted", || door.settings.entrants.strangers() == 1).await;
    door.stop.accepting.cancel();
    assert_eq!(silent.rest().await, b"", "who says nothing holds nobody up");
    within(door.settings.entrants.all_settled()).await;
    assert!(error(&console.rest().await).contains("C57P01|"));
    client.batch_execute("select 1").await.unwrap();
    assert!(tokio::net::TcpStream::connect(door.address).await.is_err());
    drop(client);
    within(door.server).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_unsettled_until_its_first_ready_for_query() {
    let door = Door::open().await;
    door.route.awake.send_replace(false);
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &APP)).await;
    raw.scram("secret").await;
    let settled = door.settings.entrants.all_settled();
    let mut settled = std::pin::pin!(settled);
    assert!(futures_util::poll!(settled.as_mut()).is_pending());
    door.route.awake.send_replace(true);
    raw.until('Z').await;
    within(settled).await;
    raw.send(&query("select 1")).await;
    raw.until('Z').await;
}
