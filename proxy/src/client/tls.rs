//! TLS towards servers, with the meanings libpq gives to `sslmode`.
//!
//! `prefer` and `require` encrypt without asking who answers, unless `sslrootcert` is given, which
//! makes `require` mean `verify-ca` as in libpq. `verify-ca` checks the chain, `verify-full` the
//! name too.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_rustls::TlsConnector;

use super::dial::Stream;
use super::error::Error;
use super::target::{Host, Target, TlsMode};

pub(super) async fn handshake(target: &Target, stream: Stream) -> Result<Stream, Error> {
    let Host::Name(host) = &target.host else {
        return Err(Error::Protocol("TLS is for TCP only"));
    };
    let name = ServerName::try_from(host.clone()).map_err(|error| invalid(error.to_string()))?;
    let connector = TlsConnector::from(Arc::new(configuration(target)?));
    let stream = connector.connect(name, stream).await.map_err(Error::Tls)?;
    Ok(Box::new(stream))
}

fn configuration(target: &Target) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let check = match target.tls {
        TlsMode::VerifyFull => Check::Name(verifier(target, &provider)?),
        TlsMode::VerifyCa => Check::Chain(verifier(target, &provider)?),
        TlsMode::Require if target.root_certificate.is_some() => {
            Check::Chain(verifier(target, &provider)?)
        }
        _ => Check::Nothing,
    };
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier { check, provider }))
                .with_no_client_auth()
        })
        .map_err(|error| invalid(error.to_string()))
}

fn verifier(
    target: &Target,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    match &target.root_certificate {
        Some(path) => {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| invalid(error.to_string()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let describe = |error| invalid(format!("read sslrootcert {}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(describe)
}

fn invalid(text: String) -> Error {
    Error::Tls(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[derive(Debug)]
enum Check {
    Nothing,
    Chain(Arc<WebPkiServerVerifier>),
    Name(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (verifier, name_counts) = match &self.check {
            Check::Nothing => return Ok(ServerCertVerified::assertion()),
            Check::Chain(verifier) => (verifier, false),
            Check::Name(verifier) => (verifier, true),
        };
        match verifier.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is checked after the chain, so what is left wrong is the name alone.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !name_counts => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
