//! Sources in a private network, reached through an environment and in no other way.

use std::time::Duration;

use crate::support::drivers::psql;
use crate::support::network::Network;
use crate::support::pgbench::assert_equal;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

/// URL of a source whose name nobody outside can resolve, with TLS that checks that name.
fn private_url(source: &Source) -> String {
    let certificate = source.certificate();
    let url = source.url().replace("127.0.0.1", "db.internal");
    format!("{url}?sslmode=verify-full&sslrootcert={}", certificate.display())
}

#[test]
fn all_traffic_of_a_connector_goes_through_its_environment() {
    let network = Network::start();
    let source = Source::within(&network);
    source.sql(
        "create table item (id bigint primary key, note text); insert into item values (1, 'a')",
    );
    let server = Server::start();
    let url = private_url(&source);
    let key = network.key().display().to_string();
    let known_host = network.known_host();
    let create = ["environment", "create", "env_1", &network.ssh_url(), "--key", &key];
    let unpinned = server.ardent(&create).failed(2);
    assert!(unpinned.contains("known_host"), "{unpinned}");
    let said = server.ardent(&[create.as_slice(), &["--known-host", &known_host]].concat()).ok();
    assert_eq!(said, "✓ Environment 'env_1' created");

    // The straight way does not exist.
    server.ardent(&["connector", "preflight", "postgresql", &url]).failed(2);
    let endpoint = format!("127.0.0.1:{}", source.port());
    let link = ["private-link", "create", "epl_1", "--environment-id", "env_1", "--endpoint"];
    server.ardent(&[link.as_slice(), &[&endpoint]].concat()).ok();
    let preflight = ["connector", "preflight", "postgresql", &url, "--byoc"];
    let unnamed = server.ardent(&preflight).failed(2);
    assert!(unnamed.contains("epl_1") && unnamed.contains("--private-link-id"), "{unnamed}");
    let through = [preflight.as_slice(), &["--private-link-id", "epl_1"]].concat();
    let report = server.ardent(&through).ok();
    assert!(report.contains("Running preflight against db.internal:"), "{report}");

    // TLS still verifies the source's own name.
    let other = url.replace("db.internal", "other.internal");
    let misnamed =
        ["connector", "preflight", "postgresql", &other, "--byoc", "--private-link-id", "epl_1"];
    let said = server.ardent(&misnamed).failed(2);
    assert!(said.contains("✗ auth"), "{said}");

    let create = ["connector", "create", "postgresql", &url, "--name", "prod", "--byoc"];
    let link = ["--environment-id", "env_1", "--private-link-id", "epl_1"];
    server.ardent(&[create.as_slice(), &link].concat()).ok();
    assert!(network.ssh_sessions() > 0, "nothing goes through the sshd");
    source.sql("insert into item values (2, 'streamed')");
    assert_equal(&server.branch("b1"), &source, "a branch of a private source");

    let used = server.ardent(&["private-link", "delete", "epl_1"]).failed(1);
    assert!(used.contains("prod"), "{used}");
    server.ardent(&["connector", "delete", "prod", "--force"]).ok();
    let gone = || source.traces().is_empty().then_some(());
    eventually(Duration::from_secs(10), "nothing is left on the source", gone);
    server.ardent(&["private-link", "delete", "epl_1"]).ok();
    server.ardent(&["environment", "delete", "env_1"]).ok();
    secrets_are_not_shown(&server);
}

#[test]
fn a_socks_server_is_a_way_too_and_survives_a_restart() {
    let network = Network::start();
    let source = Source::within(&network);
    source.sql("create table item (id bigint primary key); insert into item values (1)");
    let mut server = Server::start();
    server.ardent(&["environment", "create", "proxy", &network.socks_url()]).ok();
    let listed = server.ardent(&["environment", "list"]).ok();
    assert!(listed.contains("socks5://ardent@") && !listed.contains("s3cret"), "{listed}");
    let url = format!("{}?sslmode=require", source.url());
    server.ardent(&["connector", "create", "postgresql", &url, "--name", "prod", "--byoc"]).ok();
    server.kill();
    server.start_again();
    source.sql("insert into item values (2)");
    let url = server.branch("b1");
    assert_eq!(psql(&url, "select count(*) from item").ok(), "2");
    secrets_are_not_shown(&server);
}

#[test]
fn a_host_that_is_not_the_pinned_one_gets_nothing() {
    let network = Network::start();
    let server = Server::start();
    let key = network.key();
    let (key_file, url) = (key.display().to_string(), network.ssh_url());
    let other = std::fs::read_to_string(key.with_extension("pub")).expect("another public key");
    let create = ["environment", "create", "env_1", &url, "--key", &key_file, "--known-host"];
    server.ardent(&[create.as_slice(), &[&other]].concat()).ok();
    let source = "postgresql://u:sekret@10.0.0.1:5432/d";
    let preflight = ["connector", "preflight", "postgresql", source, "--byoc"];
    let report = server.ardent(&preflight).failed(2);
    assert!(report.contains("✗ tcp reachable"), "{report}");
    assert!(report.contains("another host key than known_host"), "{report}");
}

fn secrets_are_not_shown(server: &Server) {
    let log = server.log_text();
    for secret in ["s3cret", "PRIVATE KEY", "source%20pa%25ss"] {
        assert!(!log.contains(secret), "a secret in the log");
    }
}
