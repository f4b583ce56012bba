//! The control socket: reads requests, asks the store, writes replies.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;

use crate::error::{Error, RefusalCode};
use crate::mount::Mounted;
use crate::store::Store;
use crate::wire::{FINDINGS_MAX, LINE_MAX, PROTOCOL_VERSION, Reply, Request};

/// Connections served at a time. The server needs a handful; the rest wait in the backlog's place
/// by being refused at once.
const CONNECTIONS_MAX: usize = 128;

/// What connections share.
pub(crate) struct Control {
    pub(crate) store: Arc<Store>,
    pub(crate) mounted: Arc<Mounted>,
    /// A message here ends the process.
    pub(crate) stop: SyncSender<()>,
    connections: AtomicUsize,
}

impl Control {
    pub(crate) fn new(store: Arc<Store>, mounted: Arc<Mounted>, stop: SyncSender<()>) -> Self {
        Self { store, mounted, stop, connections: AtomicUsize::new(0) }
    }

    /// Serves connections for as long as the process lives.
    pub(crate) fn serve(self: &Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => self.accept(stream),
                Err(error) => tracing::warn!(%error, "accept on the control socket"),
            }
        }
    }

    fn accept(self: &Arc<Self>, stream: UnixStream) {
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("too many control connections");
            return;
        }
        let control = self.clone();
        let spawned = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            if let Err(error) = control.converse(stream) {
                tracing::debug!(%error, "control connection ended");
            }
            control.connections.fetch_sub(1, Ordering::AcqRel);
        });
        if let Err(error) = spawned {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(%error, "start a thread for a control connection");
        }
    }

    fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut greeted = false;
        loop {
            let Some(request) = read_request(&mut stream)? else { return Ok(()) };
            let (reply, last) = match request {
                Ok(Request::Hello { version }) => {
                    greeted = version == PROTOCOL_VERSION;
                    // The client compares too, so that each end names both versions.
                    (Reply::Hello { version: PROTOCOL_VERSION }, !greeted)
                }
                Ok(_) if !greeted => {
                    let message = "the first request must be hello".to_owned();
                    (Reply::Refused { code: RefusalCode::BadRequest, message }, true)
                }
                Ok(Request::Shutdown) => (Reply::Done, true),
                Ok(ref request) => (self.answer(request), false),
                Err(ref message) => {
                    let message = message.clone();
                    (Reply::Refused { code: RefusalCode::BadRequest, message }, true)
                }
            };
            let mut line = serde_json::to_vec(&reply)?;
            line.push(b'\n');
            stream.get_mut().write_all(&line)?;
            if matches!(request, Ok(Request::Shutdown)) && greeted {
                // Full means that it is being stopped already.
                if self.stop.try_send(()).is_err() {
                    tracing::debug!("already stopping");
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        self.carry_out(request).unwrap_or_else(|error| {
            tracing::info!(?request, error = &error as &dyn std::error::Error, "refused");
            Reply::Refused { code: error.code(), message: error.with_causes() }
        })
    }

    fn carry_out(&self, request: &Request) -> Result<Reply, Error> {
        match *request {
            Request::Create { branch, owner } => {
                self.store.create(branch, owner)?;
                self.mounted.relist();
            }
            Request::Import { branch, owner } => {
                self.store.import(branch, owner)?;
                self.mounted.relist();
            }
            Request::Fork { parent, child, owner, tentative } => {
                if tentative {
                    self.store.fork_tentative(parent, child, owner)?;
                } else {
                    self.store.fork(parent, child, owner)?;
                }
                self.mounted.relist();
            }
            Request::Confirm { branch } => self.store.confirm(branch)?,
            Request::Delete { branch } => {
                self.store.delete(branch)?;
                self.mounted.forget(branch);
                self.mounted.relist();
            }
            Request::SetOwner { branch, owner } => {
                self.store.set_owner(branch, owner)?;
                self.mounted.forget(branch);
            }
            Request::Limit { branch, max_bytes } => self.store.limit(branch, max_bytes)?,
            Request::BeginCompute { branch } => {
                self.store.begin_compute(branch)?;
                if self.store.branch(branch)?.take_lost() {
                    self.mounted.forget(branch);
                }
            }
            Request::Usage { branch } => return Ok(Reply::Usage(self.store.usage(branch)?)),
            Request::List => return Ok(Reply::List { branches: self.store.list()? }),
            Request::Check => {
                let mut findings = self.store.check()?;
                findings.truncate(FINDINGS_MAX);
                return Ok(Reply::Check { findings });
            }
            Request::Hello { .. } | Request::Shutdown => {}
        }
        Ok(Reply::Done)
    }
}

/// One request, the reason why it is none, or the end of the connection.
fn read_request(stream: &mut BufReader<UnixStream>) -> io::Result<Option<Result<Request, String>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
    stream.by_ref().take(limit).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line).map_err(|error| error.to_string())))
}
