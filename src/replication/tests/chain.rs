//! The whole chain under load.

use super::support::Chain;

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_arrives_whole() {
    let mut chain = Chain::prepare("SELECT 1").await;
    assert!(chain.source.pgbench("app", &["-i", "-q", "-s", "2"]).wait().unwrap().success());
    let mut load = chain.source.pgbench("app", &["-c", "2", "-T", "6"]);
    chain.copy().await;
    chain.follow();
    chain.catch_up().await;
    assert!(load.wait().unwrap().success());
    chain.assert_equal().await;
    assert_eq!(chain.warnings, [] as [&str; 0]);
}
