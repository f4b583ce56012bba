//! The server's own runtime, as seen from a lane: what routes and what answers admin statements
//! runs there, whoever asks.
//!
//! A route is asked in the home's context: what it spawns, opens or waits for belongs to the home,
//! while an answer that is at hand costs no change of threads. A statement runs as a task of the
//! home, because it may compute for long.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::context::TokioContext;
use tokio_util::task::AbortOnDropHandle;

use crate::console::{Answer, Console, ConsoleSession, Description, NoticeSender, Statement};
use crate::refusal::Refusal;
use crate::route::{Backend, Route};
use crate::scram::ScramVerifier;

/// A [`Route`] or [`Console`] that stays at home.
pub(crate) struct Home<T> {
    inner: Arc<T>,
    runtime: Handle,
}

impl<T> Home<T> {
    /// At home on the runtime of the caller.
    pub(crate) fn here(inner: Arc<T>) -> Self {
        Self { inner, runtime: Handle::current() }
    }

    async fn ask<F: Future>(&self, question: F) -> F::Output {
        TokioContext::new(question, self.runtime.clone()).await
    }
}

impl<R: Route> Route for Home<R> {
    fn is_endpoint(&self, name: &str) -> bool {
        self.inner.is_endpoint(name)
    }

    async fn verifier(&self, endpoint: &str, role: &str) -> Result<Option<ScramVerifier>, Refusal> {
        self.ask(self.inner.verifier(endpoint, role)).await
    }

    async fn verifier_again(
        &self,
        endpoint: &str,
        role: &str,
    ) -> Result<Option<ScramVerifier>, Refusal> {
        self.ask(self.inner.verifier_again(endpoint, role)).await
    }

    async fn wake(&self, endpoint: &str, role: &str) -> Result<Backend, Refusal> {
        self.ask(self.inner.wake(endpoint, role)).await
    }

    fn compute_of(&self, backend_pid: i32) -> Option<PathBuf> {
        self.inner.compute_of(backend_pid)
    }
}

impl<C: Console> Console for Home<C> {
    async fn verifier(&self, role: &str) -> Option<ScramVerifier> {
        self.ask(self.inner.verifier(role)).await
    }

    fn describe(&self, sql: &str) -> Result<Vec<Description>, Refusal> {
        self.inner.describe(sql)
    }

    async fn run(
        &self,
        session: &ConsoleSession,
        statement: Statement<'_>,
        notices: NoticeSender,
    ) -> Result<Answer, Refusal> {
        let (console, session) = (Arc::clone(&self.inner), session.clone());
        let (text, parameters) = (statement.text.to_owned(), statement.parameters.to_vec());
        let in_transaction = statement.in_transaction;
        let work = async move {
            let statement = Statement { text: &text, parameters: &parameters, in_transaction };
            console.run(&session, statement, notices).await
        };
        match AbortOnDropHandle::new(self.runtime.spawn(work)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "admin statement");
                Err(Refusal::error("XX000", "the statement broke off; the server's log says why"))
            }
        }
    }
}
