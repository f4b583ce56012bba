//! What the schema of a trunk has in common with its source, and what it must not have.

use crate::replication::{Replication, setup};
use crate::source::TableName;

use super::support::server::bin_dir;
use super::support::{Chain, means};

#[tokio::test(flavor = "multi_thread")]
async fn owners_grants_and_members_are_as_on_the_source() {
    let mut chain = Chain::prepare("SELECT 1").await;
    chain
        .source
        .run(
            "CREATE ROLE own NOINHERIT CREATEDB; CREATE ROLE reader LOGIN PASSWORD 'x' CREATEROLE;
             CREATE ROLE boss SUPERUSER; GRANT reader TO own; GRANT pg_read_server_files TO reader;
             GRANT pg_monitor TO reader; CREATE ROLE ardent_x",
        )
        .await;
    chain
        .on_source(
            "CREATE SCHEMA s AUTHORIZATION own; CREATE TABLE s.t (id serial PRIMARY KEY, v int);
             ALTER TABLE s.t OWNER TO own; GRANT SELECT (v), UPDATE ON s.t TO reader;
             GRANT USAGE ON SCHEMA s TO reader; CREATE TABLE public.p (id int PRIMARY KEY);
             ALTER TABLE public.p OWNER TO own; CREATE VIEW s.v AS SELECT * FROM s.t;
             ALTER VIEW s.v OWNER TO reader; CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext;
             ALTER TABLE s.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON s.t TO reader USING (v
             > 0);
             CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
             ALTER FUNCTION public.f() OWNER TO own; REVOKE ALL ON FUNCTION public.f() FROM PUBLIC;
             CREATE EVENT TRIGGER et ON ddl_command_end EXECUTE FUNCTION ext_noop();"
                .replace("EXECUTE FUNCTION ext_noop()", "EXECUTE FUNCTION public.noop()")
                .replace(
                    "CREATE EVENT TRIGGER",
                    "CREATE FUNCTION public.noop() RETURNS event_trigger LANGUAGE plpgsql AS
                     'BEGIN END'; CREATE PUBLICATION pub FOR ALL TABLES; CREATE EVENT TRIGGER",
                )
                .as_str(),
        )
        .await;
    chain.copy().await;
    for sql in [
        "SELECT string_agg(format('%s %s %s', oid::regclass, relowner::regrole, relacl), ', '
           ORDER BY relname) FROM pg_class WHERE relnamespace IN ('s'::regnamespace,
           'public'::regnamespace)",
        "SELECT string_agg(format('%s %s %s', oid::regprocedure, proowner::regrole, proacl), ', '
           ORDER BY proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        "SELECT string_agg(format('%s %s', nspname, nspowner::regrole), ', ' ORDER BY nspname)
           FROM pg_namespace WHERE nspname IN ('s', 'ext')",
        "SELECT string_agg(format('%s %s %s', rolname, rolinherit, rolcreatedb), ', ' ORDER BY
        rolname)
           FROM pg_roles WHERE rolname IN ('own', 'reader', 'boss')",
        "SELECT string_agg(format('%s %s', polname, polroles::regrole[]), ', ') FROM pg_policy",
    ] {
        let (trunk, source) =
            (chain.trunk.value("app", sql).await, chain.source.value("app", sql).await);
        assert_eq!(trunk, source, "{sql}");
    }
    let schema_acl = "SELECT nspacl::text FROM pg_namespace WHERE nspname = 's'";
    assert_eq!(chain.trunk.value("app", schema_acl).await, "{own=UC/own,reader=U/own}");
    for (sql, expected) in [
        ("SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper", "ardent_system"),
        ("SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolcreaterole AND NOT rolsuper", ""),
        (
            "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname IN ('ardent_x',
            'ardent_restore')",
            "",
        ),
        ("SELECT pg_has_role('reader', 'pg_read_server_files', 'MEMBER')::text", "false"),
        ("SELECT pg_has_role('reader', 'pg_monitor', 'MEMBER')::text", "true"),
        ("SELECT count(*)::text FROM pg_event_trigger", "0"),
        ("SELECT count(*)::text FROM pg_publication", "0"),
        ("SELECT extname::text FROM pg_extension WHERE extname = 'hstore'", "hstore"),
        ("SELECT count(*)::text FROM pg_default_acl", "0"),
    ] {
        assert_eq!(chain.trunk.value("app", sql).await, expected, "{sql}");
    }
    assert_eq!(chain.warnings, ["role ardent_x is not carried over: the name is reserved"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_settings_follow_the_source() {
    let mut chain = Chain::prepare("CREATE TABLE t (id int PRIMARY KEY)").await;
    chain
        .source
        .run(
            "CREATE ROLE a; CREATE ROLE b; CREATE ROLE member; GRANT a, b TO member WITH ADMIN OPTION;
             ALTER DATABASE app SET timezone = 'Asia/Tokyo'; ALTER ROLE a SET enable_hashjoin = off;
             ALTER DATABASE app SET search_path = \"$user\", 'odd \"name', public;
             ALTER DATABASE app SET lock_timeout = '77s';
             ALTER ROLE b SET local_preload_libraries = 'evil';
             ALTER ROLE a SET session_replication_role = replica;
             ALTER ROLE b IN DATABASE app SET app.secret = 'x''y'",
        )
        .await;
    chain.source.run("ALTER SYSTEM SET datestyle = 'SQL, DMY'").await;
    chain.source.run("SELECT pg_reload_conf()").await;
    chain.copy().await;
    chain.follow();
    let settings = "SELECT string_agg(format('%s %s %s', setdatabase <> 0, r.rolname, x), '; '
                      ORDER BY setdatabase <> 0, rolname, x) FROM pg_db_role_setting s LEFT JOIN pg_roles r
                        ON r.oid = setrole, unnest(setconfig) x
                      WHERE x !~ '(preload|replication|DateStyle|IntervalStyle|default_t|lc_)'
                        AND coalesce(rolname !~ '^ardent', true)";
    let members = "SELECT string_agg(format('%s %s %s', roleid::regrole, member::regrole,
                     admin_option), ', ' ORDER BY roleid::regrole::text, member::regrole::text)
                     FROM pg_auth_members WHERE member::regrole::text IN ('member', 'c')";
    let roles =
        "SELECT string_agg(rolname || rolcreatedb::text, ', ' ORDER BY rolname) FROM pg_roles
                  WHERE rolname !~ '^(pg|ardent)_' AND rolname NOT IN ('postgres', 'branch_owner')";
    let assert_same = async || {
        chain.assert_equal().await;
        for sql in [settings, members, roles] {
            let (trunk, source) =
                (chain.trunk.value("app", sql).await, chain.source.value("app", sql).await);
            assert_eq!(trunk, source, "{sql}");
        }
    };
    assert_same().await;
    for forbidden in ["local_preload_libraries", "session_replication_role=replica"] {
        let sql = format!(
            "SELECT count(*)::text FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole
              WHERE setconfig::text ~ '{forbidden}' AND coalesce(rolname !~ '^ardent', true)"
        );
        assert_eq!(chain.trunk.value("app", &sql).await, "0", "{forbidden}");
    }
    let style = "SELECT x FROM pg_db_role_setting, unnest(setconfig) x
                  WHERE x ~ 'DateStyle' AND setrole = 0 AND setdatabase <> 0";
    assert_eq!(chain.trunk.value("app", style).await, "DateStyle=SQL, DMY");
    chain
        .source
        .run(
            "REVOKE b FROM member; REVOKE ADMIN OPTION FOR a FROM member; DROP ROLE b;
             CREATE ROLE c CREATEDB; GRANT a TO c; ALTER ROLE a CREATEDB; ALTER ROLE a RESET enable_hashjoin;
             ALTER ROLE c SET enable_seqscan = off; ALTER DATABASE app SET timezone = 'UTC'",
        )
        .await;
    assert_same().await;
    assert_eq!(chain.stream().status().warnings, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_the_source_gains_nothing() {
    let mut chain = Chain::prepare(
        "CREATE FUNCTION public.evil(int) RETURNS boolean LANGUAGE plpgsql AS $f$
         BEGIN
           BEGIN RESET ROLE; RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN END;
           BEGIN EXECUTE 'ALTER ROLE postgres SUPERUSER'; EXCEPTION WHEN OTHERS THEN END;
           BEGIN EXECUTE 'SET ROLE ardent_system'; EXCEPTION WHEN OTHERS THEN END;
           BEGIN EXECUTE 'CREATE TABLE public.won AS SELECT pg_read_file(''PG_VERSION'')';
             EXCEPTION WHEN OTHERS THEN END;
           BEGIN EXECUTE 'COPY pg_class TO PROGRAM ''true'''; CREATE TABLE public.ran ();
             EXCEPTION WHEN OTHERS THEN END;
           RETURN true;
         END $f$;
         CREATE FUNCTION public.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN PERFORM public.evil(1); RETURN NEW; END';",
    )
    .await;
    // Made without rows, or the source, where it runs as superuser, would see it work.
    chain
        .on_source(
            "SET session_replication_role = replica;
             CREATE TABLE public.t (id int PRIMARY KEY, v int DEFAULT 1 CHECK (current_user =
             'postgres' OR public.evil(v)));
             CREATE INDEX i ON public.t ((v + 1)) WHERE v > 0;
             CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION
             public.evil_trigger();
             ALTER TABLE public.t ENABLE ALWAYS TRIGGER g; ALTER TABLE public.t DISABLE TRIGGER g;
             INSERT INTO public.t SELECT generate_series(1, 10); ALTER TABLE public.t ENABLE
             ALWAYS TRIGGER g;",
        )
        .await;
    chain.copy().await;
    chain.follow();
    chain.on_source("UPDATE public.t SET v = 2").await;
    chain.assert_equal().await;
    let supers = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper";
    assert_eq!(chain.trunk.value("app", supers).await, "ardent_system");
    let won = "SELECT count(*)::text FROM pg_class WHERE relname IN ('won', 'ran')";
    assert_eq!(chain.trunk.value("app", won).await, "0");
    assert_eq!(chain.warnings.len(), 1, "{:?}", chain.warnings);
    assert!(chain.warnings[0].contains("trigger g"), "{:?}", chain.warnings);
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_tables_are_there_and_empty() {
    let mut chain = Chain::prepare(
        "CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE \"Left out\" (id int PRIMARY KEY);
         CREATE TABLE chi (id int PRIMARY KEY, p int REFERENCES par, q int REFERENCES \"Left out\");
         CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY);
         INSERT INTO par VALUES (1); INSERT INTO \"Left out\" VALUES (1); INSERT INTO chi VALUES
         (1, 1, 1);",
    )
    .await;
    let mut link = chain.source.link();
    link.schemas = vec!["public".into()];
    link.excluded = vec![TableName { schema: "public".into(), name: "Left out".into() }];
    let trunk = chain.trunk.access();
    let outcome = setup(&link, &trunk, means(&bin_dir()), &|_| {}).await.unwrap();
    assert_eq!(outcome.warnings, ["foreign key chi_q_fkey of public.chi is not validated"]);
    chain.replication = Some(Replication::start(link, trunk));
    chain
        .on_source(
            "INSERT INTO \"Left out\" VALUES (2); INSERT INTO chi VALUES (2, 1, 2); INSERT
        INTO other.t VALUES (1)",
        )
        .await;
    chain.catch_up().await;
    let counts = "SELECT (SELECT count(*) FROM public.chi) || ' ' || (SELECT count(*) FROM
    public.\"Left out\")
                    || ' ' || (to_regclass('other.t') IS NULL)";
    assert_eq!(chain.trunk.value("app", counts).await, "2 0 true");
    assert_eq!(chain.stream().status().quarantined, []);
}
