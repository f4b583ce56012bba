//! What only one server at a time has: the lock of its data directory, its range of uids, and the
//! sockets that clients come in by. Taken at the start, or handed over by a running server.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixListener};

use super::{ServeOptions, ServerError, listen};
use crate::config::Config;
use crate::data_dir::{DataDir, DataDirLock};

/// The place of a server on its host.
pub(super) struct Place {
    pub(super) data_dir: DataDir,
    pub(super) lock: DataDirLock,
    /// Only a server of root has computes under uids of their own.
    pub(super) uids: Option<OwnedFd>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) admin: UnixListener,
}

impl Place {
    /// Takes a place that is free.
    pub(super) async fn take(options: &ServeOptions, config: &Config) -> Result<Self, ServerError> {
        let (data_dir, lock) = DataDir::prepare(&options.data_dir)?;
        let uids = claim_uids(config.compute.uid_base)?;
        let tcp = listen::bind_all(&options.listen).await?;
        let admin = bind_admin_socket(&data_dir, port_of(&tcp)?)?;
        Ok(Self { data_dir, lock, uids, tcp, admin })
    }

    /// The port that URLs and the name of the admin socket show.
    pub(super) fn port(&self) -> Result<u16, ServerError> {
        port_of(&self.tcp)
    }

    /// Where it listens.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, ServerError> {
        Ok(self.tcp.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
    }
}

fn port_of(listeners: &[TcpListener]) -> Result<u16, ServerError> {
    let nowhere = || std::io::Error::other("no address to listen on");
    Ok(listeners.first().ok_or_else(nowhere)?.local_addr()?.port())
}

/// Claims the range of uids for this server: every process of a compute's uid is taken for the
/// compute's, so two servers with one range would end each other's. The name is given back by the
/// kernel with the last copy of the descriptor.
fn claim_uids(base: u32) -> Result<Option<OwnedFd>, ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let name = UnixAddress::from_abstract_name(format!("ardent-uids-{base}"))?;
    match UnixDatagram::bind_addr(&name) {
        Ok(claim) => Ok(Some(claim.into())),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(ServerError::UidsTaken(base))
        }
        Err(error) => Err(error.into()),
    }
}

/// Sockets of earlier servers are removed: the CLI expects to find exactly one.
fn bind_admin_socket(data_dir: &DataDir, port: u16) -> Result<UnixListener, ServerError> {
    for entry in std::fs::read_dir(data_dir.run())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            std::fs::remove_file(entry.path())?;
        }
    }
    let path = data_dir.admin_socket(port);
    let listener = UnixListener::bind(&path)?;
    // Who may do what is decided by peer credentials and passwords, not by the file's mode.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
    Ok(listener)
}
