//! The sockets of one connector that lead through its environment.
//!
//! | socket | who connects | what it carries |
//! |---|---|---|
//! | `direct` | our own client | bytes as they are: TLS is between that client and the source |
//! | `.s.PGSQL.5432` | `pg_dump`, which has no TLS on a unix socket | Postgres in clear up to here, TLS from here on |
//!
//! Both lie in a directory that only the server's user can enter.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxy::client::{Target, dial};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::Way;
use crate::cause::Causes;

/// Open while it lives; dropping it ends what goes through.
pub struct Gateway {
    directory: PathBuf,
    /// Accepts connections and relays them.
    _relays: JoinSet<()>,
}

/// Connections through one gateway at a time; more than setup and stream use together.
const CONNECTIONS_MAX: usize = 256;

impl Gateway {
    /// Opens the sockets in `directory`, which is made for them. `endpoint` is where the far end
    /// connects to; the target it returns is the same source, reached through here.
    pub fn open(
        directory: &Path,
        way: Way,
        endpoint: (String, u16),
        source: &Target,
    ) -> io::Result<(Self, Target)> {
        match std::fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        let direct = directory.join("direct");
        let target = source.through(&direct);
        let mut relays = JoinSet::new();
        let way = Arc::new(way);
        relays.spawn(accept(UnixListener::bind(&direct)?, move |client| {
            relay_direct(client, way.clone(), endpoint.clone())
        }));
        let inside = target.clone();
        let plain = directory.join(".s.PGSQL.5432");
        relays.spawn(accept(UnixListener::bind(plain)?, move |client| {
            relay_encrypted(client, inside.clone())
        }));
        Ok((Self { directory: directory.to_owned(), _relays: relays }, target))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "sockets of a gateway stay behind");
        }
    }
}

async fn accept<F>(listener: UnixListener, relay: impl Fn(UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, _)) => drop(connections.spawn(relay(client))),
                Err(error) => {
                    tracing::error!(%error, "accept at a gateway");
                    return;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay_direct(mut client: UnixStream, way: Arc<Way>, (host, port): (String, u16)) {
    match way.open(&host, port).await {
        // Either end closing ends both; whoever spoke last knows why.
        Ok(mut far) => drop(copy_bidirectional(&mut client, &mut far).await),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "source not reached through environment")
        }
    }
}

async fn relay_encrypted(mut client: UnixStream, source: Target) {
    match dial(&source).await {
        Ok(mut far) => drop(copy_bidirectional(&mut client, &mut far).await),
        Err(error) => {
            tracing::warn!(error = %Causes(&error), "source not reached through environment")
        }
    }
}
