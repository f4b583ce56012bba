//! A seeded differential fuzzer: schema changes and rows at random on a source, with faults in
//! between and meanwhile, and then the trunk has to be the source.
//!
//! `ARDENT_FUZZ_SEED` replays a seed; `ARDENT_FUZZ_SECONDS` sets for how long a seed runs, so that
//! `ARDENT_FUZZ_SECONDS=3600 cargo test --lib fuzz` is a long run.

mod model;

use std::time::{Duration, Instant};

use rand::Rng;

use crate::replication::{Phase, Replication, Status};
use crate::source::Plugin;

use super::support::wire::Wire;
use super::support::{Chain, with_each_plugin};
use model::Model;

const FIXED_SEED: u64 = 20_261_122;
/// Of a seed; two seeds and two plugins are three minutes.
const SECONDS: u64 = 45;
/// Scripts between two comparisons.
const SCRIPTS: usize = 5;

with_each_plugin! {
    a_fixed_seed_finds_nothing
    a_fresh_seed_finds_nothing
}

async fn a_fixed_seed_finds_nothing(plugin: Plugin) {
    run(plugin, FIXED_SEED).await;
}

async fn a_fresh_seed_finds_nothing(plugin: Plugin) {
    let given = std::env::var("ARDENT_FUZZ_SEED").ok();
    run(plugin, given.map_or_else(rand::random, |seed| seed.parse().expect("a number"))).await;
}

/// What happens while a script runs.
#[derive(Clone, Copy, Debug)]
enum Fault {
    TrunkKilled,
    SourceKilled,
    SourceRestarted,
    NetworkCut,
    StreamDropped,
    /// Another stream wants the slot and the trunk, and gets them when the first one goes.
    SlotBusy,
    /// As for a branch.
    Paused,
}

const FAULTS: &[Fault] = &[
    Fault::TrunkKilled,
    Fault::SourceKilled,
    Fault::SourceRestarted,
    Fault::NetworkCut,
    Fault::NetworkCut,
    Fault::StreamDropped,
    Fault::SlotBusy,
    Fault::Paused,
    Fault::Paused,
];

async fn run(plugin: Plugin, seed: u64) {
    println!("seed {seed}");
    let seconds = std::env::var("ARDENT_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().expect("a number"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut model = Model::new(seed, plugin);
    let mut chain = Chain::prepare_with(plugin, "CREATE TABLE first (id int PRIMARY KEY)").await;
    chain.wire = Some(Wire::to(chain.source.port()).await);
    chain.copy().await;
    chain.follow();
    let mut told = Vec::new();
    while Instant::now() < end {
        for _ in 0..SCRIPTS {
            step(&mut chain, &mut model, &mut told).await;
        }
        compare(&chain, seed, &told).await;
    }
}

/// One script, and perhaps a fault meanwhile.
async fn step(chain: &mut Chain, model: &mut Model, told: &mut Vec<String>) {
    let script = model.script();
    told.push(script.clone());
    let fault = model.random.random_range(0..FAULTS.len() * 3);
    let fault = FAULTS.get(fault).copied();
    let session = chain.source.session("app").await;
    session.batch_execute("SET search_path = public").await.unwrap();
    let (outcome, ()) = tokio::join!(session.batch_execute(&script), async {
        if let Some(fault) = fault {
            strike(chain, fault).await;
        }
    });
    session.close().await;
    if let Some(fault) = fault {
        told.push(format!("-- meanwhile: {fault:?}"));
    }
    // What the source refuses undoes itself, and the trunk never hears of it.
    if let Err(error) = outcome {
        let said = error.as_db_error().map_or("connection lost", |db| db.message());
        told.push(format!("-- refused: {said}"));
        model.learn(chain).await;
    }
}

async fn strike(chain: &mut Chain, fault: Fault) {
    match fault {
        Fault::TrunkKilled => chain.trunk.crash().await,
        Fault::SourceKilled => chain.source.crash().await,
        Fault::SourceRestarted => chain.source.restart().await,
        Fault::NetworkCut => chain.wire.as_ref().expect("a wire").cut(),
        Fault::StreamDropped => {
            chain.replication = None;
            chain.follow();
        }
        Fault::SlotBusy => {
            let second = Replication::start(chain.link(), chain.trunk.access());
            let first = chain.replication.replace(second);
            let has_met =
                |status: &Status| matches!(status.phase, Phase::Retrying { .. } | Phase::Streaming);
            chain.until("met", has_met).await;
            drop(first);
        }
        Fault::Paused => {
            // Interrupted by another fault, it is not granted; the stream goes on then.
            if chain.stream().pause().await.is_ok() {
                chain.trunk.crash().await;
                chain.stream().resume(chain.trunk.access()).await.unwrap();
            }
        }
    }
}

async fn compare(chain: &Chain, seed: u64, told: &[String]) {
    let said = || format!("seed {seed}:\n{}", told.join(";\n"));
    println!("-- compared");
    chain.catch_up().await;
    chain.settle().await;
    if chain.schema_difference().is_some() {
        // A look that was asked for after the barrier was sent comes with the next one.
        chain.catch_up().await;
        chain.settle().await;
    }
    if let Some(difference) = chain.schema_difference() {
        panic!("{difference}\n{}", said());
    }
    let status = chain.stream().status();
    assert_eq!(status.quarantined, [], "{}\n{status:?}", said());
    if let Some(difference) = chain.row_difference().await {
        panic!("{difference}\n{}", said());
    }
}
