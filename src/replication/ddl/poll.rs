//! Schema changes without event triggers: the source's schema is read now and then, and with every
//! barrier, and a signed message marks the position in the stream that it was read at.
//!
//! ```text
//!   look -> message -> same fingerprint? --yes--> the message says what was seen
//!    ^                       |
//!    +---------no------------+  the message says nothing; the applier waits for which it is
//! ```
//! So what a message stands for is the schema at its very position, unless the source changes
//! faster than it is read. What is read stays in this process; the message names it. A process
//! that restarts reads again. Rows that came in a new shape before the schema was read do not fit;
//! their table is copied again.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use proxy::client::{Session, quote_identifier};

use super::super::applier::Applier;
use super::super::error::{Error, at_look, at_trunk};
use super::captured::NewExtension;
use super::object::{Class, Object};
use super::replay::table_name;
use super::{describe, extension, known};

/// This many objects are compared at a time.
const COMPARED_MAX: usize = 500;

/// What a look at the source found.
#[derive(Debug)]
pub(in super::super) enum Poll {
    /// What the trunk knows already.
    Unchanged,
    Changed(Changes),
}

#[derive(Debug)]
pub(in super::super) struct Changes {
    /// Objects that changed since the last look.
    objects: Vec<Object>,
    extensions: Vec<NewExtension>,
    /// Everything that is there.
    alive: HashSet<(Class, i64)>,
}

/// Remembers what it saw.
#[derive(Default)]
pub(in super::super) struct Poller {
    /// What the trunk knows, or will know.
    told: Seen,
    /// What is not told yet.
    looked: Option<Seen>,
}

#[derive(Default)]
struct Seen {
    fingerprint: Option<String>,
    objects: HashMap<(Class, i64), u64>,
}

impl Poller {
    /// Looks at the source. Cheap unless something changed.
    pub(in super::super) async fn look(
        &mut self,
        source: &Session,
        schemas: &[String],
    ) -> Result<Poll, Error> {
        self.looked = None;
        let fingerprint = Some(fingerprint(source).await?);
        if self.told.fingerprint == fingerprint {
            return Ok(Poll::Unchanged);
        }
        let mut objects = describe::everything(source, schemas).await?;
        let mut seen = HashMap::with_capacity(objects.len());
        objects.retain(|object| {
            let hash = hash(object);
            seen.insert((object.class, object.oid), hash);
            self.told.objects.get(&(object.class, object.oid)) != Some(&hash)
        });
        let extensions = extensions(source).await?;
        let alive = seen.keys().copied().collect();
        self.looked = Some(Seen { fingerprint, objects: seen });
        Ok(Poll::Changed(Changes { objects, extensions, alive }))
    }

    /// True if the source is still as the last look saw it.
    pub(in super::super) async fn is_current(&self, source: &Session) -> Result<bool, Error> {
        let seen = self.looked.as_ref().unwrap_or(&self.told);
        Ok(seen.fingerprint == Some(fingerprint(source).await?))
    }

    /// The trunk will know what the last look saw.
    pub(in super::super) fn tell(&mut self) {
        if let Some(seen) = self.looked.take() {
            self.told = seen;
        }
    }

    /// Forgets, so that the next look tells everything.
    pub(in super::super) fn reset(&mut self) {
        *self = Self::default();
    }
}

async fn fingerprint(source: &Session) -> Result<String, Error> {
    let row = source.query_one(FINGERPRINT_SQL, &[]).await.map_err(at_look)?;
    row.try_get(0).map_err(at_look)
}

async fn extensions(source: &Session) -> Result<Vec<NewExtension>, Error> {
    let rows = source.query(EXTENSIONS_SQL, &[]).await.map_err(at_look)?;
    let read = |row: &tokio_postgres::Row| {
        Ok(NewExtension { name: row.try_get(0)?, schema: row.try_get(1)? })
    };
    rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().map_err(at_look)
}

fn hash(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.target.hash(&mut hasher);
    format!("{:?}", object.columns).hash(&mut hasher);
    let mut facts: Vec<_> = object.facts.iter().map(|fact| (&fact.key, &fact.make)).collect();
    facts.sort_unstable();
    facts.hash(&mut hasher);
    hasher.finish()
}

impl Applier {
    /// Makes the trunk's schema the one that was read at this position of the stream. False if none
    /// was: it changed while it was read, and is read again.
    pub(in super::super) async fn take_poll(&mut self, token: &str) -> Result<bool, Error> {
        let Some(poll) = self.shared.poll(token).await else { return Ok(false) };
        self.polls.push(token.to_owned());
        if let Poll::Changed(changes) = &*poll {
            self.take_changes(changes).await?;
        }
        Ok(true)
    }

    async fn take_changes(&mut self, poll: &Changes) -> Result<(), Error> {
        self.resyncs.note_schema_change();
        self.run_round().await?;
        self.begin().await?;
        self.replay.has_replayed = true;
        for (class, oid, sql) in known::absent(&self.session, &poll.alive).await? {
            // Gone with something else already, as often as not.
            if let Err(refusal) = self.attempt(&sql).await? {
                tracing::info!(sql, %refusal, "drop was not replayed");
            }
            known::forget(&self.session, class, oid).await?;
        }
        let mut objects = poll.objects.clone();
        objects.sort_by_key(|object| object.class);
        self.equalize_extensions(&poll.extensions).await?;
        // What is renamed into a schema needs the schema.
        for class in objects.chunk_by(|a, b| a.class == b.class) {
            for chunk in class.chunks(COMPARED_MAX) {
                self.equalize_polled(chunk).await?;
            }
        }
        self.retry_unequal().await
    }

    async fn equalize_extensions(&mut self, wanted: &[NewExtension]) -> Result<(), Error> {
        let rows = self.session.query(EXTENSIONS_SQL, &[]).await.map_err(at_trunk)?;
        let mut present = HashSet::new();
        for row in rows {
            present.insert(row.try_get::<_, String>(0).map_err(at_trunk)?);
        }
        let is_wanted = |name: &&String| wanted.iter().any(|new| new.name == **name);
        for gone in present.iter().filter(|name| !is_wanted(name)) {
            extension::uninstall(self, &quote_identifier(gone)).await?;
        }
        for new in wanted.iter().filter(|new| !present.contains(&new.name)) {
            extension::install(self, new).await?;
        }
        Ok(())
    }

    /// A column that came or changed its type may hold anything in the rows that were there, and a
    /// table may have had rows under another name: only copying says.
    async fn equalize_polled(&mut self, objects: &[Object]) -> Result<(), Error> {
        for object in objects {
            self.rename(object).await?;
        }
        let left = self.left(objects).await?;
        for (index, step) in &left {
            let Some(object) = objects.get(*index).filter(|object| object.is_table()) else {
                continue;
            };
            let table = table_name(object);
            self.resyncs.restart(&table);
            if step.phase < 0 || !self.replay.link.follows(&table) {
                continue;
            }
            if step.key == "exists" {
                self.divert(&table, "it was made on the source", true);
            } else if is_column(&step.key) && self.has_rows(&table).await? {
                self.empty(&table).await?;
                self.divert(&table, "its columns changed on the source", true);
            }
        }
        self.equalize(objects).await?;
        self.forget_shapes();
        Ok(())
    }

    /// To be called when what was polled is durable in the trunk.
    pub(in super::super) fn polls_are_durable(&mut self) {
        for token in self.polls.drain(..) {
            self.shared.forget_poll(&token);
        }
    }
}

/// A column as such, or its type.
fn is_column(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("column/") else { return false };
    !rest.contains('/') || rest.ends_with("/type")
}

const EXTENSIONS_SQL: &str = "\
SELECT e.extname::text, n.nspname::text
  FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace";

/// Any change of a catalog row leaves it with another `xmin`. Frozen rows keep theirs.
const FINGERPRINT_SQL: &str = "\
SELECT pg_catalog.md5(pg_catalog.string_agg(x.part, ' ' ORDER BY x.part)) FROM (
  SELECT 'c ' || count(*) || ' ' || sum(xmin::text::bigint) AS part
    FROM pg_catalog.pg_class WHERE oid >= 16384 AND relpersistence <> 't'
  UNION ALL SELECT 'a ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_attribute WHERE attrelid >= 16384
  UNION ALL SELECT 'd ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_attrdef
  UNION ALL SELECT 'k ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_constraint WHERE oid >= 16384
  UNION ALL SELECT 'i ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_index WHERE indexrelid >= 16384
  UNION ALL SELECT 'h ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_inherits
  UNION ALL SELECT 't ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_type WHERE oid >= 16384
  UNION ALL SELECT 'e ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_enum
  UNION ALL SELECT 'p ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_proc WHERE oid >= 16384
  UNION ALL SELECT 'n ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_namespace
  UNION ALL SELECT 'g ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_trigger
  UNION ALL SELECT 'l ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_policy
  UNION ALL SELECT 'r ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_rewrite WHERE oid >= 16384
  UNION ALL SELECT 's ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_sequence
  UNION ALL SELECT 'x ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_statistic_ext
  UNION ALL SELECT 'o ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_description
  UNION ALL SELECT 'q ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_extension
  UNION ALL SELECT 'f ' || count(*) || ' ' || coalesce(sum(xmin::text::bigint), 0)
    FROM pg_catalog.pg_default_acl) x";
