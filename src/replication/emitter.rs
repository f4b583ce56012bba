//! Our voice on the source: emits barriers and heartbeats into its log, and looks at the slot.
//!
//! Messages are transactional: only those let the source move the slot's restart position
//! (replication notes, section 7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proxy::client::Session;
use tokio::sync::Mutex;

use crate::lsn::Lsn;
use crate::source::{Plugin, Sequence};

use super::ddl::{Poller, ROLES_FINGERPRINT_SQL};
use super::error::{Error, at_source};
use super::link::Link;
use super::message::{Body, MessageKey};
use super::publication;
use super::sequences;
use super::shared::Shared;
use super::status::OpenTransaction;
use super::wal2json::MESSAGE_PREFIXES;

const SESSION_OPTIONS: &str =
    "-c statement_timeout=30s -c lock_timeout=10s -c synchronous_commit=local";

/// A schema that changes under so many looks in a row is taken as the last one saw it, where
/// nothing else tells of its changes.
const LOOKS_MAX: u32 = 5;

/// What a message is to say.
struct Text<'a> {
    prefix: &'a str,
    token: &'a str,
    /// How often to look at the schema first, until it stands still.
    looks: u32,
    /// What was seen has to be said, though it stood still for none of them.
    is_looked_for: bool,
}

/// What the slot looks like from the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotState {
    pub(super) current: Lsn,
    pub(super) retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(super) wal_status: String,
}

pub(super) struct Emitter {
    link: Link,
    key: MessageKey,
    shared: Arc<Shared>,
    /// One statement at a time; callers wait their turn.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    session: Option<Session>,
    /// What the trunk knows or will know once it has applied what was emitted.
    sent: HashMap<(String, String), (i64, bool)>,
    poller: Poller,
    /// Of the roles and settings that the trunk was told of.
    roles: Option<String>,
    /// Messages made.
    number: u64,
}

impl Emitter {
    pub(super) fn new(link: Link, key: MessageKey, shared: Arc<Shared>) -> Self {
        Self { link, key, shared, inner: Mutex::new(Inner::default()) }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// Emits a barrier: once the trunk has applied it, the trunk has everything that was committed
    /// on the source before this call, and its sequences.
    pub(super) async fn barrier(&self, token: String) -> Result<(), Error> {
        self.emit(MESSAGE_PREFIXES[0], token).await
    }

    pub(super) async fn heartbeat(&self) -> Result<(), Error> {
        self.emit(MESSAGE_PREFIXES[1], String::new()).await
    }

    async fn emit(&self, prefix: &str, token: String) -> Result<(), Error> {
        let mut inner = self.inner.lock().await;
        let wanted = self.shared.take_poll();
        if wanted.is_none() {
            inner.poller.reset();
        }
        let is_looked_for = wanted.as_ref().is_some_and(|wanted| wanted.is_only_way);
        let looks = if is_looked_for { LOOKS_MAX } else { u32::from(wanted.is_some()) };
        let text = Text { prefix, token: &token, looks, is_looked_for };
        let mut outcome = self.emit_exactly(&mut inner, &text).await;
        // A session that broke while idle is only noticed by using it.
        if matches!(&outcome, Err(error) if error.is_session()) {
            inner.session = None;
            outcome = self.emit_exactly(&mut inner, &text).await;
        }
        if let (Ok(()), Some(wanted)) = (&outcome, wanted) {
            wanted.done();
        }
        outcome
    }

    /// Emits until the schema was the same before and after.
    async fn emit_exactly(&self, inner: &mut Inner, text: &Text<'_>) -> Result<(), Error> {
        for look in 1..=text.looks {
            let session = self.session(&mut inner.session).await?;
            let poll = inner.poller.look(session, &self.link.schemas).await?;
            let name = format!("{:032x}", rand::random::<u128>());
            let polled = self.shared.announce_poll(name.clone());
            self.emit_once(inner, text, name).await?;
            let session = self.session(&mut inner.session).await?;
            // What never stands still is repaired by the next look.
            let is_last = text.is_looked_for && look == text.looks;
            if inner.poller.is_current(session).await? || is_last {
                inner.poller.tell();
                polled.send_replace(Some(Arc::new(poll)));
                return Ok(());
            }
        }
        if text.looks > 0 {
            // The stream tells of the changes too, and what is not exact would be ahead of it.
            self.shared.want_poll();
        }
        self.emit_once(inner, text, String::new()).await
    }

    async fn emit_once(
        &self,
        inner: &mut Inner,
        text: &Text<'_>,
        poll: String,
    ) -> Result<(), Error> {
        let session = self.session(&mut inner.session).await?;
        let mut moved = sequences::read(session, &self.link.schemas).await.map_err(at_source)?;
        moved.retain(|sequence| inner.sent.get(&id(sequence)) != Some(&state(sequence)));
        let row = session.query_one(ROLES_FINGERPRINT_SQL, &[]).await.map_err(at_source)?;
        let roles: String = row.try_get(0).map_err(at_source)?;
        let has_new_roles = inner.roles.as_ref() != Some(&roles);
        inner.number += 1;
        let (number, token) = (inner.number, text.token.to_owned());
        let body = Body { number, token, poll, has_new_roles, sequences: moved };
        let content = self.key.seal(&body)?;
        let emit = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)";
        session.execute(emit, &[&text.prefix, &content]).await.map_err(at_source)?;
        inner.roles = Some(roles);
        for sequence in &body.sequences {
            inner.sent.insert(id(sequence), state(sequence));
        }
        Ok(())
    }

    /// Where the source's sequences stand now.
    pub(super) async fn sequences(&self) -> Result<Vec<Sequence>, Error> {
        let mut inner = self.inner.lock().await;
        let session = self.session(&mut inner.session).await?;
        sequences::read(session, &self.link.schemas).await.map_err(at_source)
    }

    /// The transaction that keeps log on the source for longest, whoever's it is. Ours hold none.
    pub(super) async fn oldest_transaction(&self) -> Result<Option<OpenTransaction>, Error> {
        let mut inner = self.inner.lock().await;
        let session = self.session(&mut inner.session).await?;
        let Some(row) = session.query_opt(OLDEST_SQL, &[]).await.map_err(at_source)? else {
            return Ok(None);
        };
        let seconds: i64 = row.try_get(1).map_err(at_source)?;
        Ok(Some(OpenTransaction {
            holder: row.try_get(0).map_err(at_source)?,
            age: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        }))
    }

    /// Moves tables whose updates fail on the source because of our publications. Not left to the
    /// stream, which may be far behind.
    pub(super) async fn free_tables(&self) -> Result<(), Error> {
        if self.link.plugin == Plugin::Wal2json {
            return Ok(());
        }
        let mut inner = self.inner.lock().await;
        let session = self.session(&mut inner.session).await?;
        let strays = publication::strays(session, &self.link).await?;
        for stray in strays.iter().filter(|stray| stray.is_harmful()) {
            publication::place(session, &self.link, stray).await?;
        }
        Ok(())
    }

    pub(super) async fn slot_state(&self) -> Result<Option<SlotState>, Error> {
        let mut inner = self.inner.lock().await;
        let slot = self.link.slot();
        let outcome = {
            let session = self.session(&mut inner.session).await?;
            session.query_opt(SLOT_SQL, &[&slot]).await.map_err(at_source)
        };
        if matches!(&outcome, Err(Error::Source(proxy::client::Error::Session(_)))) {
            inner.session = None;
        }
        let Some(row) = outcome? else { return Ok(None) };
        let current: String = row.try_get(0).map_err(at_source)?;
        let retained: i64 = row.try_get(1).map_err(at_source)?;
        Ok(Some(SlotState {
            current: current.parse().unwrap_or_default(),
            retained_bytes: u64::try_from(retained).unwrap_or(0),
            wal_status: row.try_get(2).map_err(at_source)?,
        }))
    }

    async fn session<'a>(&self, slot: &'a mut Option<Session>) -> Result<&'a Session, Error> {
        if slot.as_ref().is_none_or(|session| session.is_closed()) {
            let target = self.link.source_target(SESSION_OPTIONS);
            *slot = Some(Session::open(&target).await.map_err(at_source)?);
        }
        slot.as_ref().ok_or(Error::Ended)
    }

    pub(super) async fn close(&self) {
        if let Some(session) = self.inner.lock().await.session.take() {
            session.close().await;
        }
    }
}

fn id(sequence: &Sequence) -> (String, String) {
    (sequence.schema.clone(), sequence.name.clone())
}

fn state(sequence: &Sequence) -> (i64, bool) {
    (sequence.last_value, sequence.is_called)
}

// Others' sessions show their transactions to everybody, their queries only to some.
const OLDEST_SQL: &str = "\
SELECT holder, extract(epoch FROM pg_catalog.now() - since)::bigint
  FROM (SELECT pg_catalog.format('process %s of role %s', pid, usename) AS holder,
               xact_start AS since
          FROM pg_catalog.pg_stat_activity
         WHERE backend_xid IS NOT NULL AND xact_start IS NOT NULL
           AND pid <> pg_catalog.pg_backend_pid()
        UNION ALL
        SELECT pg_catalog.format('prepared transaction %s', gid), prepared
          FROM pg_catalog.pg_prepared_xacts) AS open
 ORDER BY since LIMIT 1";

const SLOT_SQL: &str = "\
SELECT pg_catalog.pg_current_wal_lsn()::text,
       coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn),
                0)::bigint,
       coalesce(wal_status, 'lost')::text
  FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
