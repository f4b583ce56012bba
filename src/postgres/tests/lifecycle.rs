//! Start, stop, crash and adoption.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::super::{
    Account, Compute, ComputeKind, Exit, PostgresError, Session, Template, TemplateSpec, activity,
};
use super::{Site, login, start};

/// Longer than anything here takes, shorter than a test run's patience.
pub(super) const SOON: Duration = Duration::from_secs(60);

pub(super) fn kill_9(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// Live processes of the site's compute.
fn processes(site: &Site) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
            cwd.is_ok_and(|cwd| cwd == site.data_dir())
        })
        .collect()
}

/// The System V segment that a running compute wrote into its `postmaster.pid`.
fn segment(site: &Site) -> String {
    let pid_file = fs::read_to_string(site.data_dir().join("postmaster.pid")).unwrap();
    pid_file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap().to_owned()
}

fn kernel_has(segment: &str) -> bool {
    let list = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    list.lines().any(|line| line.split_whitespace().nth(1) == Some(segment))
}

/// Private and proportional memory of all processes, in KiB.
fn memory(site: &Site) -> (u64, u64) {
    let mut total = (0, 0);
    for pid in processes(site) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        for line in rollup.lines() {
            let mut fields = line.split_whitespace();
            let (name, value) = (fields.next().unwrap(), fields.next().unwrap());
            match name {
                "Private_Clean:" | "Private_Dirty:" => total.0 += value.parse::<u64>().unwrap(),
                "Pss:" => total.1 += value.parse::<u64>().unwrap(),
                _ => {}
            }
        }
    }
    total
}

#[tokio::test]
async fn runs_confined_and_stops_without_a_trace() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let pid = compute.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("NoNewPrivs:"), "1");
    let socket_dir = fs::metadata(compute.socket_dir()).unwrap();
    assert_eq!(socket_dir.permissions().mode() & 0o777, 0o700);
    if let Some(Account { uid, .. }) = site.account {
        assert_eq!(field("Uid:"), format!("{uid} {uid} {uid} {uid}"));
        assert_eq!(field("Groups:"), "");
        assert_eq!(socket_dir.uid(), uid);
    }
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "0");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string(), "not in a session of its own");
    assert!(!compute.socket_dir().join("notify").exists());

    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(compute.stop().await.unwrap(), Exit::Code(0));
    assert!(processes(&site).is_empty());
    let left: Vec<_> = fs::read_dir(site.root.join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(compute.wait_exit().await, Exit::Code(0));
}

#[tokio::test]
async fn starts_at_once_after_kill_9_of_its_postmaster() {
    let site = Site::with_database("app").await;
    let first = site.start().await;
    let client = login(first.socket_dir(), "branch_owner", "app").await;
    client.batch_execute("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").await.unwrap();
    // A backend in the middle of a statement does not notice the death of the postmaster.
    let busy = login(first.socket_dir(), "branch_owner", "app").await;
    let busy = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(300)").await });
    wait_until_active(&client).await;

    kill_9(first.pid());
    assert_eq!(timeout(SOON, first.wait_exit()).await.unwrap(), Exit::Signal(9));
    let second = timeout(SOON, site.start()).await.unwrap();
    assert_ne!(second.pid(), first.pid());
    assert!(busy.await.unwrap().is_err(), "a backend of the first compute lived on");
    let client = login(second.socket_dir(), "branch_owner", "app").await;
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
    second.stop().await.unwrap();
}

/// Asks until the other session runs its statement: nothing tells when a backend began one.
async fn wait_until_active(client: &tokio_postgres::Client) {
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)' \
                  AND state = 'active' AND pid <> pg_backend_pid()";
    let asking =
        async { while client.query_one(active, &[]).await.unwrap().get::<_, i64>(0) == 0 {} };
    timeout(SOON, asking).await.unwrap();
}

#[tokio::test]
async fn kill_leaves_nothing_in_the_kernel() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let segment = segment(&site);
    assert!(kernel_has(&segment));
    let maps = fs::read_to_string(format!("/proc/{}/maps", compute.pid())).unwrap();
    let posix: Vec<_> =
        maps.lines().filter_map(|line| line.find("/dev/shm/").map(|at| &line[at..])).collect();
    assert!(!posix.is_empty());
    assert_eq!(compute.kill().await.unwrap(), Exit::Signal(9));
    assert!(processes(&site).is_empty());
    assert!(!kernel_has(&segment));
    assert!(posix.iter().all(|path| !Path::new(path).exists()), "{posix:?}");
    let again = site.start().await;
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_hung_postmaster_is_stopped_for_certain() {
    let site = Site::with_database("app").await;
    let mut spec = site.compute(ComputeKind::Branch);
    spec.stop_timeout = Duration::from_millis(100);
    let compute = start(spec).await.unwrap();
    let pid = Pid::from_raw(i32::try_from(compute.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // Nor must a store that is gone, so that the pid file cannot be removed, keep it alive.
    fs::remove_file(site.data_dir().join("postmaster.pid")).unwrap();
    fs::create_dir(site.data_dir().join("postmaster.pid")).unwrap();
    assert_eq!(timeout(SOON, compute.stop()).await.unwrap().unwrap(), Exit::Signal(9));
    assert!(!compute.is_running());
    assert!(processes(&site).is_empty());
}

#[tokio::test]
async fn a_fast_stop_does_not_wait_for_sessions() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let asking = login(compute.socket_dir(), "branch_owner", "app").await;
    let busy = login(compute.socket_dir(), "branch_owner", "app").await;
    let busy = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(300)").await });
    wait_until_active(&asking).await;
    assert_eq!(timeout(SOON, compute.stop()).await.unwrap().unwrap(), Exit::Code(0));
    assert!(busy.await.unwrap().is_err());
}

/// A branch starts from a trunk that was stopped in order. If a setting that recovery compares
/// differed between the two, the first start of each branch would write and flush a WAL record.
#[tokio::test]
async fn the_first_start_of_a_branch_writes_no_wal() {
    let site = Site::with_database("app").await;
    let trunk = start(site.compute(ComputeKind::Trunk)).await.unwrap();
    trunk.stop().await.unwrap();
    let branch = site.start().await;
    let system = Session::system(branch.socket_dir()).await.unwrap();
    let sql = "SELECT (pg_current_wal_insert_lsn() - redo_lsn)::int8 FROM pg_control_checkpoint()";
    let bytes: i64 = system.client().query_one(sql, &[]).await.unwrap().get(0);
    // What is there is the shutdown checkpoint's own record and, at a new page, its header.
    assert!(bytes <= 200, "{bytes} bytes");
    branch.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_server_adopts_what_an_old_one_started() {
    let site = Site::with_database("app").await;
    let old = site.start().await;
    let (pid, started_at) = (old.pid(), old.started_at());
    let refused = start(site.compute(ComputeKind::Branch)).await.unwrap_err();
    assert!(matches!(refused, PostgresError::AlreadyRunning(found) if found == pid), "{refused}");
    drop(old);

    let new = Compute::adopt(site.compute(ComputeKind::Branch)).await.unwrap().unwrap();
    assert_eq!(new.pid(), pid);
    let apart = started_at.duration_since(new.started_at()).unwrap();
    assert!(apart < Duration::from_millis(1));
    kill_9(pid);
    timeout(SOON, new.wait_exit()).await.unwrap();

    assert!(Compute::adopt(site.compute(ComputeKind::Branch)).await.unwrap().is_none());
    assert!(!site.root.join("run/7.compute").exists());
    assert!(processes(&site).is_empty());
}

#[tokio::test]
async fn a_reused_pid_is_not_taken_for_a_compute() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let record = fs::read_to_string(site.root.join("run/7.compute")).unwrap();
    compute.stop().await.unwrap();
    let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let forged = record.replace(&compute.pid().to_string(), &bystander.id().to_string());
    fs::write(site.root.join("run/7.compute"), forged).unwrap();

    assert!(Compute::adopt(site.compute(ComputeKind::Branch)).await.unwrap().is_none());
    assert!(bystander.try_wait().unwrap().is_none(), "a bystander was killed");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test]
async fn says_why_it_did_not_start() {
    let site = Site::with_database("app").await;
    let mut spec = site.compute(ComputeKind::Branch);
    spec.settings.push(("no_such_setting".to_owned(), "1".to_owned()));
    let error = start(spec).await.unwrap_err();
    assert!(error.to_string().contains("unrecognized configuration parameter"), "{error}");
    assert!(!site.root.join("run/7.compute").exists());

    let mut spec = site.compute(ComputeKind::Branch);
    spec.socket_dir = Path::new("/tmp").join("x".repeat(100));
    let error = start(spec).await.unwrap_err();
    assert!(matches!(error, PostgresError::SocketPathTooLong(_)), "{error}");

    if site.account.is_some() {
        let mut spec = site.compute(ComputeKind::Branch);
        spec.account = Some(Account { uid: 1, gid: 1 });
        let error = start(spec).await.unwrap_err();
        assert!(matches!(error, PostgresError::AccountTaken(1)), "{error}");
        fs::set_permissions(site.root.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let error = start(site.compute(ComputeKind::Branch)).await.unwrap_err();
        assert!(matches!(error, PostgresError::Unreachable { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_template_that_nobody_takes_is_removed() {
    let site = Site::with_database("app").await;
    let template = Template::make(site.template()).await.unwrap();
    assert!(site.template().scratch_dir.join("PG_VERSION").exists());
    drop(template);
    assert!(!site.template().scratch_dir.exists());
    if site.account.is_some() {
        let spec = TemplateSpec { user: "nobody-of-that-name".to_owned(), ..site.template() };
        let error = Template::make(spec).await.unwrap_err();
        assert!(matches!(error, PostgresError::NoSuchUser(_)), "{error}");
        assert!(!site.template().scratch_dir.exists());
    }
}

#[tokio::test]
async fn tells_when_nobody_needs_it() {
    let site = Site::with_database("app").await;
    let compute = site.start().await;
    let system = Session::system(compute.socket_dir()).await.unwrap();
    assert!(activity(&system).await.unwrap().is_idle());
    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    assert_eq!(activity(&system).await.unwrap().sessions, 1);
    client.batch_execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'").await.unwrap();
    let seen = activity(&system).await.unwrap();
    assert_eq!((seen.sessions, seen.prepared_transactions), (1, 1));
    assert!(!seen.is_idle());
    compute.stop().await.unwrap();
}

/// Prints figures; asserts only what cannot depend on the machine's mood.
#[tokio::test]
async fn measures_start_stop_and_memory() {
    let site = Site::with_database("app").await;
    let mut times = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        let compute = site.start().await;
        let started = start.elapsed();
        let (private_kib, proportional_kib) = memory(&site);
        let login_at = Instant::now();
        let client = login(compute.socket_dir(), "branch_owner", "app").await;
        client.simple_query("SELECT 1").await.unwrap();
        let answered = started + login_at.elapsed();
        drop(client);
        let stop = Instant::now();
        compute.stop().await.unwrap();
        println!(
            "start {started:?}, client's first answer {answered:?}, stop {:?}, \
             private {private_kib} KiB, proportional {proportional_kib} KiB",
            stop.elapsed()
        );
        assert!(private_kib <= 25 * 1024, "{private_kib} KiB private");
        times.push(started);
    }
    times.sort();
    println!("median start {:?}", times[times.len() / 2]);
}
