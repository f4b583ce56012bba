//! Computes that are run in a process which was loaded before.

use std::fs;
use std::future::ready;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::timeout;

use super::super::process::Process;
use super::super::{Compute, ComputeKind, Spares};
use super::lifecycle::{SOON, kill_9};
use super::{Site, login};

/// All that an exec decides of a process and that can be seen from outside.
#[derive(Debug, PartialEq, Eq)]
struct Looks {
    arguments: String,
    directory: PathBuf,
    program: PathBuf,
    streams: Vec<PathBuf>,
    /// Ids, groups, rights and signals.
    status: Vec<String>,
    session_is_its_own: bool,
    /// Root if the process changed its account without an exec.
    belongs_to: u32,
}

impl Looks {
    fn of(pid: u32) -> Self {
        let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let told = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "SigBlk", "SigIgn", "CoreDumping"];
        let is_told = |line: &&str| told.iter().any(|name| line.starts_with(name));
        let stat = text("stat");
        let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
        Self {
            // Its area may be longer.
            arguments: text("cmdline").trim_end_matches('\0').to_owned(),
            directory: link("cwd"),
            program: link("exe"),
            streams: ["fd/0", "fd/1", "fd/2"].map(link).into(),
            status: text("status").lines().filter(is_told).map(str::to_owned).collect(),
            session_is_its_own: session == pid.to_string(),
            belongs_to: fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(),
        }
    }
}

/// Lengths of what the process shares with those it forks.
fn shared_areas(pid: u32) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let areas = maps.lines().filter(|line| line.ends_with("/dev/zero (deleted)"));
    let area = areas.map(|line| line.split_whitespace().next().unwrap().split_once('-').unwrap());
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    area.map(|(start, end)| address(end) - address(start)).collect()
}

async fn gone(pid: u32) {
    // One that cannot be watched is gone already.
    if let Ok(process) = Process::watch(pid) {
        timeout(SOON, process.exited()).await.expect("it ends");
    }
}

async fn start(site: &Site, spares: &Arc<Spares>) -> Compute {
    Compute::start(site.compute(ComputeKind::Branch), spares, ready(())).await.unwrap()
}

#[tokio::test]
async fn a_spare_becomes_the_process_that_an_exec_would_have_made() {
    let (site, spares) = (Site::with_database("app").await, Arc::default());
    let executed = start(&site, &spares).await;
    let (looks, shared) = (Looks::of(executed.pid()), shared_areas(executed.pid()));
    executed.prepare_next(&spares).unwrap();
    let spare = spares.pid().unwrap();
    if rustix::process::geteuid().is_root() {
        let made = async {
            while shared_areas(spare) != shared {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, made).await.expect("it has the memory ready");
    }
    executed.stop().await.unwrap();
    let compute = start(&site, &spares).await;
    assert_eq!((compute.pid(), spares.pid()), (spare, None));
    assert_eq!(Looks::of(compute.pid()), looks);
    assert_eq!(shared_areas(compute.pid()), shared);
    let client = login(compute.socket_dir(), "branch_owner", "app").await;
    client.simple_query("SELECT 1").await.unwrap();
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn a_compute_starts_though_its_spare_is_dead() {
    let (site, spares) = (Site::with_database("app").await, Arc::default());
    let compute = start(&site, &spares).await;
    compute.prepare_next(&spares).unwrap();
    let spare = spares.pid().unwrap();
    kill_9(spare);
    gone(spare).await;
    compute.stop().await.unwrap();
    let compute = start(&site, &spares).await;
    assert_ne!(compute.pid(), spare);
    compute.stop().await.unwrap();
}

#[tokio::test]
async fn a_spare_ends_with_whoever_loaded_it() {
    let (site, spares) = (Site::with_database("app").await, Arc::<Spares>::default());
    let compute = start(&site, &spares).await;
    compute.prepare_next(&spares).unwrap();
    let first = spares.pid().unwrap();
    compute.prepare_next(&spares).unwrap();
    assert_eq!(spares.pid(), Some(first), "there is one already");
    spares.end().await;
    gone(first).await;
    compute.prepare_next(&spares).unwrap();
    let second = spares.pid().unwrap();
    drop(spares);
    gone(second).await;
    compute.stop().await.unwrap();
}
