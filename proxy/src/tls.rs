//! Encryption of client connections: TLS 1.2 and 1.3, asked for by SSLRequest or begun at once.
//!
//! Also the hash of our certificate that SCRAM-SHA-256-PLUS binds to (RFC 5929, section 4): by
//! the hash function of the certificate's own signature, SHA-256 in place of older ones. A
//! certificate whose signature has no such function (Ed25519, RSA-PSS) gets no channel binding.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio_rustls::TlsAcceptor;

/// The protocol's name, as IANA registered it.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// The identity a listener shows to clients that encrypt.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) end_point: Option<Vec<u8>>,
    pub(crate) domain: Option<String>,
}

/// Why a certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file is not PEM, or holds no certificate.
    #[error("certificate file holds no certificate in PEM form")]
    Certificate,
    /// The key file is not PEM, or holds no private key.
    #[error("key file holds no private key in PEM form")]
    Key,
    /// They do not fit together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// From a certificate chain, leaf first, and its key, both in PEM form.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|_| TlsError::Certificate)?;
        let end_point = end_point_hash(chain.first().ok_or(TlsError::Certificate)?);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No Postgres client resumes sessions; tickets would cost a write per connection.
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), end_point, domain: None })
    }

    /// Lets the host name that a client connects to name its endpoint: `<endpoint>.<domain>`.
    #[must_use]
    pub fn with_domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into().to_ascii_lowercase());
        self
    }

    /// The endpoint in a host name: the one label before the domain.
    pub(crate) fn endpoint_in(&self, host: &str) -> Option<String> {
        let host = host.to_ascii_lowercase();
        let label = host.strip_suffix(self.domain.as_deref()?)?.strip_suffix('.')?;
        (!label.is_empty() && !label.contains('.')).then(|| label.to_owned())
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("domain", &self.domain).finish_non_exhaustive()
    }
}

fn end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let signature = signature_algorithm(certificate)?;
    let kind = signature.strip_prefix(RSA).or_else(|| signature.strip_prefix(ECDSA))?;
    Some(match (signature.starts_with(RSA), kind) {
        // md5, sha1 and sha256 with RSA; sha1 and sha256 with ECDSA.
        (true, [4 | 5 | 11]) | (false, [1] | [3, 2]) => Sha256::digest(certificate).to_vec(),
        (true, [12]) | (false, [3, 3]) => Sha384::digest(certificate).to_vec(),
        (true, [13]) | (false, [3, 4]) => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, ... }, ... }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = der_element(certificate)?;
    let (_tbs, rest) = der_element(certificate)?;
    let (algorithm, _) = der_element(rest)?;
    der_element(algorithm).map(|(oid, _)| oid)
}

/// The contents of the first DER element, and what follows it.
fn der_element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_is_read_within_bounds() {
        assert_eq!(der_element(&[0x30, 2, 7, 8, 9]), Some((&[7, 8][..], &[9][..])));
        assert_eq!(der_element(&[0x30, 0x81, 1, 7]), Some((&[7][..], &[][..])));
        for bad in [&[0x30][..], &[0x30, 3, 1], &[0x30, 0x85, 1, 1, 1, 1, 1], &[0x30, 0x84, 255]] {
            assert_eq!(der_element(bad), None, "{bad:?}");
        }
    }
}
