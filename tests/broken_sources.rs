//! Sources that Ardent cannot follow as they are: preflight names the fault and the remedy, and
//! applying the printed remedy makes it pass.
//!
//! All cases share one Postgres and one server; each undoes what its remedy left.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::cli::{Ran, bounded};
use crate::support::server::Server;
use crate::support::source::{Source, free_port};
use crate::support::wait::{eventually, within};

/// What is done as the remedy says.
enum Mend {
    /// The grant script is run in psql.
    Script,
    /// The SQL in the remedy is run.
    Sql,
    /// The same, and the server is restarted.
    SqlAndRestart,
    /// The URL is corrected to the source's own.
    Url,
    /// Something that is no SQL: these statements stand for it.
    Otherwise(&'static str),
}

struct Case {
    name: &'static str,
    /// Run as superuser; makes the source unfit.
    breaks: &'static str,
    /// Changes the right URL to the one that is tried: what is replaced, and by what.
    url: (&'static str, &'static str),
    /// The mark and the name of the check that says so, and words of the report.
    says: &'static [&'static str],
    mend: Mend,
    /// Run as superuser afterwards.
    restores: &'static str,
}

const RIGHT_URL: (&str, &str) = ("", "");

const fn case(
    name: &'static str,
    breaks: &'static str,
    says: &'static [&'static str],
    mend: Mend,
    restores: &'static str,
) -> Case {
    Case { name, breaks, url: RIGHT_URL, says, mend, restores }
}

const fn wrong_url(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    says: &'static [&'static str],
) -> Case {
    Case { name, breaks: "", url: (from, to), says, mend: Mend::Url, restores: "" }
}

const BASE: &str = "
    create role app login replication password 'secret';
    create role own; create role own_too;
    create schema billing;
    create table public.orders (id serial primary key, total int);
    create table billing.\"In voice\" (id int primary key);
    grant usage on schema billing to app;
    grant select on all tables in schema public, billing to app;
    grant select on all sequences in schema public to app;
    create database shop; create database old encoding latin1 template template0 lc_collate 'C' lc_ctype 'C'";

const NO_REPLICATION: &str = "alter role app noreplication";

const CASES: &[Case] = &[
    wrong_url(
        "host name",
        "127.0.0.1",
        "no-such-host.invalid",
        &["✗ tcp reachable", "does not resolve"],
    ),
    wrong_url("IPv6 only", "127.0.0.1", "[2001:db8::1]", &["✗ tcp reachable", "IPv6"]),
    wrong_url("password", ":secret@", ":wrong@", &["✗ auth", "Check the password of role app"]),
    wrong_url("unknown role", "//app:", "//nobody:", &["✗ auth", "role nobody"]),
    wrong_url("database", "/postgres", "/absent", &["✗ auth", "absent does not exist"]),
    wrong_url("encoding", "/postgres", "/old", &["✗ postgres metadata", "LATIN1", "UTF8"]),
    wrong_url("TLS there is none", "?", "?sslmode=require&", &["✗ auth", "ssl = on"]),
    wrong_url("no password", ":secret@", "@", &["✗ auth", "Put the password into the URL"]),
    case(
        "role may not log in",
        "alter role app nologin",
        &["✗ auth", "not permitted to log in"],
        Mend::Sql,
        "",
    ),
    case(
        "password has run out",
        "alter role app valid until '2020-01-01'",
        &["✗ auth", "If it is right it has run out"],
        Mend::Sql,
        "",
    ),
    case(
        "password runs out soon",
        "do $$ begin execute format('alter role app valid until %L', now() + interval '3 days'); end $$",
        &["⚠ password", "The password of role app runs out at"],
        Mend::Sql,
        "",
    ),
    case(
        "no CONNECT",
        "revoke connect on database postgres from public",
        &["✗ auth", "GRANT CONNECT"],
        Mend::Sql,
        "grant connect on database postgres to public",
    ),
    case(
        "role is at its limit",
        "alter role app connection limit 0",
        &["✗ auth", "too many connections for role"],
        Mend::Sql,
        "",
    ),
    case(
        "database is at its limit",
        "alter database postgres connection limit 0",
        &["✗ auth", "too many connections for database"],
        Mend::Sql,
        "",
    ),
    Case {
        url: ("/postgres", "/shop"),
        ..case(
            "database takes no connections",
            "alter database shop allow_connections false",
            &["✗ auth", "ALLOW_CONNECTIONS true"],
            Mend::Sql,
            "",
        )
    },
    case(
        "read-only transactions",
        "alter role app set default_transaction_read_only = on",
        &["✗ is writer", "Transactions are read-only"],
        Mend::Sql,
        "alter role app reset all",
    ),
    case(
        "slots are full",
        "select pg_create_physical_replication_slot('theirs_' || n) from generate_series(1, 10) n",
        &["✗ replication slots (10/10 used)", "max_replication_slots"],
        Mend::Sql,
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots; alter system reset all",
    ),
    case(
        "little log is kept",
        "alter system set max_slot_wal_keep_size = '64MB'; select pg_reload_conf()",
        &["⚠ replication slots (0/10 used)", "Only 64 MB of log are kept"],
        Mend::Sql,
        "alter system reset all; select pg_reload_conf()",
    ),
    case(
        "no REPLICATION",
        NO_REPLICATION,
        &["✗ wal senders", "may not replicate"],
        Mend::Script,
        "",
    ),
    case(
        "plugin is not listed",
        "alter system set output_plugin_libraries = pgoutput, test_decoding; select pg_reload_conf()",
        &["✗ wal2json", "is not in output_plugin_libraries"],
        Mend::Sql,
        "",
    ),
    case(
        "prepared transaction",
        "begin; insert into billing.\"In voice\" values (7); prepare transaction 'left'' behind'",
        &["⚠ wal2json", "Prepared transaction left' behind"],
        Mend::Sql,
        "",
    ),
    case(
        "no USAGE",
        "revoke usage on schema billing from app",
        &["✗ can read tables", "Missing USAGE on schema billing"],
        Mend::Script,
        "",
    ),
    case(
        "no SELECT on an odd name",
        "revoke select on billing.\"In voice\" from app",
        &["✗ can read tables", "Missing SELECT on billing.In voice"],
        Mend::Script,
        "",
    ),
    case(
        "no SELECT on a sequence",
        "revoke select on sequence orders_id_seq from app",
        &["✗ can read tables", "Missing SELECT on sequence public.orders_id_seq"],
        Mend::Script,
        "",
    ),
    case(
        "row security",
        "alter table orders enable row level security",
        &["✗ can read tables", "Row security hides rows of public.orders"],
        Mend::Script,
        "alter role app nobypassrls; alter table orders disable row level security",
    ),
    case(
        "reserved role",
        "create role branch_owner; alter table orders owner to branch_owner",
        &["⚠ metadata schema", "role branch_owner", "Rename them"],
        Mend::Otherwise("alter role branch_owner rename to owner_of_branches"),
        "reassign owned by owner_of_branches to postgres; drop role owner_of_branches",
    ),
    case(
        "row security on RDS",
        "create role rds_superuser; create role rds_replication;
         alter table orders owner to own; alter table orders enable row level security",
        &["✗ can read tables", "GRANT \"own\" TO \"app\";", "provider: aws-rds"],
        Mend::Script,
        "revoke create on database postgres from app; revoke own from app; alter table orders disable row level security;
         alter table orders owner to postgres; drop role rds_superuser, rds_replication",
    ),
    case(
        "Aurora",
        "create function aurora_version() returns text language sql return 'imitated';
         create role rds_replication; alter role app noreplication",
        &["✗ wal senders", "GRANT rds_replication TO \"app\";", "provider: aws-aurora"],
        Mend::Script,
        "revoke create on database postgres from app; drop function aurora_version();
         drop role rds_replication",
    ),
    case(
        "Cloud SQL",
        "create role cloudsqlsuperuser; alter role app noreplication",
        &["✗ wal senders", "provider: gcp-cloudsql", "a role with cloudsqlsuperuser"],
        Mend::Script,
        "drop role cloudsqlsuperuser; revoke create on database postgres from app",
    ),
    case(
        "Azure",
        "create role azure_pg_admin; alter role app noreplication",
        &["✗ wal senders", "provider: azure", "a role with azure_pg_admin"],
        Mend::Script,
        "drop role azure_pg_admin",
    ),
    case(
        "Neon",
        "create role neon_superuser; alter role app noreplication",
        &["✗ wal senders", "provider: neon", "a role with neon_superuser"],
        Mend::Script,
        "drop role neon_superuser; revoke create on database postgres from app",
    ),
    case(
        "Supabase",
        "create role supabase_admin; alter role app noreplication",
        &["✗ wal senders", "provider: supabase", "GRANT CREATE ON DATABASE"],
        Mend::Script,
        "drop role supabase_admin; revoke create on database postgres from app",
    ),
    case(
        "PlanetScale",
        "create role pscale_superuser; alter role app noreplication",
        &["✗ wal senders", "provider: planetscale"],
        Mend::Script,
        "drop role pscale_superuser",
    ),
    // Those that take a restart come last.
    case(
        "no senders",
        "alter system set max_wal_senders = 0",
        &["✗ wal senders (max: 0)", "max_wal_senders = 10"],
        Mend::SqlAndRestart,
        "alter system reset all",
    ),
    case(
        "wal level",
        "alter system set wal_level = replica",
        &["✗ wal level (actual: replica)", "ALTER SYSTEM SET wal_level = logical"],
        Mend::SqlAndRestart,
        "",
    ),
];

#[test]
fn preflight_names_the_fault_and_its_remedy_makes_it_pass() {
    let mut source = Source::with(&[("max_prepared_transactions", "5")]);
    // Each by itself: CREATE DATABASE takes no transaction.
    for statement in BASE.split(';') {
        source.sql(statement);
    }
    let server = Server::start();
    for case in CASES {
        check(&server, &mut source, case);
    }
    assert!(CASES.len() >= 30, "{}", CASES.len());
    assert_eq!(source.traces(), "", "something is left on the source");
}

fn check(server: &Server, source: &mut Source, case: &Case) {
    let right = format!("{}?connect_timeout=3", source.url_as("app", "secret"));
    for statement in statements(case.breaks) {
        source.sql(&statement);
    }
    if matches!(case.mend, Mend::SqlAndRestart) {
        source.restart();
    }
    let (from, to) = case.url;
    let tried = if from.is_empty() { right.clone() } else { right.replacen(from, to, 1) };
    // A reload reaches new sessions a moment later.
    let found = within(Duration::from_secs(5), || {
        let ran = preflight(server, &tried);
        case.says.iter().all(|words| ran.stdout.contains(words)).then_some(ran)
    });
    let Some(broken) = found else {
        panic!("{}: {:#?}", case.name, preflight(server, &tried));
    };
    let fails = case.says[0].starts_with('✗');
    assert_eq!(broken.code, if fails { 2 } else { 0 }, "{}: {broken:#?}", case.name);
    apply(source, case, &broken.stdout);
    let url = if matches!(case.mend, Mend::Url) { &right } else { &tried };
    let mended = within(Duration::from_secs(5), || {
        let ran = preflight(server, url);
        (ran.code == 0 && !ran.stdout.contains(case.says[0])).then_some(())
    });
    assert!(mended.is_some(), "{}: {broken:#?}\n{:#?}", case.name, preflight(server, url));
    for statement in statements(case.restores) {
        source.sql(&statement);
    }
}

/// ALTER SYSTEM and CREATE DATABASE run by themselves; a block stays whole.
fn statements(sql: &str) -> Vec<String> {
    if sql.starts_with("begin") || sql.starts_with("do ") {
        return vec![sql.to_owned()];
    }
    let parts = sql.split(';').map(str::trim).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn preflight(server: &Server, url: &str) -> Ran {
    server.ardent(&["connector", "preflight", "postgresql", url])
}

fn apply(source: &mut Source, case: &Case, report: &str) {
    match case.mend {
        Mend::Url => {}
        Mend::Script => {
            let (_, script) = report.split_once("--- Grant script ---\n").expect("a grant script");
            let (script, _) =
                script.split_once("\n\n✗").or(script.split_once("\n\n✓")).expect("an end");
            let script = script.replace(
                "GRANT rds_replication",
                "-- what RDS does then:\nALTER ROLE app REPLICATION; GRANT rds_replication",
            );
            for _again in 0..2 {
                run_script(source, &script);
            }
        }
        Mend::Sql | Mend::SqlAndRestart => {
            let remedies = report.lines().filter_map(|line| line.trim().strip_prefix("→ "));
            let found: Vec<String> = remedies.flat_map(sql_in).collect();
            assert!(!found.is_empty(), "{}: no SQL in {report}", case.name);
            for statement in found {
                source.sql(&statement);
            }
            if matches!(case.mend, Mend::SqlAndRestart) {
                source.restart();
            }
        }
        Mend::Otherwise(sql) => drop(source.sql(sql)),
    }
}

fn run_script(source: &Source, script: &str) {
    let mut command = bounded("psql");
    command.args(["--no-psqlrc", "--quiet", &source.socket_url()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run psql");
    let mut stdin = child.stdin.take().expect("a piped stdin");
    std::io::Write::write_all(&mut stdin, script.as_bytes()).expect("write the script");
    drop(stdin);
    let ran: Ran = child.wait_with_output().expect("psql ends").into();
    assert_eq!(ran.code, 0, "{script}\n{ran:#?}");
}

/// The statements in a remedy: from a keyword in capitals to the semicolon.
fn sql_in(remedy: &str) -> Vec<String> {
    const BEGINNINGS: [&str; 4] = ["ALTER ", "GRANT ", "SELECT pg_", "ROLLBACK PREPARED "];
    let begins = |text: &str| BEGINNINGS.iter().filter_map(|word| text.find(word)).min();
    let mut rest = remedy;
    let mut found = Vec::new();
    while let Some(at) = begins(rest) {
        let Some((statement, after)) = rest[at..].split_once(';') else { break };
        found.push(statement.to_owned());
        rest = after;
    }
    found
}

#[test]
fn a_transaction_that_holds_slots_back_is_named_and_can_be_ended() {
    let source = Source::start();
    source.sql("create table item (id int primary key)");
    let server = Server::start();
    let mut open = open_transaction(&source);
    eventually(Duration::from_secs(10), "a transaction is open", || {
        let open = "select count(*) from pg_stat_activity where backend_xid is not null";
        (source.sql(open) == "1").then_some(())
    });
    let report = server.ardent(&["connector", "preflight", "postgresql", &source.url()]).ok();
    assert!(report.contains("⚠ wal2json\n      A long transaction on the source"), "{report}");
    assert!(report.contains("of role postgres, open for"), "{report}");
    for statement in report.lines().filter(|line| line.contains("→")).flat_map(sql_in) {
        source.sql(&statement);
    }
    let passed = server.ardent(&["connector", "preflight", "postgresql", &source.url()]).ok();
    assert!(passed.contains("✓ wal2json"), "{passed}");
    open.wait().expect("psql ends");
}

fn open_transaction(source: &Source) -> Child {
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", &source.socket_url()]);
    command.args([
        "-c",
        "begin",
        "-c",
        "insert into item values (1)",
        "-c",
        "select pg_sleep(600)",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("run psql")
}

/// A certificate for a host, in PEM, with its key.
fn certificate(host: &str, last_year: i32) -> (String, String) {
    let mut parameters = rcgen::CertificateParams::new(vec![host.to_owned()]).expect("a host name");
    parameters.not_before = rcgen::date_time_ymd(2001, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(last_year, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let signed = parameters.self_signed(&key).expect("a certificate");
    (signed.pem(), key.serialize_pem())
}

#[test]
fn certificates_that_do_not_hold_are_told_apart() {
    let source = Source::start();
    source.sql("create table item (id int primary key)");
    let server = Server::start();
    let root = server.data_dir().with_file_name("root.crt");
    let trusting = format!("{}?sslrootcert={}&sslmode=", source.url(), root.display());
    let shows = |host: &str, last_year: i32| {
        let (shown, key) = certificate(host, last_year);
        std::fs::write(&root, &shown).expect("write the root");
        source.show_certificate(&shown, &key);
    };
    let says = |url: &str, words: &str| {
        let said = || preflight(&server, url).stdout.contains(words).then_some(());
        assert!(within(Duration::from_secs(5), said).is_some(), "{:#?}", preflight(&server, url));
    };
    shows("127.0.0.1", 2020);
    says(&format!("{trusting}verify-full"), "certificate: the one it shows has expired");
    shows("127.0.0.1", 2090);
    says(&format!("{trusting}verify-full"), "✓ Preflight checks passed.");
    says(&format!("{}?sslmode=verify-full", source.url()), "sslrootcert=<file> in the URL");
    shows("db.internal", 2090);
    says(&format!("{trusting}verify-full"), "host name that is in the source's certificate");
    says(&format!("{trusting}verify-ca"), "✓ Preflight checks passed.");
}

#[test]
fn a_read_replica_is_recognised_and_the_writer_it_names_passes() {
    let source = Source::start();
    source.sql("create table item (id int primary key)");
    let standby = source.standby();
    let server = Server::start();
    let report = server.ardent(&["connector", "preflight", "postgresql", &standby.url()]).failed(2);
    assert!(report.contains("✗ is writer\n      Server is a read replica"), "{report}");
    assert!(report.contains("Use the URL of the writer"), "{report}");
    assert!(report.contains(&format!("127.0.0.1:{}", source.port())), "{report}");
    // One fault does not hide what else there is to know.
    assert!(report.contains("✓ can read tables"), "{report}");
    preflight(&server, &source.url()).ok();
    assert_eq!(source.sql("select slot_name from pg_replication_slots"), "");
}

#[test]
fn a_pooler_is_recognised() {
    let source = Source::start();
    source.sql("create table item (id int primary key)");
    let server = Server::start();
    let port = free_port();
    let file = server.data_dir().with_file_name("pgbouncer.ini");
    let users = server.data_dir().with_file_name("users.txt");
    std::fs::write(&users, "\"postgres\" \"source pa%ss\"\n").expect("write users.txt");
    let settings = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {}\nuser = postgres\n",
        source.port(),
        users.display()
    );
    let pooled = source.url().replace(&source.port().to_string(), &port.to_string());
    for ignores in ["", "ignore_startup_parameters = options\n"] {
        std::fs::write(&file, format!("{settings}{ignores}")).expect("write pgbouncer.ini");
        let mut pooler = Command::new("pgbouncer");
        pooler.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut pooler = pooler.spawn().expect("start pgbouncer: run make setup");
        eventually(Duration::from_secs(10), "the pooler listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let report = server.ardent(&["connector", "preflight", "postgresql", &pooled]).failed(2);
        pooler.kill().expect("kill the pooler");
        pooler.wait().expect("reap the pooler");
        assert!(report.contains("connection pooler"), "{report}");
    }
}

#[test]
fn ten_thousand_tables_take_less_than_two_seconds() {
    let source = Source::start();
    for part in 0..10 {
        source.sql(&format!(
            "do $$ begin for n in 1..1000 loop
               execute format('create table t_%s_%s (id int, a int)', {part}, n);
             end loop; end $$"
        ));
    }
    source.sql("create role app login replication password 'secret'");
    let server = Server::start();
    for url in [source.url(), source.url_as("app", "secret")] {
        // Whatever else this machine does only adds to it: the quickest of a few counts.
        let took = (0..5).map(|_| preflight_time(&server, &url)).min().expect("five times");
        println!("preflight of 10,000 tables took {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

fn preflight_time(server: &Server, url: &str) -> Duration {
    let begun = std::time::Instant::now();
    let ran = preflight(server, url);
    assert!(ran.stdout.contains("can read tables"), "{ran:#?}");
    begun.elapsed()
}
