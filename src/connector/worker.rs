//! The one task of a connector: sets it up, follows the source, cuts branches, cleans up.
//!
//! States and moves are in [`ConnectorState`]; each state has one method below that runs until
//! the next move.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::cut::{Cut, CutError, CutRequest, ReferenceCut};
use super::setup::Setup;
use super::{ConnectorError, ConnectorServices, ConnectorView};
use crate::catalog::{ConnectorRecord, ConnectorState};
use crate::cause::Causes;
use crate::source::{SourceUrl, TableName};

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What a worker is asked.
pub(super) enum Command {
    /// Cut a branch.
    Cut(CutRequest, Reply<Cut, CutError>),
    /// Cut a branch where a snapshot of the source stands.
    CutAtReference(CutRequest, Reply<ReferenceCut, CutError>),
    /// Begin setup again, with these decisions.
    Retry(Option<String>, Reply<(), ConnectorError>),
    /// Copy a table in quarantine again.
    Release(TableName, Reply<bool, ConnectorError>),
    /// Remove everything, after a drain of at most so long.
    Delete(Option<Duration>, Reply<(), ConnectorError>),
}

/// Why a state was left.
pub(super) enum Next {
    /// For another state, with the reason operators see.
    State(ConnectorState, Option<String>),
    /// To be removed; whoever asked is told.
    Delete(Reply<(), ConnectorError>),
    /// Because the server stops.
    Stop,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its connector is gone.
    Deleted,
    /// The server stops; the next one carries on.
    Stopped,
}

impl Ended {
    pub(super) fn is_deleted(self) -> bool {
        self == Self::Deleted
    }
}

pub(super) struct Worker {
    pub(super) services: Arc<ConnectorServices>,
    pub(super) record: ConnectorRecord,
    pub(super) source: SourceUrl,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Taken from the queue while looking for cuts that can share one pause.
    pub(super) deferred: std::collections::VecDeque<Command>,
    pub(super) view: watch::Sender<ConnectorView>,
    pub(super) stop: CancellationToken,
}

impl Worker {
    pub(super) fn new(
        services: Arc<ConnectorServices>,
        (record, source): (ConnectorRecord, SourceUrl),
        (commands, view): (mpsc::Receiver<Command>, watch::Sender<ConnectorView>),
        stop: CancellationToken,
    ) -> Self {
        let deferred = std::collections::VecDeque::new();
        Self { services, record, source, commands, deferred, view, stop }
    }

    pub(super) async fn run(mut self) -> Ended {
        loop {
            let next = match self.record.state {
                ConnectorState::Validating => self.set_up().await,
                ConnectorState::Ready => self.follow().await,
                ConnectorState::SetupPending | ConnectorState::Broken => self.rest().await,
                ConnectorState::Deleting => return self.clean_up(None).await,
            };
            match next {
                Next::State(state, message) => self.move_to(state, message),
                Next::Delete(reply) => {
                    self.move_to(ConnectorState::Deleting, None);
                    return self.clean_up(Some(reply)).await;
                }
                Next::Stop => return Ended::Stopped,
            }
        }
    }

    /// Runs setup to its end, whoever watches.
    async fn set_up(&mut self) -> Next {
        let setup = Setup {
            services: self.services.clone(),
            record: self.record.clone(),
            source: self.source.clone(),
            view: self.view.clone(),
        }
        .run();
        tokio::pin!(setup);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Next::Stop,
                result = &mut setup => return match result {
                    Ok(false) => Next::State(ConnectorState::Ready, None),
                    Ok(true) => self.catch_up().await,
                    Err(error) => {
                        let message = Causes(&error).to_string();
                        tracing::warn!(connector = %self.record.made.name, %message, "setup failed");
                        Next::State(ConnectorState::SetupPending, Some(message))
                    }
                },
                command = self.commands.recv() => match command {
                    Some(Command::Retry(_, reply)) => drop(reply.send(Ok(()))),
                    Some(Command::Delete(_, reply)) => return Next::Delete(reply),
                    Some(Command::Cut(_, reply)) => drop(reply.send(Err(self.not_ready()))),
                    Some(Command::Release(_, reply)) => {
                        drop(reply.send(Err(ConnectorError::NotFollowing(None))));
                    }
                    Some(Command::CutAtReference(_, reply)) => {
                        drop(reply.send(Err(self.not_ready())));
                    }
                    None => return Next::Stop,
                },
            }
        }
    }

    /// Waits until an operator mends what is wrong.
    async fn rest(&mut self) -> Next {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Next::Stop,
                command = self.commands.recv() => match command {
                    Some(Command::Retry(decisions, reply)) => {
                        let stored = self.store_decisions(decisions);
                        let accepted = stored.is_ok();
                        let _ = reply.send(stored);
                        if accepted {
                            return Next::State(ConnectorState::Validating, None);
                        }
                    }
                    Some(Command::Delete(_, reply)) => return Next::Delete(reply),
                    Some(Command::Cut(_, reply)) => drop(reply.send(Err(self.not_ready()))),
                    Some(Command::Release(_, reply)) => {
                        drop(reply.send(Err(ConnectorError::NotFollowing(None))));
                    }
                    Some(Command::CutAtReference(_, reply)) => {
                        drop(reply.send(Err(self.not_ready())));
                    }
                    None => return Next::Stop,
                },
            }
        }
    }

    fn store_decisions(&mut self, decisions: Option<String>) -> Result<(), ConnectorError> {
        if let Some(decisions) = decisions {
            self.services.catalog.set_connector_decisions(self.record.id, &decisions)?;
            self.record.made.decisions = decisions;
        }
        // Whoever waits for setup to settle must see it begin before the reply.
        self.move_to(ConnectorState::Validating, None);
        Ok(())
    }

    pub(super) fn move_to(&mut self, state: ConnectorState, message: Option<String>) {
        let stored =
            self.services.catalog.set_connector_state(self.record.id, state, message.as_deref());
        if let Err(error) = stored {
            tracing::error!(connector = %self.record.made.name, error = %Causes(&error), "store connector state");
        }
        tracing::info!(connector = %self.record.made.name, state = state.as_str(), "connector");
        self.record.state = state;
        self.record.message.clone_from(&message);
        self.view.send_modify(|view| {
            view.state = state;
            view.message = message;
        });
    }

    pub(super) fn not_ready(&self) -> CutError {
        CutError::NotReady {
            name: self.record.made.name.clone(),
            state: self.record.state.as_str(),
            message: self.record.message.clone(),
        }
    }
}
