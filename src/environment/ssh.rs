//! An ssh host that forwards connections, as `ssh -W` does. One ssh connection carries all
//! channels; it is made on first use, and anew after it broke.

use std::sync::Arc;
use std::time::Duration;

use proxy::client::Stream;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use tokio::sync::Mutex;

use super::url::Address;
use super::{InvalidWay, WayError};
use crate::secret::Secret;

/// A host or middlebox that vanished is noticed after four of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_MAX: usize = 3;

pub(super) struct Ssh {
    address: Address,
    user: String,
    login: Login,
    host_keys: Vec<PublicKey>,
    /// The connection in use. Held while one is made, so that only one is.
    connection: Mutex<Option<Handle<KnownHost>>>,
}

enum Login {
    Key(Arc<PrivateKey>),
    Password(Secret),
}

impl Ssh {
    pub(super) fn new(
        address: &Address,
        key: Option<&Secret>,
        known_host: Option<&str>,
    ) -> Result<Self, InvalidWay> {
        let user = address.user.clone().ok_or(InvalidWay::Missing("a user in the URL"))?;
        let login = match (key, &address.password) {
            (Some(key), _) => {
                let key = russh::keys::decode_secret_key(key.reveal(), None);
                Login::Key(Arc::new(key.map_err(InvalidWay::Key)?))
            }
            (None, Some(password)) => Login::Password(password.clone()),
            (None, None) => return Err(InvalidWay::Missing("a key, or a password in the URL")),
        };
        let known_host = known_host.ok_or(InvalidWay::Missing("the host's key: known_host"))?;
        let host_keys = host_keys(known_host);
        if host_keys.is_empty() {
            return Err(InvalidWay::KnownHost);
        }
        let address = address.clone();
        Ok(Self { address, user, login, host_keys, connection: Mutex::new(None) })
    }

    pub(super) async fn open(&self, host: &str, port: u16) -> Result<Stream, WayError> {
        let mut connection = self.connection.lock().await;
        let handle = match connection.take().filter(|handle| !handle.is_closed()) {
            Some(handle) => handle,
            None => self.connect().await?,
        };
        // What the far end says of where we come from; it has no use for it.
        let opened = handle
            .channel_open_direct_tcpip(host, u32::from(port), "127.0.0.1", 0)
            .await
            .map_err(|source| self.failed(source));
        *connection = Some(handle);
        Ok(Box::new(opened?.into_stream()))
    }

    async fn connect(&self) -> Result<Handle<KnownHost>, WayError> {
        let config = client::Config {
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            keepalive_max: KEEPALIVE_MAX,
            nodelay: true,
            ..client::Config::default()
        };
        let known = KnownHost(self.host_keys.clone());
        let place = (self.address.host.as_str(), self.address.port);
        let connected = client::connect(Arc::new(config), place, known).await;
        let mut handle = connected.map_err(|source| self.failed(source))?;
        let login = match &self.login {
            Login::Password(password) => {
                handle.authenticate_password(&self.user, password.reveal()).await
            }
            Login::Key(key) => {
                let hash = handle.best_supported_rsa_hash().await;
                let hash = hash.map_err(|source| self.failed(source))?.flatten();
                let key = PrivateKeyWithHashAlg::new(key.clone(), hash);
                handle.authenticate_publickey(&self.user, key).await
            }
        };
        match login.map_err(|source| self.failed(source))? {
            AuthResult::Success => Ok(handle),
            AuthResult::Failure { .. } => Err(WayError::Refused(self.address.to_string())),
        }
    }

    fn failed(&self, source: russh::Error) -> WayError {
        let address = self.address.to_string();
        match source {
            russh::Error::UnknownKey => WayError::HostKey(address),
            russh::Error::IO(source) => WayError::Unreachable { address, source },
            source => WayError::Ssh { address, source },
        }
    }
}

/// Knows the host by its keys.
struct KnownHost(Vec<PublicKey>);

impl client::Handler for KnownHost {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.0.iter().any(|known| known.key_data() == key.key_data())
            }
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }
}

/// The keys in lines of `known_hosts`, of `ssh-keyscan`, or of a `.pub` file.
fn host_keys(text: &str) -> Vec<PublicKey> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(host_key).collect()
}

fn host_key(line: &str) -> Option<PublicKey> {
    let mut words = line.split_whitespace();
    let kind = words.find(|word| word.starts_with("ssh-") || word.starts_with("ecdsa-"))?;
    PublicKey::from_openssh(&format!("{kind} {}", words.next()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn host_keys_are_found_in_every_usual_form() {
        let forms = [
            KEY.to_owned(),
            format!("{KEY} root@bastion"),
            format!("bastion.example.com {KEY}"),
            format!("# bastion:22 SSH-2.0-OpenSSH_9.2\n[bastion]:2222,10.0.0.1 {KEY}\n"),
            format!("|1|aGFzaA==|aGFzaA== {KEY}"),
        ];
        for form in forms {
            assert_eq!(host_keys(&form).len(), 1, "{form}");
        }
        assert!(host_keys("bastion ssh-ed25519 nonsense\nnothing").is_empty());
    }

    #[test]
    fn refuses_what_could_not_log_in_or_prove_the_host() {
        let refusal = |url: &str, known_host: Option<&str>| {
            let address = Address::parse(url).unwrap();
            Ssh::new(&address, None, known_host).err().unwrap().to_string()
        };
        assert!(refusal("ssh://h", Some(KEY)).contains("a user"));
        assert!(refusal("ssh://u@h", Some(KEY)).contains("a key"));
        assert!(refusal("ssh://u:p@h", None).contains("known_host"));
        assert!(refusal("ssh://u:p@h", Some("nonsense")).contains("no public key"));
        let address = Address::parse("ssh://u@h").unwrap();
        let bad = Ssh::new(&address, Some(&Secret::new("not a key")), Some(KEY)).err().unwrap();
        assert_eq!(bad.to_string(), "the private key cannot be read");
    }
}
