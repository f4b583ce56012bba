//! What strangers may send before they say who they are.

use std::time::Duration;

use proxy::Limits;
use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::raw::{APP, GSSENC_REQUEST, Raw, SSL_REQUEST, error, packet, startup};
use crate::support::{Door, within};

#[tokio::test]
async fn startup_packet_cut_at_every_byte() {
    let door = Door::open().await;
    let bytes = [&SSL_REQUEST[..], &startup(0, &APP)].concat();
    for cut in 1..bytes.len() {
        let mut raw = Raw::connect(door.address).await;
        raw.send(&bytes[..cut]).await;
        tokio::task::yield_now().await;
        raw.send(&bytes[cut..]).await;
        assert_eq!(raw.bytes(1).await, b"N", "{cut}");
        assert_eq!(raw.message().await.0, 'R', "{cut}");
    }
    door.close().await;
}

#[tokio::test]
async fn encryption_is_declined_once_each() {
    let door = Door::open().await;
    let mut raw = Raw::connect(door.address).await;
    for request in [GSSENC_REQUEST, SSL_REQUEST] {
        raw.send(&request).await;
        assert_eq!(raw.bytes(1).await, b"N");
    }
    raw.send(&SSL_REQUEST).await;
    assert!(error(&raw.rest().await).contains("C08P01|"));
}

#[tokio::test]
async fn sizes_are_bounded() {
    let door = Door::open().await;
    for length in [0_u32, 4, 7, 10_001, 0x4745_5420, u32::MAX] {
        let answer = Raw::exchange(door.address, &length.to_be_bytes()).await;
        assert!(error(&answer).contains("SFATAL|VFATAL|C08P01|"), "{length}");
    }
    let filler = "x".repeat(10_000 - startup(0, &APP).len() - "filler||".len());
    let largest = startup(0, &[APP[0], APP[1], ("filler", &filler)]);
    assert_eq!(largest.len(), 10_000);
    let mut raw = Raw::connect(door.address).await;
    raw.send(&largest).await;
    assert_eq!(raw.message().await.0, 'R');
}

#[tokio::test]
async fn garbage_is_refused_or_dropped() {
    let door = Door::open().await;
    let answer = Raw::exchange(door.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(error(&answer).contains("C08P01|"));
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..200 {
        let mut body = vec![0; (random.next_u32() % 200) as usize];
        random.fill_bytes(&mut body);
        if random.next_u32().is_multiple_of(2) && body.len() >= 4 {
            body[..4].copy_from_slice(&[0, 3, 0, 0]);
        }
        let mut raw = Raw::connect(door.address).await;
        raw.send(&packet(&body)).await;
        // Whoever was refused before this line finds the connection gone already.
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await;
        raw.rest().await;
    }
    assert_eq!(door.route.wakes.load(std::sync::atomic::Ordering::SeqCst), 0);
    door.close().await;
}

#[tokio::test]
async fn foreign_versions() {
    let door = Door::open().await;
    let answer = Raw::exchange(door.address, &packet(&[0, 2, 0, 0])).await;
    let text =
        "SFATAL|VFATAL|C0A000|Munsupported frontend protocol 2.0: server supports 3.0 to 3.2";
    assert!(error(&answer).starts_with(text));
}

#[tokio::test]
async fn versions_and_options_are_negotiated() {
    let door = Door::open().await;
    let unknown = ("_pq_.test_protocol_negotiation", "");
    // What is asked for, and what NegotiateProtocolVersion says of it.
    let cases: [(u16, bool, Option<&[u8]>); 6] = [
        (0, false, None),
        (1, false, None),
        (2, false, None),
        (0, true, Some(b"\0\x03\0\0\0\0\0\x01_pq_.test_protocol_negotiation\0")),
        (9999, false, Some(b"\0\x03\0\x02\0\0\0\0")),
        (9999, true, Some(b"\0\x03\0\x02\0\0\0\x01_pq_.test_protocol_negotiation\0")),
    ];
    for (minor, with_option, expected) in cases {
        let option = if with_option { unknown } else { ("DateStyle", "ISO") };
        let mut raw = Raw::connect(door.address).await;
        raw.send(&startup(minor, &[APP[0], APP[1], option])).await;
        if let Some(expected) = expected {
            let (tag, body) = raw.message().await;
            assert_eq!((tag, body.as_slice()), ('v', expected), "3.{minor}");
        }
        raw.scram("secret").await;
        let greeting = raw.until('Z').await;
        let key = &greeting.iter().find(|(tag, _)| *tag == 'K').unwrap().1;
        let bytes = if minor >= 2 && !crate::HANDOFF { 4 + 32 } else { 4 + 4 };
        assert_eq!(key.len(), bytes, "3.{minor}");
    }
}

#[tokio::test]
async fn half_open_clients_are_dropped() {
    let limits = Limits {
        first_byte: Duration::from_millis(100),
        preauth: Duration::from_millis(400),
        ..Limits::default()
    };
    let door = Door::with_limits(limits).await;
    // Says nothing, or not enough: closed without a word.
    assert_eq!(Raw::connect(door.address).await.rest().await, b"");
    let bytes = startup(0, &APP);
    for end in [1, 4, 8, bytes.len() - 1] {
        assert_eq!(Raw::exchange(door.address, &bytes[..end]).await, b"", "{end}");
    }
    // Has said who it is: told.
    let mut raw = Raw::connect(door.address).await;
    raw.send(&bytes).await;
    assert_eq!(raw.message().await.0, 'R');
    assert!(error(&raw.rest().await).contains("C57014|"));
    within(door.close()).await;
}
