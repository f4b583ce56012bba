//! The whole chain under load.

use crate::source::Plugin;

use super::support::{Chain, with_each_plugin};

with_each_plugin! {
    pgbench_arrives_whole
}

async fn pgbench_arrives_whole(plugin: Plugin) {
    let mut chain = Chain::prepare_with(plugin, "SELECT 1").await;
    assert!(chain.source.pgbench("app", &["-i", "-q", "-s", "2"]).wait().unwrap().success());
    let mut load = chain.source.pgbench("app", &["-c", "2", "-T", "6"]);
    chain.copy().await;
    chain.follow();
    chain.catch_up().await;
    assert!(load.wait().unwrap().success());
    chain.assert_equal().await;
    assert_eq!(chain.warnings, [] as [&str; 0]);
}
