//! Who may enter, and what those who may not can learn.

use std::sync::atomic::Ordering;

use proxy::{Limits, Refusal, ScramVerifier};
use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::raw::{APP, Raw, error, message, sasl_initial, startup};
use crate::support::Door;

#[tokio::test]
async fn a_driver_logs_in() {
    let door = Door::open().await;
    let client = door.client().await;
    let row = client.query_one("select current_user::text, current_database()::text", &[]).await;
    let row = row.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("app", "shop"));
    assert_eq!(door.sessions.count("b1"), 1);
    let [session] = door.sessions.list().try_into().unwrap();
    assert_eq!((session.endpoint.as_deref(), session.role.as_str()), (Some("b1"), "app"));
    let pid: i32 = client.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(session.backend_pid, Some(pid));
    drop(client);
    door.close().await;
}

#[tokio::test]
async fn over_the_unix_socket_too() {
    let door = Door::open().await;
    let (dir, file) = (door.unix_socket.parent().unwrap(), door.unix_socket.extension().unwrap());
    let port = file.to_str().unwrap().parse().unwrap();
    let log_in = async |password: &str| {
        let mut config = tokio_postgres::Config::new();
        config.host_path(dir).port(port).user("app.b1").dbname("shop").password(password);
        config.connect(tokio_postgres::NoTls).await.map(|_| ())
    };
    log_in("secret").await.unwrap();
    let refused = log_in("wrong").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28P01");
}

/// All that the server says to a login with a wrong password, with the nonce and salt masked.
async fn refusal_bytes(door: &Door, user: &str) -> Vec<u8> {
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &[("user", user), ("database", "shop")])).await;
    let ((_, offer), first, mut client) = raw.scram_first("wrong").await;
    client.update(&first[4..]).unwrap();
    raw.send(&message(b'p', client.message())).await;
    let first = String::from_utf8_lossy(&first[4..]).into_owned();
    let shape: Vec<_> =
        first.split(',').map(|field| (field[..2].to_owned(), field.len())).collect();
    let iterations = first.rsplit(',').next().unwrap().to_owned();
    let last = String::from_utf8_lossy(&raw.rest().await).replace(user, "USER");
    format!("{offer:?} {shape:?} {iterations} {last}").into_bytes()
}

#[tokio::test]
async fn a_wrong_name_looks_like_a_wrong_password() {
    let door = Door::open().await;
    let wrong_password = refusal_bytes(&door, "app.b1").await;
    let text = String::from_utf8(wrong_password.clone()).unwrap();
    assert!(text.contains("C28P01\0Mpassword authentication failed for user \"USER\"\0"), "{text}");
    for user in ["apx.b1", "app.b9"] {
        assert_eq!(refusal_bytes(&door, user).await, wrong_password, "{user}");
    }
    assert_eq!(door.route.wakes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn salts_of_unknown_names_are_stable() {
    let door = Door::open().await;
    let salt = async |user: &str| {
        let mut raw = Raw::connect(door.address).await;
        raw.send(&startup(0, &[("user", user), ("database", "shop")])).await;
        let (_, first, _) = raw.scram_first("x").await;
        String::from_utf8(first).unwrap().split(',').nth(1).unwrap().to_owned()
    };
    assert_eq!(salt("nobody.b1").await, salt("nobody.b1").await);
    assert_ne!(salt("nobody.b1").await, salt("nobody.b2").await);
}

#[tokio::test]
async fn broken_scram_is_refused() {
    let door = Door::open().await;
    let mut random = StdRng::seed_from_u64(17);
    let mut noise = vec![0; 100];
    random.fill_bytes(&mut noise);
    let first = b"n,,n=,r=abc";
    let mut answers = vec![
        message(b'Q', b"select 1\0"),
        message(b'p', &vec![b'x'; 2049]),
        message(b'p', &noise),
        message(b'p', b""),
        sasl_initial("SCRAM-SHA-1", first),
        sasl_initial("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
        sasl_initial("SCRAM-SHA-256", b"n,,n="),
    ];
    answers.push([b'p'].into_iter().chain([0xff; 4]).collect());
    for answer in answers {
        let mut raw = Raw::connect(door.address).await;
        raw.send(&startup(0, &APP)).await;
        raw.message().await;
        raw.send(&answer).await;
        assert!(error(&raw.rest().await).contains("SFATAL|VFATAL|C08P01|"), "{answer:?}");
    }
    // A mechanism without a first message is asked for it.
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &APP)).await;
    raw.message().await;
    raw.send(&message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff")).await;
    assert_eq!(raw.message().await, ('R', vec![0, 0, 0, 11]));
    raw.send(&message(b'p', first)).await;
    assert!(raw.message().await.1.starts_with(b"\0\0\0\x0br=abc"));
}

#[tokio::test]
async fn a_password_changed_while_asleep_is_noticed_after_the_wake() {
    let door = Door::open().await;
    door.route.awake.send_replace(false);
    let log_in = door.connect(|config| config.user("app.b1").password("secret").dbname("shop"));
    let change = async {
        while door.route.wakes.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let changed = ScramVerifier::from_password("secret").unwrap();
        door.route.verifiers.write().unwrap().insert("app".into(), changed);
        door.route.awake.send_replace(true);
    };
    let (refused, ()) = tokio::join!(log_in, change);
    assert_eq!(refused.err().unwrap().code().unwrap().code(), "28P01");
    assert!(door.sessions.list().is_empty());
}

#[tokio::test]
async fn nothing_named_and_names_that_disagree() {
    let door = Door::open().await;
    let bytes = startup(0, &[("user", "app"), ("database", "shop")]);
    let answer = error(&Raw::exchange(door.address, &bytes).await);
    assert!(answer.contains("C08004|Mno branch given|H"), "{answer}");
    let branch = ("options", "-c ardent.branch=b2");
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &[APP[0], APP[1], branch])).await;
    let (_, first, mut client) = raw.scram_first("secret").await;
    client.update(&first[4..]).unwrap();
    raw.send(&message(b'p', client.message())).await;
    let answer = error(&raw.rest().await);
    assert!(answer.contains("C08004|") && answer.contains("\"b1\""), "{answer}");
    assert_eq!(door.route.wakes.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn refusals_of_the_router_are_told() {
    let door = Door::open().await;
    let refusal = Refusal::fatal("58000", "branch does not start").with_detail("Last line.");
    *door.route.refusal.lock().unwrap() = Some(refusal);
    let mut raw = Raw::connect(door.address).await;
    raw.send(&startup(0, &APP)).await;
    raw.scram("secret").await;
    raw.message().await;
    assert!(error(&raw.rest().await).contains("C58000|Mbranch does not start|DLast line.|"));
}

#[tokio::test]
async fn sessions_are_bounded_per_branch() {
    let limits = Limits { sessions_per_endpoint: 1, ..Limits::default() };
    let door = Door::with_limits(limits).await;
    let first = door.client().await;
    let second = door.connect(|config| config.user("app.b1").password("secret").dbname("shop"));
    let error = second.await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "53300");
    let other = door.connect(|config| config.user("app.b2").password("secret").dbname("shop"));
    assert!(other.await.is_ok());
    drop(first);
}
