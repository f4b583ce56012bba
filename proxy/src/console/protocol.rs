//! Both query protocols over a [`Desk`]: what pgwire asks of a server.
//!
//! pgwire's own query loops are not used, because they add row counts to command tags, know no
//! notices while a statement runs, and index formats by numbers that came from the client.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{Sink, SinkExt, StreamExt, stream};
use pgwire::api::portal::{Format, Portal, PortalExecutionState};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_ready_for_query};
use pgwire::api::results::{FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::RowDescription;
use pgwire::messages::extendedquery::{Bind, BindComplete, Execute, PortalSuspended};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse};
use pgwire::messages::simplequery::Query;

use super::desk::{Desk, user_error};
use super::{Answer, Console, Description, encode};
use crate::refusal::Refusal;

/// A parsed statement with the text it came from.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    sql: Arc<str>,
    description: Arc<Description>,
}

/// Parses through the console.
pub(super) struct Parser<C>(Arc<C>);

#[async_trait]
impl<C: Console> SimpleQueryHandler for Desk<C> {
    async fn on_query<S>(&self, client: &mut S, query: Query) -> PgWireResult<()>
    where
        S: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        S::PortalStore: PortalStore,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        client.set_state(PgWireConnectionState::QueryInProgress);
        let sql = query.query;
        let descriptions = self.console.describe(&sql).map_err(user_error)?;
        if descriptions.is_empty() {
            client
                .feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                .await?;
        }
        for description in &descriptions {
            if description.parameters > 0 {
                return Err(user_error(Refusal::error("42P02", "there is no parameter $1")));
            }
            let answer = self.run(client, &sql, description, &[]).await?;
            send_answer(client, description, answer).await?;
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        send_ready_for_query(client, client.transaction_status()).await
    }

    async fn do_query<S>(&self, _client: &mut S, _query: &str) -> PgWireResult<Vec<Response>>
    where
        S: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        S::PortalStore: PortalStore,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        // `on_query` above is the whole of it.
        Ok(Vec::new())
    }
}

async fn send_answer<S>(
    client: &mut S,
    description: &Description,
    answer: Answer,
) -> PgWireResult<()>
where
    S: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
{
    if !description.columns.is_empty() {
        let fields = encode::fields(&description.columns, |_| FieldFormat::Text);
        let described = RowDescription::new(fields.iter().map(Into::into).collect());
        client.feed(PgWireBackendMessage::RowDescription(described)).await?;
        for values in &answer.rows {
            let row = encode::row(&fields, values);
            client.feed(PgWireBackendMessage::DataRow(row)).await?;
        }
    }
    let done = CommandComplete::new(answer.tag);
    client.feed(PgWireBackendMessage::CommandComplete(done)).await?;
    Ok(())
}

#[async_trait]
impl<C: Console> ExtendedQueryHandler for Desk<C> {
    type Statement = Prepared;
    type QueryParser = Parser<C>;

    fn query_parser(&self) -> Arc<Parser<C>> {
        Arc::new(Parser(Arc::clone(&self.console)))
    }

    async fn on_bind<S>(&self, client: &mut S, message: Bind) -> PgWireResult<()>
    where
        S: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        S::PortalStore: PortalStore<Statement = Prepared>,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        match client.portal_store().get_statement(name) {
            Some(Entry::Value(statement)) => {
                check_bind(&message, &statement.statement.description)?;
                let portal = Portal::try_new(&message, statement)?;
                client.portal_store().put_portal(Arc::new(portal));
            }
            Some(Entry::Empty) => {
                let portal = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
                client.portal_store().put_empty_portal(portal);
            }
            None => return Err(PgWireError::StatementNotFound(name.to_owned())),
        }
        client.feed(PgWireBackendMessage::BindComplete(BindComplete::new())).await?;
        Ok(())
    }

    async fn on_execute<S>(&self, client: &mut S, message: Execute) -> PgWireResult<()>
    where
        S: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        S::PortalStore: PortalStore<Statement = Prepared>,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let max_rows = usize::try_from(message.max_rows).unwrap_or(0);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client
                    .feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()))
                    .await?;
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        let state = portal.state();
        let is_new = matches!(*state.lock().await, PortalExecutionState::Initial);
        if is_new {
            match ExtendedQueryHandler::do_query(self, client, &portal, max_rows).await? {
                Response::Query(rows) => portal.start(rows).await,
                Response::Execution(tag) => {
                    let done = CommandComplete::from(tag);
                    client.feed(PgWireBackendMessage::CommandComplete(done)).await?;
                    return Ok(());
                }
                _ => return Err(user_error(Refusal::error("XX000", "unexpected response"))),
            }
        }
        let mut fetched = portal.fetch(max_rows).await?;
        while let Some(row) = fetched.response.data_rows().next().await {
            client.feed(PgWireBackendMessage::DataRow(row?)).await?;
        }
        client
            .feed(if fetched.suspended {
                PgWireBackendMessage::PortalSuspended(PortalSuspended::new())
            } else {
                let tag = fetched.response.command_tag().to_owned();
                PgWireBackendMessage::CommandComplete(CommandComplete::new(tag))
            })
            .await?;
        Ok(())
    }

    async fn do_query<S>(
        &self,
        client: &mut S,
        portal: &Portal<Prepared>,
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        S: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        S::PortalStore: PortalStore<Statement = Prepared>,
        S::Error: Debug,
        PgWireError: From<<S as Sink<PgWireBackendMessage>>::Error>,
    {
        let Prepared { sql, description } = &portal.statement.statement;
        let parameters = text_parameters(portal)?;
        let answer = self.run(client, sql, description, &parameters).await?;
        if description.columns.is_empty() {
            return Ok(Response::Execution(Tag::new(&answer.tag)));
        }
        let format = |index| portal.result_column_format.format_for(index);
        let fields = Arc::new(encode::fields(&description.columns, format));
        let rows: Vec<_> =
            answer.rows.iter().map(|values| Ok(encode::row(&fields, values))).collect();
        let mut response = QueryResponse::new(fields, stream::iter(rows));
        response.set_command_tag(&answer.tag);
        Ok(Response::Query(response))
    }
}

#[async_trait]
impl<C: Console> QueryParser for Parser<C> {
    type Statement = Prepared;

    async fn parse_sql<S>(
        &self,
        _client: &S,
        sql: &str,
        _types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        S: ClientInfo + Unpin + Send + Sync,
    {
        let mut descriptions = self.0.describe(sql).map_err(user_error)?;
        let Some(description) = descriptions.pop() else { return Ok(None) };
        if !descriptions.is_empty() {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(user_error(Refusal::error("42601", text)));
        }
        Ok(Some(Prepared { sql: sql.into(), description: Arc::new(description) }))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(vec![Type::TEXT; prepared.description.parameters])
    }

    fn get_result_schema(
        &self,
        prepared: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        let format = |index| format.map_or(FieldFormat::Text, |format| format.format_for(index));
        Ok(encode::fields(&prepared.description.columns, format))
    }
}

/// The numbers in a Bind come from the client and are used as indexes later: checked here.
fn check_bind(bind: &Bind, description: &Description) -> PgWireResult<()> {
    let given = bind.parameters.len();
    let formats = |codes: &[i16], count: usize| codes.len() <= 1 || codes.len() == count;
    let problem = if given != description.parameters {
        let wanted = description.parameters;
        format!(
            "bind message supplies {given} parameters, but prepared statement requires {wanted}"
        )
    } else if !formats(&bind.parameter_format_codes, given) {
        let codes = bind.parameter_format_codes.len();
        format!("bind message has {codes} parameter formats but {given} parameters")
    } else if !formats(&bind.result_column_format_codes, description.columns.len()) {
        let (codes, columns) = (bind.result_column_format_codes.len(), description.columns.len());
        format!("bind message has {codes} result formats but query has {columns} columns")
    } else {
        return Ok(());
    };
    Err(user_error(Refusal::error("08P01", problem)))
}

/// Parameters are text, whatever the client declares; the binary form of what drivers send for
/// numbers and booleans is turned into text.
fn text_parameters(portal: &Portal<Prepared>) -> PgWireResult<Vec<Option<String>>> {
    let text = |index: usize| {
        let Some(Some(bytes)) = portal.parameters.get(index) else { return Ok(None) };
        let declared = portal.statement.parameter_types.get(index).cloned().flatten();
        let declared = declared.filter(|_| portal.parameter_format.is_binary(index));
        let text = match (declared, bytes.as_ref()) {
            (Some(Type::INT2), &[a, b]) => Some(i16::from_be_bytes([a, b]).to_string()),
            (Some(Type::INT4), &[a, b, c, d]) => Some(i32::from_be_bytes([a, b, c, d]).to_string()),
            (Some(Type::INT8), &[a, b, c, d, e, f, g, h]) => {
                Some(i64::from_be_bytes([a, b, c, d, e, f, g, h]).to_string())
            }
            (Some(Type::BOOL), &[truth]) => Some((truth != 0).to_string()),
            (Some(Type::TEXT | Type::VARCHAR | Type::UNKNOWN | Type::NAME) | None, bytes) => {
                std::str::from_utf8(bytes).ok().map(str::to_owned)
            }
            _ => None,
        };
        text.map(Some).ok_or_else(|| {
            let text = format!("parameter ${} is not text", index + 1);
            user_error(Refusal::error("22P03", text).with_hint("Send it as text."))
        })
    };
    (0..portal.parameters.len()).map(text).collect()
}
