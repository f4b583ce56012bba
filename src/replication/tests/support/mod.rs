//! A source, a trunk and the stream between them; and the comparison that every test ends with.

pub(super) mod server;
pub(super) mod wire;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use proxy::client::Session;
use tokio::time::timeout;

use crate::source::Plugin;

use crate::replication::{Link, Means, Phase, Position, Replication, Status, setup};

use server::{PASSWORD, Server, bin_dir};
use wire::Wire;

pub(super) struct Chain {
    pub(super) source: Server,
    pub(super) trunk: Server,
    pub(super) replication: Option<Replication>,
    pub(super) warnings: Vec<String>,
    pub(super) plugin: Plugin,
    /// Between the connector and the source, where there is one.
    pub(super) wire: Option<Wire>,
}

/// Makes a test for each plugin of functions that take one.
macro_rules! with_each_plugin {
    ($($name:ident)+) => {
        mod wal2json {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Plugin::Wal2json).await;
            })+
        }
        mod pgoutput {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Plugin::Pgoutput).await;
            })+
        }
    };
}
pub(super) use with_each_plugin;

/// Nothing in these tests takes longer unless it is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// To copy with two sessions, from the slot on.
pub(super) fn means(bin_dir: &Path) -> Means<'_> {
    Means { bin_dir, jobs: 2, opening: None }
}

impl Chain {
    /// A source with this schema, copied and followed.
    pub(super) async fn start(schema: &str) -> Self {
        let mut chain = Self::prepare(schema).await;
        chain.copy().await;
        chain.follow();
        chain
    }

    /// The same with a plugin.
    pub(super) async fn start_with(plugin: Plugin, schema: &str) -> Self {
        let mut chain = Self::prepare_with(plugin, schema).await;
        chain.copy().await;
        chain.follow();
        chain
    }

    pub(super) async fn prepare_with(plugin: Plugin, schema: &str) -> Self {
        Self { plugin, ..Self::prepare(schema).await }
    }

    /// The source, to be followed with the plugin.
    pub(super) fn link(&self) -> Link {
        let mut link = Link { plugin: self.plugin, ..self.source.link() };
        if let Some(wire) = &self.wire {
            link.source = Server::url_at(wire.port(), "postgres", PASSWORD, "app");
        }
        link
    }

    pub(super) async fn prepare(schema: &str) -> Self {
        let (source, trunk) = tokio::join!(Server::source(&[]), Server::trunk());
        source.run("CREATE DATABASE app").await;
        source.run_in("app", schema).await;
        let warnings = Vec::new();
        let plugin = Plugin::default();
        Self { source, trunk, replication: None, warnings, plugin, wire: None }
    }

    pub(super) async fn copy(&mut self) {
        let (link, trunk) = (self.link(), self.trunk.access());
        let outcome = setup(&link, &trunk, means(&bin_dir()), &|_| {}).await;
        self.warnings = outcome.unwrap_or_else(|error| panic!("{}", error.chain())).warnings;
    }

    pub(super) fn follow(&mut self) {
        self.replication = Some(Replication::start(self.link(), self.trunk.access()));
    }

    pub(super) fn stream(&self) -> &Replication {
        self.replication.as_ref().expect("follow() came first")
    }

    /// Waits until the trunk has all that the source has now.
    pub(super) async fn catch_up(&self) -> Position {
        match timeout(PATIENCE, self.stream().barrier()).await {
            Ok(Ok(position)) => position,
            Ok(Err(error)) => panic!("{}: {:?}", error.chain(), self.stream().status()),
            Err(_) => panic!("no barrier: {:?}", self.stream().status()),
        }
    }

    pub(super) async fn on_source(&self, sql: &str) {
        self.source.run_in("app", sql).await;
    }

    /// Catches up, then fails at the first table that differs.
    pub(super) async fn assert_equal(&self) {
        self.catch_up().await;
        let status = self.stream().status();
        assert_eq!(status.quarantined, [], "{status:?}");
        self.assert_same_rows().await;
    }

    pub(super) async fn assert_same_rows(&self) {
        assert_eq!(self.row_difference().await, None);
    }

    /// How the rows of the first table that differs do.
    pub(super) async fn row_difference(&self) -> Option<String> {
        let source = self.source.session("app").await;
        let trunk = self.trunk.session("app").await;
        let tables = source.query(TABLES_SQL, &[]).await.unwrap();
        assert!(!tables.is_empty());
        for row in tables {
            let table: String = row.get(0);
            let (here, there) = (sum(&trunk, &table).await, sum(&source, &table).await);
            if here != there {
                let (here, there) = (rows(&trunk, &table).await, rows(&source, &table).await);
                let extra: Vec<_> = here.difference(&there).take(5).collect();
                let lacking: Vec<_> = there.difference(&here).take(5).collect();
                return Some(format!(
                    "trunk and source differ in {table}: only here {extra:?}, \
                     only there {lacking:?}"
                ));
            }
        }
        None
    }

    /// How what `pg_dump` prints of both schemas differs.
    pub(super) fn schema_difference(&self) -> Option<String> {
        let (source, trunk) = (self.source.schema("app"), self.trunk.schema("app"));
        if source == trunk {
            return None;
        }
        let lacking: Vec<_> = source.iter().filter(|line| !trunk.contains(line)).collect();
        let extra: Vec<_> = trunk.iter().filter(|line| !source.contains(line)).collect();
        let warnings = self.stream().status().warnings;
        Some(format!("trunk lacks {lacking:#?}, has {extra:#?}, warned {warnings:#?}"))
    }

    /// Waits for a state of the stream. Polled: a status is a value, not an event.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let waiting = async {
            loop {
                let status = self.stream().status();
                if holds(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(PATIENCE, waiting).await {
            Ok(status) => status,
            Err(_) => panic!("never {what}: {:?}", self.stream().status()),
        }
    }

    /// Waits until no table is being copied again.
    pub(super) async fn settle(&self) {
        let is_settled = |status: &Status| !status.quarantined.iter().any(|q| q.is_resync_due);
        self.until("settled", is_settled).await;
    }

    pub(super) async fn until_stopped(&self) -> String {
        let status = self.until("stopped", |s| matches!(s.phase, Phase::Stopped { .. })).await;
        match status.phase {
            Phase::Stopped { reason } => reason,
            phase => panic!("{phase:?}"),
        }
    }
}

async fn sum(session: &Session, table: &str) -> (i64, Option<String>) {
    let sql =
        format!("SELECT count(*), sum(hashtextextended(t::text, 0))::text FROM ONLY {table} AS t");
    let row = session.query_one(&sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn rows(session: &Session, table: &str) -> BTreeSet<String> {
    let sql = format!("SELECT t::text FROM ONLY {table} AS t");
    session.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

const TABLES_SQL: &str = "\
SELECT format('%I.%I', n.nspname, c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname !~ '^pg_'
   AND n.nspname <> 'information_schema' ORDER BY 1";
