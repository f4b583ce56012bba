//! Stopping: everybody is told, nobody is left.

use std::time::{Duration, Instant};

use proxy::Limits;
use tokio::net::TcpStream;

use crate::raw::{APP, Raw, query, startup};
use crate::support::{Door, within};

#[tokio::test]
async fn idle_sessions_are_told_and_busy_ones_get_a_grace() {
    let limits = Limits { stop_grace: Duration::from_millis(500), ..Limits::default() };
    let door = Door::with_limits(limits).await;
    let mut sessions = Vec::new();
    for user in ["app.b1", "app.b1", "op"] {
        let mut raw = Raw::connect(door.address).await;
        let (database, password) = if user == "op" { ("ardent", "pw") } else { ("shop", "secret") };
        raw.log_in(&startup(0, &[("user", user), ("database", database)]), password).await;
        sessions.push(raw);
    }
    let mut stranger = Raw::connect(door.address).await;
    stranger.send(&startup(0, &APP)).await;
    stranger.message().await;
    let [idle, busy, console] = &mut sessions[..] else { panic!("three sessions") };
    busy.send(&query("select pg_sleep(600) /* stop */")).await;
    let running = "select count(*) from pg_stat_activity where query like '%600) /* stop%' \
                   and pid <> pg_backend_pid()";
    door.postgres.eventually(running, "1").await;

    let begun = Instant::now();
    door.stop.sessions.cancel();
    for told in [idle, console] {
        assert!(String::from_utf8_lossy(&told.rest().await).contains("C57P01"));
    }
    assert!(String::from_utf8_lossy(&stranger.rest().await).contains("C57P03"));
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    busy.rest().await;
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let (address, postgres) = (door.address, std::sync::Arc::clone(&door.postgres));
    door.close().await;
    assert!(within(TcpStream::connect(address)).await.is_err());
    postgres.eventually(running, "0").await;
}
