//! Makes the trunk's objects equal to what a message says of the source's.

use std::fmt;

use crate::lsn::Lsn;
use crate::source::TableName;

use super::super::applier::Applier;
use super::super::cache::Cache;
use super::super::error::{Error, at_trunk};
use super::super::link::{Link, TrunkAccess};
use super::super::message::MessageKey;
use super::capture::Capture;
use super::captured::Captured;
use super::describe::Describer;
use super::difference::{Step, steps};
use super::object::{Class, Object};
use super::{extension, known};

/// What begins a message of the event triggers, and the one right after it that makes it valid.
const MARK: &str = "ddl ";
const SEAL_MARK: &str = "seal ";
/// Making one fact can be what another waits for; more rounds than this help nobody.
const ROUNDS_MAX: usize = 8;
/// Objects kept for another try.
const UNEQUAL_MAX: usize = 1_000;

/// An applier's means of replaying.
pub(in super::super) struct Replay {
    pub(in super::super) link: Link,
    pub(in super::super) trunk: TrunkAccess,
    key: Option<MessageKey>,
    /// A message that has not been sealed yet, and its place.
    unsealed: Option<(Lsn, String)>,
    describer: Describer,
    /// The source transaction at hand changed the schema: a new label of an enum can be used in
    /// a later transaction only, so nothing joins this one.
    pub(in super::super) has_replayed: bool,
    has_fresh_roles: bool,
    /// What differs from the source as last heard of, to be tried again when rows have come that
    /// were missing.
    pub(super) unequal: Vec<Object>,
}

/// What Postgres had against a statement.
pub(in super::super) struct Refusal {
    code: String,
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Replay {
    pub(in super::super) fn new(link: &Link, trunk: &TrunkAccess, capture: &Capture) -> Self {
        let key = match capture {
            Capture::Triggers(key) => Some(key.clone()),
            Capture::Unavailable(_) => None,
        };
        Self {
            link: link.clone(),
            trunk: trunk.clone(),
            key,
            unsealed: None,
            describer: Describer::default(),
            has_replayed: false,
            has_fresh_roles: false,
            unequal: Vec::new(),
        }
    }

    /// Schema changes come as messages, so a table that is missing may be about to come.
    pub(in super::super) fn is_capturing(&self) -> bool {
        self.key.is_some()
    }

    /// True for a message that says to come from our event triggers.
    pub(in super::super) fn is_addressed(content: &str) -> bool {
        content.starts_with(MARK) || content.starts_with(SEAL_MARK)
    }

    /// The body that this seals, if our event triggers made both, there.
    fn unseal(&mut self, seal: &str) -> Option<String> {
        let (place, body) = self.unsealed.take()?;
        let is_ours = self.key.as_ref()?.has_made(seal, &format!("{} {body}", place.0));
        is_ours.then_some(body)
    }

    /// Takes out some of what differs from the source.
    pub(super) fn forget_unequal(&mut self, is_meant: impl Fn(&Object) -> bool) -> Vec<Object> {
        let all = std::mem::take(&mut self.unequal);
        let (forgotten, left) = all.into_iter().partition(is_meant);
        self.unequal = left;
        forgotten
    }

    fn is_followed(&self, schema: &str) -> bool {
        let schemas = &self.link.schemas;
        schemas.is_empty() || schema.is_empty() || schemas.iter().any(|other| other == schema)
    }
}

impl Applier {
    /// Replays one message at its place in the stream.
    pub(in super::super) async fn take_schema_change(
        &mut self,
        content: &str,
        lsn: Lsn,
    ) -> Result<(), Error> {
        if let Some(body) = content.strip_prefix(MARK) {
            if self.replay.unsealed.replace((lsn, body.to_owned())).is_some() {
                self.refuse_forged();
            }
            return Ok(());
        }
        let seal = content.strip_prefix(SEAL_MARK).unwrap_or_default();
        let Some(body) = self.replay.unseal(seal) else {
            self.refuse_forged();
            return Ok(());
        };
        let captured: Captured = serde_json::from_str(&body)?;
        self.run_round().await?;
        self.begin().await?;
        self.replay.has_replayed = true;
        self.replay.has_fresh_roles = false;
        self.replay(captured).await?;
        self.forget_shapes();
        Ok(())
    }

    /// To be called at the end of a source transaction.
    pub(in super::super) fn give_up_unsealed(&mut self) {
        if self.replay.unsealed.take().is_some() {
            self.refuse_forged();
        }
    }

    fn refuse_forged(&self) {
        self.warn(
            "a message that claims to be a schema change is not signed by our event triggers: \
             ignored"
                .to_owned(),
        );
    }

    /// What was learnt of the trunk's tables may be wrong now.
    pub(super) fn forget_shapes(&mut self) {
        self.cache = Cache::default();
    }

    async fn replay(&mut self, mut captured: Captured) -> Result<(), Error> {
        let tag = captured.tag;
        self.resyncs.note_schema_change();
        if let Some(said) = captured.failed {
            self.warn(format!("a schema change ({tag}) could not be captured: {said}"));
            self.shared.want_poll();
        }
        for other in captured.others {
            self.warn(format!("{other} is not carried over ({tag})"));
        }
        if let Some(rewritten) = &captured.rewritten {
            self.rewritten(rewritten).await?;
        }
        let replay = &self.replay;
        captured.dropped.retain(|d| replay.is_followed(d.schema.as_deref().unwrap_or_default()));
        captured.objects.retain(|object| replay.is_followed(object.schema_name()));
        for object in captured.objects.iter().filter(|object| object.is_table()) {
            self.resyncs.restart(&table_name(object));
        }
        self.undo(&captured.dropped).await?;
        for new in &captured.extensions {
            extension::install(self, new).await?;
        }
        if self.equalize(&captured.objects).await? {
            // What it needs may be ahead of the stream here, as a table that was copied again can
            // be: a look describes it as it is then.
            self.shared.want_poll();
        }
        if tag == "REFRESH MATERIALIZED VIEW" {
            self.refresh(&captured.objects).await?;
        }
        self.forget_shapes();
        for object in captured.objects.iter().filter(|o| o.class == Class::Relation) {
            self.release_held(&table_name(object)).await?;
        }
        Ok(())
    }

    /// Renames, then makes what differs until nothing does. True if something still does that did
    /// not when it was last heard of.
    pub(super) async fn equalize(&mut self, objects: &[Object]) -> Result<bool, Error> {
        if objects.is_empty() {
            return Ok(false);
        }
        let before = self.replay.forget_unequal(|o| objects.iter().any(|n| n.is_newer(o)));
        for object in objects {
            self.rename(object).await?;
        }
        let mut refusals: Vec<(String, String)> = Vec::new();
        let mut has_advanced = true;
        for round in 0..=ROUNDS_MAX {
            let left = self.left(objects).await?;
            if left.is_empty() {
                break;
            }
            if round == ROUNDS_MAX || !has_advanced {
                self.report(objects, &left, &refusals);
                break;
            }
            refusals.clear();
            has_advanced = false;
            for (_, step) in &left {
                match self.make(step).await? {
                    Ok(()) => has_advanced = true,
                    Err(refusal) => refusals.push((step.key.clone(), refusal.to_string())),
                }
            }
        }
        known::remember(&self.session, objects).await?;
        let was_unequal = |object: &Object| before.iter().any(|other| object.is_newer(other));
        let unequal = &self.replay.unequal;
        let is_unequal = |object: &Object| unequal.iter().any(|other| object.is_newer(other));
        Ok(objects.iter().any(|object| is_unequal(object) && !was_unequal(object)))
    }

    /// What is left to do.
    pub(super) async fn left(&mut self, objects: &[Object]) -> Result<Vec<(usize, Step)>, Error> {
        let present = self.replay.describer.namesakes(&self.session, objects).await?;
        Ok(differences(objects, &present))
    }

    pub(super) async fn rename(&mut self, object: &Object) -> Result<(), Error> {
        let Some(renames) = known::renames(&self.session, object).await? else { return Ok(()) };
        for sql in renames.statements {
            if let Err(refusal) = self.attempt(&sql).await? {
                tracing::info!(sql, %refusal, "rename was not replayed");
            }
        }
        let name = table_name(object);
        if object.is_table() && renames.table != name {
            self.requarantine(&renames.table, &name).await?;
        }
        Ok(())
    }

    /// Tries the statements of a step; with fresh roles, if one was unknown.
    async fn make(&mut self, step: &Step) -> Result<Result<(), Refusal>, Error> {
        let mut first = None;
        for sql in &step.attempts {
            let Err(mut refusal) = self.attempt(sql).await? else { return Ok(Ok(())) };
            if refusal.is_unknown_role() && !self.replay.has_fresh_roles {
                self.replay.has_fresh_roles = true;
                self.refresh_roles().await?;
                match self.attempt(sql).await? {
                    Ok(()) => return Ok(Ok(())),
                    Err(again) => refusal = again,
                }
            }
            tracing::debug!(sql, %refusal, "statement of a replay refused");
            first.get_or_insert(refusal);
        }
        Ok(first.map_or(Ok(()), Err))
    }

    /// Names what could not be made equal. A table whose columns differ is not followed: its rows
    /// would not mean what they mean on the source.
    fn report(&mut self, objects: &[Object], left: &[(usize, Step)], said: &[(String, String)]) {
        for (index, step) in left {
            let Some(object) = objects.get(*index) else { continue };
            if self.replay.unequal.len() < UNEQUAL_MAX {
                self.replay.forget_unequal(|other| object.is_newer(other));
                self.replay.unequal.push(object.clone());
            }
            let key = &step.key;
            let reason = said.iter().find(|(other, _)| other == key).map(|(_, said)| said.as_str());
            let reason = reason.unwrap_or("cannot be changed in place");
            if object.is_table()
                && decides_rows(key)
                && self.replay.link.follows(&table_name(object))
            {
                let text = format!("it differs from the source in {key}: {reason}");
                self.divert(&table_name(object), &text, false);
            } else {
                self.warn(format!("{} differs from the source in {key}: {reason}", object.target));
            }
        }
    }

    async fn refresh(&mut self, objects: &[Object]) -> Result<(), Error> {
        for object in objects {
            for fact in object.facts.iter().filter(|fact| fact.key == "populated") {
                if let Err(refusal) = self.attempt(&fact.make).await? {
                    self.warn(format!("{} is not refreshed: {refusal}", object.target));
                }
            }
        }
        Ok(())
    }

    /// Runs statements under a savepoint.
    pub(in super::super) async fn attempt(&self, sql: &str) -> Result<Result<(), Refusal>, Error> {
        let guarded = format!("SAVEPOINT ddl; {sql}\n; RELEASE SAVEPOINT ddl");
        let Err(error) = self.session.batch_execute(&guarded).await else { return Ok(Ok(())) };
        let refusal = match error.as_db_error() {
            Some(db) if !is_trouble(db.code().code()) => {
                Refusal { code: db.code().code().to_owned(), message: db.message().to_owned() }
            }
            _ => return Err(at_trunk(error)),
        };
        self.session.batch_execute("ROLLBACK TO SAVEPOINT ddl").await.map_err(at_trunk)?;
        Ok(Err(refusal))
    }
}

impl Refusal {
    fn is_unknown_role(&self) -> bool {
        self.code == "42704" && self.message.starts_with("role ")
    }
}

/// Steps of all objects in the order they are to be made in.
fn differences(objects: &[Object], present: &[Object]) -> Vec<(usize, Step)> {
    let mut all: Vec<(usize, Step)> = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        let namesake = present.iter().find(|other| other.is_same(object));
        all.extend(steps(object, namesake).into_iter().map(|step| (index, step)));
    }
    all.sort_by_key(|(_, step)| step.phase);
    all
}

pub(super) fn table_name(object: &Object) -> TableName {
    TableName { schema: object.schema.clone(), name: object.name.clone() }
}

/// Differences that change what a row means, as opposed to what guards or describes it.
fn decides_rows(key: &str) -> bool {
    let is_aside = ["/comment", "/default", "/storage", "/not_null", "/identity"];
    key == "exists" || key.starts_with("column/") && !is_aside.iter().any(|end| key.ends_with(end))
}

/// The trunk's trouble rather than the statement's: connection, deadlock, resources, shutdown.
fn is_trouble(code: &str) -> bool {
    ["08", "25", "40", "53", "57", "58", "XX"].iter().any(|class| code.starts_with(class))
}
