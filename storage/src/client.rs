//! Blocking client of the control socket: one connection, one request at a time.
//!
//! A call returns when the store has answered; there is no time limit, since the only slow answer
//! is a slow disk. After an error of the connection itself the client must be dropped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::Error;
use crate::id::BranchId;
use crate::wire::{
    BranchSummary, Finding, LINE_MAX, Owner, PROTOCOL_VERSION, Reply, Request, Usage,
};

/// A connection to the store.
#[derive(Debug)]
pub struct StoreClient {
    stream: BufReader<UnixStream>,
}

impl StoreClient {
    /// Connects and agrees on the protocol version.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| Error::Unreachable { socket: socket.to_path_buf(), source })?;
        let mut client = Self { stream: BufReader::new(stream) };
        match client.call(&Request::Hello { version: PROTOCOL_VERSION })? {
            Reply::Hello { version: PROTOCOL_VERSION } => Ok(client),
            Reply::Hello { version } => {
                Err(Error::Protocol { ours: PROTOCOL_VERSION, theirs: version })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Makes an empty branch; durable on return.
    pub fn create(&mut self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        self.command(&Request::Create { branch, owner })
    }

    /// Makes a branch of what lies in its [`incoming_dir`](crate::incoming_dir), which no process
    /// uses; durable on return. Files are moved, not copied, so the directory is spent, also by an
    /// error. Takes as long as the disk needs for what it does not hold yet.
    pub fn import(&mut self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        self.command(&Request::Import { branch, owner })
    }

    /// Makes `child` a copy of what `parent` holds now; durable on return.
    pub fn fork(&mut self, parent: BranchId, child: BranchId, owner: Owner) -> Result<(), Error> {
        self.command(&Request::Fork { parent, child, owner, tentative: false })
    }

    /// A fork of which nobody knows before it is confirmed: until then its syncs do nothing, so
    /// that a first start does not wait for the disk. After a crash of the host what it holds is
    /// undefined; whoever made it has to delete it.
    pub fn fork_tentative(
        &mut self,
        parent: BranchId,
        child: BranchId,
        owner: Owner,
    ) -> Result<(), Error> {
        self.command(&Request::Fork { parent, child, owner, tentative: true })
    }

    /// Makes a tentative branch durable with all it holds; on return, and what it syncs from then
    /// on.
    pub fn confirm(&mut self, branch: BranchId) -> Result<(), Error> {
        self.command(&Request::Confirm { branch })
    }

    /// Removes a branch; durable on return, its space follows in the background.
    pub fn delete(&mut self, branch: BranchId) -> Result<(), Error> {
        self.command(&Request::Delete { branch })
    }

    /// Changes who owns the files of a branch that no process has open.
    pub fn set_owner(&mut self, branch: BranchId, owner: Owner) -> Result<(), Error> {
        self.command(&Request::SetOwner { branch, owner })
    }

    /// Limits what a branch may come to hold of its own, that is, its unique bytes: files that a
    /// Postgres can do without extending stop growing there (EDQUOT). Durable on return.
    pub fn limit(&mut self, branch: BranchId, max_bytes: Option<u64>) -> Result<(), Error> {
        self.command(&Request::Limit { branch, max_bytes })
    }

    /// To be called before every start of a compute: everything the branch holds now will be
    /// durable before the compute's first fsync returns.
    pub fn begin_compute(&mut self, branch: BranchId) -> Result<(), Error> {
        self.command(&Request::BeginCompute { branch })
    }

    /// What a branch costs.
    pub fn usage(&mut self, branch: BranchId) -> Result<Usage, Error> {
        match self.call(&Request::Usage { branch })? {
            Reply::Usage(usage) => Ok(usage),
            other => Err(unexpected(&other)),
        }
    }

    /// All branches, by number.
    pub fn list(&mut self) -> Result<Vec<BranchSummary>, Error> {
        match self.call(&Request::List)? {
            Reply::List { branches } => Ok(branches),
            other => Err(unexpected(&other)),
        }
    }

    /// Everything that is not as it must be. The store goes on meanwhile.
    pub fn check(&mut self) -> Result<Vec<Finding>, Error> {
        match self.call(&Request::Check)? {
            Reply::Check { findings } => Ok(findings),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the store to stop. The process ends some time after the reply.
    pub fn shutdown(&mut self) -> Result<(), Error> {
        self.command(&Request::Shutdown)
    }

    fn command(&mut self, request: &Request) -> Result<(), Error> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, Error> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from).map_err(broken)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(broken)?;
        line.clear();
        let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
        self.stream.by_ref().take(limit).read_until(b'\n', &mut line).map_err(broken)?;
        if line.pop() != Some(b'\n') {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Refused { code, message }) => Err(Error::Refused { code, message }),
            Ok(reply) => Ok(reply),
            Err(_) => {
                line.truncate(200);
                Err(Error::UnexpectedReply { reply: String::from_utf8_lossy(&line).into_owned() })
            }
        }
    }
}

fn broken(source: io::Error) -> Error {
    Error::Connection(source)
}

fn unexpected(reply: &Reply) -> Error {
    Error::UnexpectedReply { reply: format!("{reply:?}") }
}
