//! Schema changes of the source through the whole server: they are in the next branch, whatever
//! dies meanwhile, and what cannot be followed is named and released.

use std::time::Duration;

use crate::support::drivers::psql;
use crate::support::pgbench::assert_equal;
use crate::support::server::Server;
use crate::support::source::Source;
use crate::support::wait::eventually;

/// Columns, indexes, constraints, views, functions, triggers, policies, grants and enum labels.
const SCHEMA: &str = "
    with place as (select oid, nspname from pg_namespace
                    where nspname !~ '^pg_' and nspname not in ('information_schema', 'ardent'))
    select format('%s %s %s %s %s', a.attrelid::regclass, a.attname,
                  format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid))
      from pg_attribute a join pg_class c on c.oid = a.attrelid
      join place p on p.oid = c.relnamespace
      left join pg_attrdef d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
     where a.attnum > 0 and not a.attisdropped
    union all select pg_get_indexdef(indexrelid) from pg_index join pg_class c on c.oid = indexrelid
      join place p on p.oid = c.relnamespace
    union all select conname || ' ' || pg_get_constraintdef(k.oid) from pg_constraint k
      join place p on p.oid = k.connamespace
    union all select c.oid::regclass || ' ' || pg_get_viewdef(c.oid) from pg_class c
      join place p on p.oid = c.relnamespace where c.relkind in ('v', 'm')
    union all select pg_get_functiondef(f.oid) from pg_proc f join place p on p.oid = f.pronamespace
    union all select pg_get_triggerdef(t.oid) from pg_trigger t where not t.tgisinternal
    union all select format('%s %s %s', polrelid::regclass, polname, pg_get_expr(polqual, polrelid))
      from pg_policy
    union all select format('%s %s', c.oid::regclass, c.relacl) from pg_class c
      join place p on p.oid = c.relnamespace where c.relkind in ('r', 'v') and c.relacl is not null
    union all select format('%s %s', enumtypid::regtype, enumlabel) from pg_enum
    order by 1";

const CHANGES: &[&str] = &[
    "create table late (id serial primary key, note text default 'x' not null)",
    "insert into late (note) select 'row ' || g from generate_series(1, 50) g",
    "alter table entry add column at timestamptz default now(), add column size int default 7",
    "alter table entry rename column body to text; insert into entry (id, text) values (900, 'new')",
    "create type mood as enum ('sad', 'ok'); alter type mood add value 'glad' after 'sad'",
    "alter table late add column mood mood default 'glad'; create index late_note on late (lower(note))",
    "create function twice(int) returns int language sql immutable as 'select $1 * 2'",
    "create view both_of_them as select e.id, l.note, twice(l.id) from entry e join late l using (id)",
    "alter table late add constraint short check (length(note) < 100), enable row level security",
    "create role reader; grant select on late to reader; create policy p on late to reader using (id > 3)",
    "create function noted() returns trigger language plpgsql as $$ begin return new; end $$;
     create trigger noted before insert on late for each row execute function noted()",
    "begin; create table kept (id int primary key); insert into kept values (1); savepoint s;
     drop table late cascade; rollback to s; alter table kept add column v int default 4;
     insert into kept values (2, 2); commit",
    "create table copied as select * from late; alter table copied add primary key (id)",
    "alter table late add column token uuid default gen_random_uuid()",
    "create table gone (id int primary key); drop table gone; truncate copied",
];

#[test]
fn schema_changes_are_in_the_next_branch() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key, body text)");
    let server = Server::start();
    server.follow(&source);
    let before = server.branch("before");
    for change in CHANGES {
        source.sql(change);
    }
    assert_followed(&server, &source);
    assert_eq!(psql(&before, "select count(*) from pg_class where relname = 'late'").ok(), "0");
    let status = server.ardent(&["connector", "status", "prod", "--format", "json"]).ok();
    assert!(status.contains(r#""ddl_mode":"event triggers""#), "{status}");
}

#[test]
fn pgoutput_follows_tables_that_are_made_later() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key, body text)");
    let server = Server::start();
    let url = source.url();
    let create = ["connector", "create", "postgresql", &url, "--name", "prod"];
    server.ardent(&[&create[..], &["--plugin", "pgoutput"]].concat()).ok();
    for change in CHANGES {
        source.sql(change);
    }
    assert_followed(&server, &source);
    source.sql("update late set note = 'changed' where id < 10; delete from kept where id = 1");
    assert_followed(&server, &source);
}

#[test]
fn a_role_without_event_triggers_is_warned_and_its_schema_is_polled() {
    let source = Source::start();
    source.sql(
        "create table entry (id bigint primary key, body text);
         create role follower login replication password 'secret' in role pg_read_all_data",
    );
    let server = Server::start();
    let url = source.url_as("follower", "secret");
    let report = server.ardent(&["connector", "preflight", "postgresql", &url]).ok();
    for line in [
        "  ⚠ ddl capture",
        "      Schema changes are polled, not captured in order: \
         no permission to create a schema in the database",
    ] {
        assert!(report.lines().any(|said| said == line), "no line {line:?} in:\n{report}");
    }
    server.ardent(&["connector", "create", "postgresql", &url, "--name", "prod"]).ok();
    source.sql("create table late (id int primary key); insert into late values (1)");
    source.sql("alter table entry add column size int; insert into entry values (1, 'a', 2)");
    assert_followed(&server, &source);
    let status = server.ardent(&["connector", "status", "prod", "--format", "json"]).ok();
    assert!(status.contains(r#""ddl_mode":"polling""#), "{status}");
}

#[test]
fn a_table_in_quarantine_is_listed_and_released() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key)");
    let server = Server::start();
    server.follow(&source);
    let list = || server.ardent(&["connector", "quarantine", "list", "prod"]).ok();
    // Without an identity nobody can say which row an update meant.
    source.sql("create table keyless (id int); insert into keyless values (1), (2)");
    source.sql("update keyless set id = 3 where id = 1");
    server.branch("during");
    let said = list();
    assert!(said.contains("public.keyless") && said.contains("quarantined"), "{said}");
    source.sql("alter table keyless replica identity full");
    let release = ["connector", "quarantine", "release", "prod", "public.keyless"];
    assert!(server.ardent(&release).ok().contains("copying"));
    eventually(Duration::from_secs(60), "the table is followed again", || {
        (!list().contains("public.keyless")).then_some(())
    });
    source.sql("update keyless set id = 4 where id = 2");
    assert_followed(&server, &source);
    let said = server.ardent(&release);
    assert!(said.code != 0 && said.stderr.contains("public.keyless"), "{said:#?}");
}

#[test]
fn the_server_is_killed_amid_schema_changes() {
    let source = Source::start();
    source.sql("create table entry (id bigint primary key, body text)");
    let mut server = Server::start();
    server.follow(&source);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for round in 0..60 {
                source.sql(&format!(
                    "create table made_{round} (id int primary key, v text);
                     begin; insert into made_{round} select g, 'v' from generate_series(1, 20) g;
                     alter table made_{round} add column w int default {round}; commit;
                     alter table entry add column c{round} int; insert into entry values ({round});
                     alter table entry rename column c{round} to d{round};
                     alter table made_{round} rename to kept_{round};
                     update kept_{round} set v = 'w' where id < 5;
                     alter table entry drop column d{round}"
                ));
            }
        });
        for _ in 0..3 {
            let seen = source.sql("select count(*) from entry");
            eventually(Duration::from_secs(30), "there is more to apply", || {
                let more = source.sql("select count(*) from entry") != seen;
                (more || changing.is_finished()).then_some(())
            });
            server.kill();
            server.start_again();
        }
        changing.join().expect("the changes");
    });
    assert_followed(&server, &source);
}

/// Waits until no table is in quarantine and cuts a branch, which equals the source then, schema
/// and rows.
fn assert_followed(server: &Server, source: &Source) {
    let cut = |stem: &str| format!("{stem}-{}", source.sql("select pg_current_xact_id()"));
    eventually(Duration::from_secs(180), "every table is followed", || {
        let said = server.ardent(&["branch", "create", &cut("early"), "--print-url"]);
        let listed = server.ardent(&["connector", "quarantine", "list", "prod"]);
        (said.code == 0 && !listed.stdout.contains("public.")).then_some(())
    });
    let url = server.branch(&cut("whole"));
    assert_eq!(psql(&url, SCHEMA).ok(), source.sql(SCHEMA));
    assert_equal(&url, source, "after the changes");
}
