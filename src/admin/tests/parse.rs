//! What statements mean, and what is said about those that mean nothing.

use expect_test::{Expect, expect};

use crate::admin::lexer;
use crate::admin::parser::{self, Parameters};
use crate::admin::syntax::SyntaxError;
use crate::admin::tolerance;

fn describe_error(sql: &str, error: &SyntaxError) -> String {
    let mut out = format!("{} {} at {}\n", error.sqlstate, error.message, error.position(sql));
    for text in error.detail.iter().chain(&error.hint) {
        out += &format!("  {}\n", text.replace(", with a letter", ",\n  with a letter"));
    }
    out
}

#[track_caller]
fn check_with(sql: &str, parameters: &[Option<String>], expected: Expect) {
    let out = match parser::parse(sql, Parameters::Known(parameters)) {
        Ok(parsed) => format!("{:#?}\n", parsed.statement.unwrap()),
        Err(error) => describe_error(sql, &error),
    };
    expected.assert_eq(&out);
}

#[track_caller]
fn check(sql: &str, expected: Expect) {
    check_with(sql, &[], expected);
}

#[test]
fn connector_statements_carry_typed_arguments() {
    check(
        "ardent connector preflight postgresql 'postgresql://u:p@h/d' with (schemas = 'a, b')",
        expect![[r#"
            ConnectorPreflight(
                SourceRequest {
                    url: ***,
                    schemas: [
                        "a",
                        "b",
                    ],
                    plugin: Auto,
                    byoc: false,
                    environment: None,
                    private_link: None,
                },
            )
        "#]],
    );
    check(
        "ARDENT CONNECTOR CREATE postgresql 'x' NAME prod-db WITH (plugin wal2json, \
         replica_identity_decisions = '{\"public.a\": \"add_pk\"}', wait = off)",
        expect![[r#"
            ConnectorCreate(
                CreateConnectorRequest {
                    name: Some(
                        Name(
                            "prod-db",
                        ),
                    ),
                    source: SourceRequest {
                        url: ***,
                        schemas: [],
                        plugin: Wal2json,
                        byoc: false,
                        environment: None,
                        private_link: None,
                    },
                    decisions: Decisions {
                        tables: {
                            "public.a": AddPk,
                        },
                        accept_defaults: false,
                    },
                    setup: true,
                    wait: false,
                },
            )
        "#]],
    );
}

#[test]
fn other_statements_carry_typed_arguments() {
    check(
        "ARDENT CONNECTOR DELETE c FORCE",
        expect![[r#"
            ConnectorDelete {
                name: Name(
                    "c",
                ),
                force: true,
            }
        "#]],
    );
    check(
        "ARDENT CONNECTOR RETRY SETUP c WITH (accept_replica_identity_defaults)",
        expect![[r#"
            ConnectorRetrySetup(
                RetrySetupRequest {
                    name: Name(
                        "c",
                    ),
                    decisions: Decisions {
                        tables: {},
                        accept_defaults: true,
                    },
                    setup: true,
                },
            )
        "#]],
    );
    check(
        "ARDENT BRANCH CREATE pr-7 FROM \"base\" WITH (role = 'app', max_size = 10GB, \
         freshness_timeout = '2min');",
        expect![[r#"
            BranchCreate(
                CreateBranchRequest {
                    name: Name(
                        "pr-7",
                    ),
                    from: Some(
                        Name(
                            "base",
                        ),
                    ),
                    role: Some(
                        "app",
                    ),
                    max_size_bytes: Some(
                        10737418240,
                    ),
                    freshness_timeout: Some(
                        120s,
                    ),
                },
            )
        "#]],
    );
}

#[test]
fn comparisons_may_be_narrowed() {
    check(
        "ARDENT CONNECTOR VERIFY prod WITH (sample = 10, tables = 'public.a, s.b')",
        expect![[r#"
            ConnectorVerify(
                VerifyRequest {
                    name: Some(
                        Name(
                            "prod",
                        ),
                    ),
                    tables: [
                        "public.a",
                        "s.b",
                    ],
                    sample: Some(
                        10,
                    ),
                },
            )
        "#]],
    );
}

#[test]
fn statements_not_built_yet_parse_in_full() {
    check(
        "ARDENT BRANCH INFO -- the current one",
        expect![[r#"
            BranchInfo(
                None,
            )
        "#]],
    );
    check(
        "ARDENT CONNECTOR QUARANTINE LIST prod",
        expect![[r#"
            QuarantineList(
                Name(
                    "prod",
                ),
            )
        "#]],
    );
}

#[test]
fn parameters_stand_for_literals() {
    let values = [Some("pr-1".to_owned()), Some("5s".to_owned()), None];
    check_with(
        "ARDENT BRANCH CREATE $1 WITH (freshness_timeout = $2)",
        &values,
        expect![[r#"
            BranchCreate(
                CreateBranchRequest {
                    name: Name(
                        "pr-1",
                    ),
                    from: None,
                    role: None,
                    max_size_bytes: None,
                    freshness_timeout: Some(
                        5s,
                    ),
                },
            )
        "#]],
    );
    check_with(
        "ARDENT BRANCH DELETE $3",
        &values,
        expect![[r#"
        22004 null value not allowed here at 22
    "#]],
    );
    check_with(
        "ARDENT BRANCH DELETE $4",
        &values,
        expect![[r#"
        42P02 there is no parameter $4 at 22
    "#]],
    );
    let described = parser::parse("ARDENT BRANCH DELETE $1", Parameters::Unknown).unwrap();
    assert!(described.statement.is_none());
}

#[test]
fn errors_say_where_and_what_would_fit() {
    check(
        "ARDENT BRANCH CRAETE b1",
        expect![[r#"
        42601 syntax error at or near "CRAETE" at 15
          Expected one of CREATE, LIST, INFO, SWITCH, DELETE, ROTATE.
          Did you mean "CREATE"?
    "#]],
    );
    check(
        "ARDENT",
        expect![[r#"
            42601 syntax error at end of input at 7
              Expected one of CONNECTOR, BRANCH, ENVIRONMENT, PRIVATE, SETTINGS, ROLE, SHOW, HELP.
        "#]],
    );
    check(
        "ARDENT BRANCH CREATE b1 WITH (rol = 'x')",
        expect![[r#"
        42601 unrecognized option "rol" at 31
          Options here: role, max_size, freshness_timeout.
          Did you mean "role"?
    "#]],
    );
    check(
        "ARDENT BRANCH CREATE b1 WITH (max_size = 'big')",
        expect![[r#"
        22023 invalid value for option "max_size" at 42
          Expected a number with a unit: B, kB, MB, GB or TB, as in '10GB'.
    "#]],
    );
    check(
        "ARDENT BRANCH CREATE b1 WITH (role = 'a', role = 'b')",
        expect![[r#"
        42601 option "role" is given twice at 43
    "#]],
    );
    check(
        "ARDENT BRANCH CREATE b1 WITH (role = 'a'",
        expect![[r#"
        42601 syntax error at end of input at 41
          Expected a comma or a closing parenthesis.
    "#]],
    );
    check(
        "ARDENT BRANCH LIST now",
        expect![[r#"
        42601 syntax error at or near "now" at 20
          Expected end of statement.
    "#]],
    );
    check(
        "ARDENT BRANCH DELETE pr--1",
        expect![[r#"
            42602 invalid name at 22
              A name is 1 to 63 lower-case letters, digits and single hyphens,
              with a letter or digit at both ends.
        "#]],
    );
    check(
        "ARDENT CONNECTOR CREATE postgresql 'x' WITH (plugin = walzjson)",
        expect![[r#"
        22023 invalid value for option "plugin" at 55
          Expected one of auto, wal2json, pgoutput.
          Did you mean "wal2json"?
    "#]],
    );
}

/// A URL in the wrong place is not repeated.
#[test]
fn errors_do_not_repeat_literals() {
    check(
        "ARDENT CONNECTOR PREFLIGHT 'postgresql://u:hunter2@h/d'",
        expect![[r#"
        42601 syntax error at quoted string at 28
          Expected postgresql.
    "#]],
    );
    let texts = [
        "ARDENT BRANCH DELETE 'hunter2 '",
        "ARDENT CONNECTOR CREATE postgresql 'x' NAME 'hunter2 '",
        "ARDENT CONNECTOR CREATE postgresql 'hunter2",
        "ARDENT ROLE CREATE a PASSWORD hunter 'hunter2'",
        "ARDENT CONNECTOR CREATE postgresql 'x' WITH (wait = 'hunter2')",
        "SELECT 'hunter2' || 'b'",
    ];
    for text in texts {
        let error = match text.starts_with("ARDENT") {
            true => parser::parse(text, Parameters::Known(&[])).err().unwrap(),
            false => tolerance::parse(text).err().unwrap(),
        };
        assert!(!describe_error(text, &error).contains("hunter2"), "{text}");
    }
}

#[test]
fn other_sql_is_answered_or_refused_with_a_way_out() {
    let check = |sql: &str, expected: Expect| {
        let out = match tolerance::parse(sql) {
            Ok(foreign) => {
                let names: Vec<_> = foreign.columns().into_iter().map(|c| c.name).collect();
                format!("{} {:?} {names:?}\n", foreign.tag(0), foreign.effect())
            }
            Err(error) => describe_error(sql, &error),
        };
        expected.assert_eq(&out);
    };
    check("begin isolation level serializable", expect![["BEGIN Begin []\n"]]);
    check("rollback to savepoint a", expect![["ROLLBACK RollBackTo []\n"]]);
    check("end", expect![["COMMIT End []\n"]]);
    check("discard all", expect![["DISCARD ALL None []\n"]]);
    check(
        "show transaction isolation level",
        expect![[r#"
        SHOW None ["transaction_isolation_level"]
    "#]],
    );
    check(
        "select 1 as one, version(), current_database()",
        expect![[r#"
        SELECT 0 None ["one", "version", "current_database"]
    "#]],
    );
    check(
        "SELECT n.nspname as \"Schema\", c.relname rel, pg_catalog.pg_get_userbyid(c.o), \
         CASE c.k WHEN 'r' THEN 'x' END, c.oid::regclass, count(*) FROM pg_catalog.pg_class c",
        expect![[r#"
            SELECT 0 None ["Schema", "rel", "pg_get_userbyid", "case", "oid", "count"]
        "#]],
    );
    check(
        "SHOW SESSIONS",
        expect![[r#"
        42704 unrecognized configuration parameter "sessions" at 6
          Write ARDENT SHOW SESSIONS.
    "#]],
    );
    check(
        "SELEKT 1",
        expect![[r#"
        42601 syntax error at or near "SELEKT" at 1
          This is the admin database of Ardent; it holds no tables.
          ARDENT HELP lists all statements.
    "#]],
    );
    check(
        "branch list",
        expect![[r#"
        42601 syntax error at or near "branch" at 1
          This is the admin database of Ardent; it holds no tables.
          The statement begins with ARDENT BRANCH.
    "#]],
    );
    check(
        "select 1 + 1",
        expect![[r#"
        0A000 this expression is not supported in the admin database at 8
          Connect to a branch to run SQL; ARDENT HELP lists what runs here.
    "#]],
    );
}

/// Random texts made of what the grammar is made of: parsed or refused, never a panic, and a
/// position inside the text.
#[test]
fn random_text_never_panics() {
    const PIECES: &str = "ARDENT CONNECTOR BRANCH CREATE LIST DELETE WITH ( ) = , ; ' '' \" $ $1 \
        $a$ -- /* */ E' \\ \\x \\u00e9 pr-1 a--b 10GB postgresql 'x' \u{e9} \u{1f600} \n SELECT \
        FROM AS :: . [ ] DISTINCT CASE SHOW SET \u{0} * 1 HELP";
    let pieces: Vec<_> = PIECES.split(' ').collect();
    // An xorshift by a fixed seed, so that a failure repeats.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(bound).unwrap()).unwrap()
    };
    for _ in 0..20_000 {
        let mut sql = String::from(["ARDENT ", "SELECT ", ""][next(3)]);
        for _ in 0..next(12) {
            sql += pieces[next(pieces.len())];
            sql += ["", " "][next(2)];
        }
        let characters = u32::try_from(sql.chars().count()).unwrap();
        let outcomes = [
            lexer::split(&sql).map(drop),
            parser::parse(&sql, Parameters::Unknown).map(drop),
            tolerance::parse(&sql).map(drop),
        ];
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert!((1..=characters + 1).contains(&error.position(&sql)), "{sql:?}: {error:?}");
        }
    }
}
