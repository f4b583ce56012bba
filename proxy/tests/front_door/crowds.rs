//! Ten thousand connections at each limit: they are held, and others are answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use proxy::Limits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::raw::startup;
use crate::support::{Door, until};

const CROWD_MAX: usize = 10_000;
/// Other tests run beside these.
const DESCRIPTORS_TO_SPARE: usize = 1500;

/// One at a time: together they need more descriptors than either asked for.
static CROWD: Mutex<()> = Mutex::const_new(());

/// How large a crowd may be of which each one takes so many descriptors, both ends being ours:
/// ten thousand, or what is possible where the limit cannot be raised.
fn crowd_of(descriptors_each: usize) -> usize {
    let wanted = u64::try_from(CROWD_MAX * descriptors_each + DESCRIPTORS_TO_SPARE).unwrap();
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = maximum.map(|maximum| maximum.max(wanted));
    let accepted = [raised, maximum]
        .into_iter()
        .find(|&maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok());
    let limit = accepted.flatten().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap());
    CROWD_MAX.min((limit - DESCRIPTORS_TO_SPARE) / descriptors_each)
}

fn patient() -> Limits {
    let patience = Duration::from_secs(600);
    Limits {
        first_byte: patience,
        preauth: patience,
        connections_per_address: 2 * CROWD_MAX,
        ..Limits::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_strangers_keep_nobody_out() {
    let _alone = CROWD.lock().await;
    let size = crowd_of(2);
    let door = Door::with_limits(Limits { preauth_connections: size, ..patient() }).await;
    let address = door.address;
    let stranger = move |number| {
        let mut stream = TcpStream::connect(address).unwrap();
        // Every other one has said something.
        let half = &startup(0, &[("user", "nobody")])[..9 * (number % 2)];
        stream.write_all(half).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let crowd = spawn_blocking(move || (0..size).map(stranger).collect::<Vec<_>>());
    let crowd = crowd.await.unwrap();
    until("they are in", || door.settings.entrants.strangers() == size).await;
    door.client().await.batch_execute("select 1").await.unwrap();
    // The oldest, but those who come at once are met in any order.
    until("one of them made room", || crowd.iter().any(was_told_of_the_limit)).await;
    drop(crowd);
    until("they are gone", || door.settings.entrants.strangers() == 0).await;
}

fn was_told_of_the_limit(mut stream: &TcpStream) -> bool {
    let mut said = [0; 1024];
    let count = stream.read(&mut said).unwrap_or(0);
    String::from_utf8_lossy(&said[..count]).contains("C53300\0")
}

fn idle_console(socket: &PathBuf) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let user = if rustix::process::geteuid().is_root() { "root" } else { "op" };
    stream.write_all(&startup(0, &[("user", user), ("database", "ardent")])).unwrap();
    let mut said = Vec::new();
    let mut part = [0; 1024];
    while !said.ends_with(b"Z\0\0\0\x05I") {
        let count = stream.read(&mut part).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&part[..count]);
    }
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_sessions_are_held_and_one_more_is_told_so() {
    let _alone = CROWD.lock().await;
    let size = crowd_of(3);
    let door = Door::with_limits(Limits { sessions: size, ..patient() }).await;
    let socket = door.unix_socket.clone();
    let crowd =
        spawn_blocking(move || (0..size).map(|_| idle_console(&socket)).collect::<Vec<_>>());
    let mut crowd = crowd.await.unwrap();
    let connect = || door.connect(|config| config.user("app.b1").password("secret").dbname("shop"));
    let refused = connect().await.err().unwrap();
    assert_eq!(refused.code().unwrap().code(), "53300", "{refused}");
    crowd.truncate(size - 1);
    until("there is room", || door.sessions.list().len() < size).await;
    connect().await.unwrap().batch_execute("select 1").await.unwrap();
    drop(crowd);
    until("they are gone", || door.sessions.list().is_empty()).await;
}
