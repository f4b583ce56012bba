//! The identity that the front door shows where the operator configured none: a certificate
//! authority of this server, kept in `tls/` of the data directory, and a certificate signed by it
//! that lives in memory and is made anew long before it expires.
//!
//! | file | mode | what |
//! |---|---|---|
//! | `ca.key` | 0600 | the authority's key; made once |
//! | `ca.crt` | 0644 | its certificate: what clients name in `sslrootcert` |
//!
//! Clients hold copies of `ca.crt`, so neither file is ever replaced: the authority is valid for
//! longer than the server lives. Its name and everything else follow from its key.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proxy::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use sha2::{Digest, Sha256};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a certificate is valid. Clocks of clients may be behind ours by [`DAY`].
const VALID: Duration = DAY.saturating_mul(90);
const AUTHORITY_VALID: Duration = DAY.saturating_mul(365 * 50);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    /// A file cannot be read or made.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key is not one of ours, or a name cannot stand in a certificate.
    #[error("make certificate")]
    Certificate(#[from] rcgen::Error),
    /// What was made cannot be used.
    #[error("use certificate")]
    Unusable(#[from] proxy::TlsError),
}

/// The certificate authority of one server.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    /// Opens the authority of this directory, or founds it.
    pub(super) fn open(directory: &Path) -> Result<Self, AuthorityError> {
        let key_path = directory.join("ca.key");
        let key = match std::fs::read_to_string(&key_path) {
            Ok(pem) => KeyPair::from_pem(&pem)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate()?;
                create(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
            Err(source) => return Err(failed(&key_path, source)),
        };
        let parameters = authority_parameters(&key);
        let certificate = directory.join("ca.crt");
        if !certificate.exists() {
            create(&certificate, &parameters.self_signed(&key)?.pem(), 0o644)?;
        }
        Ok(Self { issuer: Issuer::new(parameters, key), certificate })
    }

    /// The file that clients verify us with.
    pub(super) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// A fresh identity for these host names and addresses.
    pub(super) fn identity(&self, names: Vec<String>) -> Result<Tls, AuthorityError> {
        let mut parameters = CertificateParams::new(names)?;
        let now = SystemTime::now();
        parameters.not_before = (now - DAY).into();
        parameters.not_after = (now + VALID).into();
        parameters.distinguished_name = named("Ardent");
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Tls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())?)
    }
}

fn authority_parameters(key: &KeyPair) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let now = SystemTime::now();
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + AUTHORITY_VALID).into();
    // Two servers' authorities have different names, or a client that trusts both takes the
    // wrong one's key.
    let print = Sha256::digest(key.subject_public_key_info());
    let print: String = print.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name = named(&format!("Ardent server {print}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Makes a file whole or not at all.
fn create(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let fresh = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, path));
    written.map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn is_founded_once_and_signs_again() {
        let directory = std::env::temp_dir().join(format!("ardent-tls-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let names = || vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let authority = Authority::open(&directory).unwrap();
        authority.identity(names()).unwrap();
        let certificate = std::fs::read(authority.certificate()).unwrap();
        let again = Authority::open(&directory).unwrap();
        again.identity(names()).unwrap();
        assert_eq!(std::fs::read(again.certificate()).unwrap(), certificate);
        let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions();
        assert_eq!(mode("ca.key").mode() & 0o777, 0o600);
        assert_eq!(mode("ca.crt").mode() & 0o777, 0o644);
        std::fs::write(directory.join("ca.key"), "nonsense").unwrap();
        assert!(Authority::open(&directory).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
