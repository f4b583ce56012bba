//! Encrypted connections, and what must not pass for one.

use std::process::Command;
use std::sync::Arc;

use proxy::{Policy, Tls};
use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::raw::{APP, GSSENC_REQUEST, Raw, SSL_REQUEST, error, packet, startup};
use crate::support::{Door, within};

struct Encrypted {
    door: Door,
    certificate: rcgen::Certificate,
    root_file: std::path::PathBuf,
}

async fn open(require_tls: bool) -> Encrypted {
    let names = ["localhost", "b1.test", "b2.test", "test", "nope.test"].map(str::to_owned);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let tls = Tls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let tls = tls.with_domain("Test");
    let policy = Policy { tls: Some(tls), require_tls, ..Policy::default() };
    let door = Door::with_policy(policy).await;
    let root_file = door.postgres.dir().join(format!("root-{}.crt", door.address.port()));
    std::fs::write(&root_file, certificate.pem()).unwrap();
    Encrypted { door, certificate, root_file }
}

impl Encrypted {
    /// psql with the system's libpq.
    async fn psql(&self, host: &str, user: &str, options: &str) -> Result<String, String> {
        let port = self.door.address.port();
        let root = self.root_file.display();
        let connection = format!(
            "host={host} hostaddr=127.0.0.1 port={port} user={user} password=secret dbname=shop \
             sslrootcert={root} {options}"
        );
        let sql = "select current_user, 6 * 7";
        let mut psql = Command::new("psql");
        psql.args(["-XAtd", &connection, "-c", sql]);
        let output = tokio::task::spawn_blocking(move || psql.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    async fn handshake(
        &self,
        host: &str,
        alpn: &[&[u8]],
        stream: TcpStream,
    ) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.ok()
    }

    async fn direct(&self, host: &str, alpn: &[&[u8]]) -> Option<Raw<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect(self.door.address).await.unwrap();
        self.handshake(host, alpn, stream).await.map(Raw)
    }
}

#[tokio::test]
async fn libpq_with_every_sslmode() {
    let server = open(false).await;
    for mode in ["disable", "prefer", "require", "verify-full"] {
        let options = format!("sslmode={mode}");
        assert_eq!(server.psql("localhost", "app.b1", &options).await.unwrap(), "app|42", "{mode}");
    }
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = format!(
            "sslmode=verify-full channel_binding=require ssl_min_protocol_version={version} \
             ssl_max_protocol_version={version}"
        );
        assert_eq!(server.psql("localhost", "app.b1", &options).await.unwrap(), "app|42");
    }
    server.door.close().await;
}

#[tokio::test]
async fn the_host_name_routes() {
    let server = open(false).await;
    let options = "sslmode=verify-full";
    assert_eq!(server.psql("b1.test", "app", options).await.unwrap(), "app|42");
    assert_eq!(server.psql("B2.TEST", "app", options).await.unwrap(), "app|42");
    let bare = server.psql("test", "app", options).await.unwrap_err();
    assert!(bare.contains("no branch given"), "{bare}");
    let unknown = server.psql("nope.test", "app", options).await.unwrap_err();
    assert!(unknown.contains("password authentication failed for user"), "{unknown}");
    let other = server.psql("b1.test", "app.b2", options).await.unwrap_err();
    assert!(other.contains("but user name names"), "{other}");
}

#[tokio::test]
async fn direct_tls_needs_alpn() {
    let server = open(false).await;
    let mut raw = server.direct("localhost", &[b"postgresql"]).await.unwrap();
    raw.send(&startup(0, &APP)).await;
    let offer = raw.message().await.1;
    assert_eq!(offer, b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
    let mut raw = server.direct("localhost", &[]).await.unwrap();
    assert_eq!(raw.rest().await, b"");
    assert!(server.direct("localhost", &[b"h2"]).await.is_none());
    // SSLRequest inside TLS.
    let mut raw = server.direct("localhost", &[b"postgresql"]).await.unwrap();
    raw.send(&SSL_REQUEST).await;
    assert!(error(&raw.rest().await).contains("C08P01|"));
}

#[tokio::test]
async fn plaintext_before_the_handshake_is_refused() {
    let server = open(false).await;
    let address = server.door.address;
    let injected = [&SSL_REQUEST[..], &startup(0, &APP)].concat();
    let answer = Raw::exchange(address, &injected).await;
    assert!(error(&answer).contains("Mreceived unencrypted data after SSL request|"));
    // Sent after the answer, it breaks the handshake.
    let mut raw = Raw::connect(address).await;
    raw.send(&GSSENC_REQUEST).await;
    assert_eq!(raw.bytes(1).await, b"N");
    raw.send(&SSL_REQUEST).await;
    assert_eq!(raw.bytes(1).await, b"S");
    raw.send(&startup(0, &APP)).await;
    let alert = raw.rest().await;
    assert!(alert.is_empty() || alert[0] == 0x15, "{alert:?}");
}

#[tokio::test]
async fn plaintext_may_be_refused_but_never_a_cancel() {
    let server = open(true).await;
    let answer = Raw::exchange(server.door.address, &startup(0, &APP)).await;
    assert!(error(&answer).contains("C28000|Mconnection requires TLS|HConnect with sslmode"));
    assert!(server.psql("localhost", "app.b1", "sslmode=require").await.is_ok());
    let cancel = [&80_877_102_u32.to_be_bytes()[..], &[0; 8]].concat();
    assert_eq!(Raw::exchange(server.door.address, &packet(&cancel)).await, b"");
}
