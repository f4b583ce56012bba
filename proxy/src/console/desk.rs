//! Runs statements for one client: passes notices on while one runs, and ends it early on cancel,
//! on the client's death and on stop.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Sink, SinkExt};
use pgwire::api::ClientInfo;
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::TransactionStatus;
use tokio_util::sync::CancellationToken;

use super::answer::{Answer, Notice, NoticeLevel, NoticeSender};
use super::{Console, ConsoleSession, Description, Statement, TransactionEffect};
use crate::cancel::RunningStatement;
use crate::refusal::Refusal;
use crate::stream::Hangup;

/// One client at the console.
pub(super) struct Desk<C> {
    pub(super) console: Arc<C>,
    pub(super) who: ConsoleSession,
    pub(super) running: Arc<RunningStatement>,
    pub(super) hangup: Hangup,
    pub(super) stop: CancellationToken,
    pub(super) stop_grace: Duration,
}

impl<C: Console> Desk<C> {
    /// Runs one described statement of `sql` and moves the transaction block accordingly.
    pub(super) async fn run<S>(
        &self,
        client: &mut S,
        sql: &str,
        description: &Description,
        parameters: &[Option<String>],
    ) -> PgWireResult<Answer>
    where
        S: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        let block = client.transaction_status();
        let effect = description.effect;
        check_block(block, effect)?;
        if let Some(warning) = block_warning(block, effect) {
            client.send(notice(warning)).await?;
        }
        let text = sql.get(description.span.clone()).ok_or_else(|| {
            user_error(Refusal::error("XX000", "statement lies outside its query string"))
        })?;
        let in_transaction = block != TransactionStatus::Idle;
        let statement = Statement { text, parameters, in_transaction };
        let mut answer = self.watch(client, statement).await?.map_err(|mut refusal| {
            let before = sql.get(..description.span.start).unwrap_or_default().chars().count();
            let before = u32::try_from(before).unwrap_or(0);
            refusal.position = refusal.position.map(|position| position.saturating_add(before));
            user_error(refusal)
        })?;
        client.set_transaction_status(match effect {
            TransactionEffect::None => block,
            TransactionEffect::Begin | TransactionEffect::RollBackTo => {
                TransactionStatus::Transaction
            }
            TransactionEffect::End => TransactionStatus::Idle,
        });
        if block == TransactionStatus::Error && effect == TransactionEffect::End {
            "ROLLBACK".clone_into(&mut answer.tag);
        }
        Ok(answer)
    }

    /// The outer result is about the connection, the inner one about the statement.
    async fn watch<S>(
        &self,
        client: &mut S,
        statement: Statement<'_>,
    ) -> PgWireResult<Result<Answer, Refusal>>
    where
        S: Sink<PgWireBackendMessage> + Unpin + Send,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        let (sender, mut notices) = NoticeSender::channel();
        let mut cancelled = self.running.start();
        let result = {
            let mut work = pin!(self.console.run(&self.who, statement, sender));
            let mut stopped = pin!(self.stopped());
            loop {
                tokio::select! {
                    biased;
                    Some(said) = notices.recv() => client.send(notice(said)).await?,
                    result = &mut work => break result,
                    Ok(()) = &mut cancelled => {
                        let text = "canceling statement due to user request";
                        break Err(Refusal::error("57014", text));
                    }
                    () = &mut stopped => break Err(terminated()),
                    () = self.hangup.happened() => {
                        return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
                    }
                }
            }
        };
        self.running.finish();
        while let Ok(said) = notices.try_recv() {
            client.feed(notice(said)).await?;
        }
        Ok(result)
    }

    async fn stopped(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(self.stop_grace).await;
    }
}

/// What a session is told when the server stops.
pub(super) fn terminated() -> Refusal {
    Refusal::fatal("57P01", "terminating connection due to administrator command")
}

/// A refusal in pgwire's terms.
pub(super) fn user_error(refusal: Refusal) -> PgWireError {
    let severity = refusal.severity.as_str().to_owned();
    let mut info = ErrorInfo::new(severity.clone(), refusal.sqlstate.to_owned(), refusal.message);
    info.severity_nonlocalized = Some(severity);
    info.detail = refusal.detail;
    info.hint = refusal.hint;
    info.position = refusal.position.map(|position| position.to_string());
    PgWireError::UserError(Box::new(info))
}

fn notice(notice: Notice) -> PgWireBackendMessage {
    let severity = match notice.level {
        NoticeLevel::Info => "INFO",
        NoticeLevel::Notice => "NOTICE",
        NoticeLevel::Warning => "WARNING",
    };
    let (severity, code) = (severity.to_owned(), notice.sqlstate.to_owned());
    let mut info = ErrorInfo::new(severity.clone(), code, notice.message);
    info.severity_nonlocalized = Some(severity);
    info.detail = notice.detail;
    info.hint = notice.hint;
    PgWireBackendMessage::NoticeResponse(info.into())
}

fn check_block(block: TransactionStatus, effect: TransactionEffect) -> PgWireResult<()> {
    let ends = matches!(effect, TransactionEffect::End | TransactionEffect::RollBackTo);
    if block != TransactionStatus::Error || ends {
        return Ok(());
    }
    let text = "current transaction is aborted, commands ignored until end of transaction block";
    Err(user_error(Refusal::error("25P02", text)))
}

fn block_warning(block: TransactionStatus, effect: TransactionEffect) -> Option<Notice> {
    let (sqlstate, text) = match (block, effect) {
        (TransactionStatus::Transaction, TransactionEffect::Begin) => {
            ("25001", "there is already a transaction in progress")
        }
        (TransactionStatus::Idle, TransactionEffect::End) => {
            ("25P01", "there is no transaction in progress")
        }
        _ => return None,
    };
    Some(Notice { sqlstate, ..Notice::warning(text) })
}
