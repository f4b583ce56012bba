//! First copies that are cut short with everything that dies in a kill -9: the trunk, and whoever
//! copies.

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::replication::{Means, RelationFiles, SetupProgress, Stage, TrunkAccess, setup};
use crate::source::Plugin;

use super::support::server::bin_dir;
use super::support::{Chain, means, with_each_plugin};

with_each_plugin! {
    a_copy_that_was_killed_goes_on_with_what_is_left
    a_copy_that_was_killed_twice_has_tables_of_three_moments
}

/// Copied in this order, for each is smaller than the one before.
const SCHEMA: &str = "
CREATE TABLE a (id int PRIMARY KEY, v text);
INSERT INTO a SELECT g, repeat('a', 100) FROM generate_series(1, 30000) g;
CREATE TABLE b (id int PRIMARY KEY, v text);
INSERT INTO b SELECT g, repeat('b', 100) FROM generate_series(1, 10000) g;
CREATE TABLE held (id int PRIMARY KEY, b int REFERENCES b, v text);
INSERT INTO held SELECT g, g, repeat('h', 100) FROM generate_series(1, 4000) g;
CREATE TABLE parted (id int PRIMARY KEY, b int REFERENCES b, v text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (1000000);
INSERT INTO parted SELECT g, g, repeat('p', 100) FROM generate_series(1, 2500) g;
CREATE TABLE later (id int PRIMARY KEY, h int REFERENCES held, v text);
INSERT INTO later SELECT g, g, repeat('l', 100) FROM generate_series(1, 1500) g;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE moods (id int PRIMARY KEY, m mood);
INSERT INTO moods SELECT g, 'sad' FROM generate_series(1, 900) g;
CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone SELECT generate_series(1, 200);
CREATE TABLE last (id int PRIMARY KEY, v int); INSERT INTO last SELECT g, g FROM generate_series(1, 20) g;
CREATE MATERIALIZED VIEW joined AS
  SELECT h.id, b.v FROM held h JOIN b ON b.id = h.b;
CREATE UNIQUE INDEX ON joined (id)";

/// Rows that refer to others of both kinds, and nothing twice.
const ROWS: &str = "
INSERT INTO b SELECT max(id) + 1, 'new' FROM b;
INSERT INTO held SELECT (SELECT max(id) + 1 FROM held), max(id), 'new' FROM b;
INSERT INTO parted SELECT (SELECT max(id) + 1 FROM parted), max(id), 'new' FROM b;
INSERT INTO later (id, h, v) SELECT (SELECT max(id) + 1 FROM later), max(id), 'new' FROM held;
UPDATE a SET v = v || 'x' WHERE id % 1000 = 7; DELETE FROM a WHERE id = (SELECT min(id) FROM a);
UPDATE last SET v = v + 1; UPDATE held SET v = v || 'x' WHERE id % 100 = 7;
DELETE FROM last WHERE id = (SELECT min(id) FROM last);
INSERT INTO last SELECT max(id) + 1, 0 FROM last";

/// How often a table was read on the source.
const READ: &str = "SELECT string_agg(relname || ' ' || seq_scan, ', ' ORDER BY relname)
                      FROM pg_stat_user_tables WHERE relname IN ('a', 'b')";
const SLOTS: &str = "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots";

impl Chain {
    /// A copy by one session that cannot get past a table, until it is time; then everything dies.
    async fn cut_short(&mut self, held: Option<&str>, is_time: impl Fn(&SetupProgress) -> bool) {
        self.copy_until(held, is_time).await;
        self.trunk.crash().await;
    }

    async fn copy_until(&self, held: Option<&str>, is_time: impl Fn(&SetupProgress) -> bool) {
        let (bin_dir, link, access) = (bin_dir(), self.link(), self.trunk.access());
        let (tell, mut told) = watch::channel(SetupProgress::default());
        let lock = match held {
            Some(held) => format!("BEGIN; LOCK TABLE public.{held} IN ACCESS EXCLUSIVE MODE"),
            None => "BEGIN".to_owned(),
        };
        let lock_it = async {
            let session = self.trunk.session("app").await;
            session.batch_execute(&lock).await.unwrap();
            session
        };
        let lock_it = std::sync::Mutex::new(Some(lock_it));
        let stuck = std::sync::Mutex::new(None);
        let report = |progress: &SetupProgress| {
            let is_first = progress.stage == Stage::Copy;
            let work = if is_first { lock_it.lock().unwrap().take() } else { None };
            if let Some(work) = work {
                let session = block_in_place(|| Handle::current().block_on(work));
                stuck.lock().unwrap().replace(session);
            }
            tell.send_replace(progress.clone());
        };
        tokio::select! {
            outcome = setup(&link, &access, Means { jobs: 1, ..means(&bin_dir) }, &report) => panic!("{outcome:?}"),
            _ = told.wait_for(|progress| is_time(progress)) => {}
        }
    }

    /// What sessions did counts when they have ended.
    async fn reads(&self) -> String {
        let open = "SELECT count(*)::text FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        self.source.until("app", open, "0").await;
        self.source.value("app", READ).await
    }

    /// Follows until all tables are at one position, and equal the source's then.
    async fn even_out(&mut self) {
        self.follow();
        self.catch_up().await;
        self.settle().await;
        self.until("even", |status| !status.is_uneven).await;
        self.assert_equal().await;
        assert_eq!(self.schema_difference(), None);
        let left = "SELECT (SELECT count(*) FROM ardent.copied) || ' ' ||
                           (SELECT count(*) FROM ardent.first_copy)";
        assert_eq!(self.trunk.value("app", left).await, "0 0");
        assert_eq!(self.source.value("app", SLOTS).await, "ardent_c1");
    }
}

fn is_at(table: &str) -> impl Fn(&SetupProgress) -> bool {
    move |progress| progress.copying.iter().any(|entry| entry.table.name == table)
}

async fn a_copy_that_was_killed_goes_on_with_what_is_left(plugin: Plugin) {
    let mut chain = Chain::prepare_with(plugin, SCHEMA).await;
    chain.cut_short(Some("held"), is_at("held")).await;
    for change in [
        ROWS,
        "ALTER TABLE a ADD COLUMN c int DEFAULT 7; UPDATE a SET c = id WHERE id % 300 = 0",
        "ALTER TABLE later RENAME v TO w; ALTER TABLE later ADD COLUMN v text DEFAULT 'now'",
        "ALTER TYPE mood ADD VALUE 'calm'; REFRESH MATERIALIZED VIEW joined",
        "INSERT INTO moods VALUES (1001, 'calm'); DROP TABLE gone",
        "CREATE TABLE made AS SELECT * FROM generate_series(1, 100) AS g(id);
         ALTER TABLE made ADD PRIMARY KEY (id)",
        "CREATE INDEX ON held (v); ALTER TABLE last RENAME TO other; ALTER TABLE other RENAME TO last",
        "INSERT INTO later (id, h, v, w) VALUES (9001, 1, 'v', 'w'); UPDATE made SET id = -id",
    ] {
        chain.on_source(change).await;
    }
    chain.on_source(ROWS).await;
    let before = chain.reads().await;
    chain.copy().await;
    assert_eq!(chain.reads().await, before, "whole tables are read again");
    assert_eq!(chain.warnings.iter().filter(|w| w.contains("foreign key")).count(), 0);
    let copied = "SELECT string_agg(table_name, ' ' ORDER BY table_name) FROM ardent.copied
                   WHERE lsn > (SELECT lsn FROM ardent.progress)";
    assert_eq!(chain.trunk.value("app", copied).await, "held part");
    chain.on_source(ROWS).await;
    chain.even_out().await;
    let view = "SELECT count(*)::text FROM public.joined";
    let rows = chain.source.value("app", "SELECT count(*)::text FROM public.held").await;
    assert_eq!(chain.trunk.value("app", view).await, rows);
    chain.on_source(ROWS).await;
    chain.assert_equal().await;
}

async fn a_copy_that_was_killed_twice_has_tables_of_three_moments(plugin: Plugin) {
    let mut chain = Chain::prepare_with(plugin, SCHEMA).await;
    chain.cut_short(Some("held"), is_at("held")).await;
    chain.on_source(ROWS).await;
    chain.cut_short(Some("later"), is_at("later")).await;
    chain.on_source(ROWS).await;
    let before = chain.reads().await;
    chain.copy().await;
    assert_eq!(chain.reads().await, before, "whole tables are read again");
    let moments = "SELECT count(DISTINCT lsn)::text FROM ardent.copied";
    assert_eq!(chain.trunk.value("app", moments).await, "3");
    chain.follow();
    // The trunk may die before they are at one position.
    chain.trunk.crash().await;
    chain.on_source(ROWS).await;
    chain.even_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_while_indexes_are_made_reads_no_table_again() {
    let mut chain = Chain::prepare(SCHEMA).await;
    chain.cut_short(None, |progress| progress.stage == Stage::Indexes).await;
    chain.on_source(ROWS).await;
    let before = chain.reads().await;
    chain.copy().await;
    assert_eq!(chain.warnings, [] as [&str; 0]);
    assert_eq!(chain.reads().await, before, "whole tables are read again");
    chain.even_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_slot_is_gone_begins_anew() {
    let mut chain = Chain::prepare(SCHEMA).await;
    let drop = "SELECT pg_drop_replication_slot('ardent_c1')";
    let make = "SELECT pg_create_logical_replication_slot('ardent_c1', 'wal2json')";
    for meanwhile in [drop.to_owned(), format!("{drop}; {make}")] {
        chain.cut_short(Some("held"), is_at("held")).await;
        chain.on_source(&meanwhile).await;
        chain.on_source(ROWS).await;
    }
    let before = chain.reads().await;
    chain.copy().await;
    assert_ne!(chain.reads().await, before, "nothing was there to go on with");
    chain.even_out().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_build_begins_anew() {
    let mut chain = Chain::prepare(SCHEMA).await;
    for other in [
        "COMMENT ON SCHEMA ardent IS 'Ardent: format 99'",
        "DROP TABLE ardent.known; COMMENT ON SCHEMA ardent IS NULL",
        "DROP TABLE ardent.first_copy, ardent.copied;
         COMMENT ON SCHEMA ardent IS 'Ardent: format 2'",
        "UPDATE ardent.first_copy SET foreign_keys = '[{}]'",
    ] {
        chain.cut_short(Some("held"), is_at("held")).await;
        chain.trunk.run_in("app", other).await;
        chain.on_source(ROWS).await;
    }
    let before = chain.reads().await;
    chain.copy().await;
    assert_ne!(chain.reads().await, before, "what another build wrote was gone on with");
    chain.even_out().await;
}

/// What a kill in the middle of DROP DATABASE leaves, with which a copy anew begins.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_into_what_is_left_of_a_dropped_database_begins_anew() {
    let mut chain = Chain::prepare(SCHEMA).await;
    chain.cut_short(Some("held"), is_at("held")).await;
    chain.trunk.run("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'app'").await;
    chain.on_source(ROWS).await;
    chain.copy().await;
    chain.even_out().await;
}

/// As a part of a table does it, and dies.
const HALF_LOADED: &str = "
BEGIN; TRUNCATE ONLY held; INSERT INTO held SELECT g, g, repeat('h', 3000) FROM generate_series(1, 999) g;
CREATE TABLE never (id int PRIMARY KEY, v text); INSERT INTO never SELECT g FROM generate_series(1, 9) g";
const FILES: &str = "
SELECT string_agg(f.name, ' ' ORDER BY f.name)
  FROM pg_database d, pg_ls_dir('base/' || d.oid) AS f (name)
 WHERE d.datname = current_database() AND f.name ~ '^[0-9]'
   AND NOT EXISTS (SELECT FROM pg_class c
                    WHERE pg_relation_filenode(c.oid)::text = substring(f.name, '^[0-9]+'))";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_postgres_left_of_a_table_is_removed() {
    let mut chain = Chain::prepare(SCHEMA).await;
    chain.copy_until(Some("held"), is_at("held")).await;
    let loading = chain.trunk.session("app").await;
    loading.batch_execute("SET search_path = public").await.unwrap();
    loading.batch_execute(HALF_LOADED).await.unwrap();
    chain.trunk.kill();
    let files = RelationFiles::list(&chain.trunk.data_dir()).unwrap();
    chain.trunk.start_again().await;
    let orphans = chain.trunk.value("app", FILES).await;
    assert!(orphans.split(' ').count() >= 4, "{orphans}");
    // Whoever is at work already has files that were not there.
    let working = chain.trunk.session("app").await;
    working.batch_execute("BEGIN; CREATE TABLE public.mine AS SELECT 7 AS id").await.unwrap();
    files.remove_orphans(&chain.trunk.access()).await;
    working.batch_execute("COMMIT").await.unwrap();
    assert_eq!(chain.trunk.value("app", FILES).await, "");
    assert_eq!(chain.trunk.value("app", "SELECT id::text FROM public.mine").await, "7");
    chain.trunk.run_in("app", "DROP TABLE public.mine").await;
    chain.copy().await;
    chain.even_out().await;
    // A database that is not there has none.
    let files = RelationFiles::list(&chain.trunk.data_dir()).unwrap();
    let nowhere = TrunkAccess { database: "nowhere".into(), ..chain.trunk.access() };
    files.remove_orphans(&nowhere).await;
    chain.trunk.restart().await;
    chain.assert_equal().await;
}
