//! The console through the trait the front door uses.

use std::sync::Arc;

use expect_test::{Expect, expect};
use proxy::{Answer, Console, ConsoleSession, NoticeSender, Peer, Refusal, Value};

use super::fake::{Fake, role};
use crate::admin::commands;
use crate::admin::console::AdminConsole;
use crate::admin::operations::Operations;
use crate::admin::request::Level;

fn session(role: &str, is_local_admin: bool) -> ConsoleSession {
    ConsoleSession {
        id: 7,
        role: role.to_owned(),
        is_local_admin,
        peer: Peer::Unix { uid: 0, pid: 0 },
        application_name: String::new(),
    }
}

/// Describes and runs every statement of `sql`; the answers, and the notices on the way.
async fn run_as(
    console: &AdminConsole<Fake>,
    session: &ConsoleSession,
    sql: &str,
) -> Result<(Vec<Answer>, Vec<String>), Refusal> {
    let (notices, mut received) = NoticeSender::channel();
    let mut answers = Vec::new();
    for description in console.describe(sql)? {
        let statement = proxy::Statement {
            text: &sql[description.span.clone()],
            parameters: &[],
            in_transaction: false,
        };
        let answer = console.run(session, statement, notices.clone()).await?;
        assert_eq!(answer.columns, description.columns, "{sql}");
        answers.push(answer);
    }
    drop(notices);
    let mut lines = Vec::new();
    while let Some(notice) = received.recv().await {
        lines.push(notice.message);
    }
    Ok((answers, lines))
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Text(text) => text.clone(),
        Value::Int8(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Float8(number) => number.to_string(),
        Value::Timestamptz(_) => "<time>".to_owned(),
    }
}

async fn check(sql: &str, expected: Expect) {
    let console = AdminConsole::new(Arc::new(Fake::default()));
    let out = match run_as(&console, &session("root", true), sql).await {
        Ok((answers, notices)) => {
            let mut out: String = notices.iter().map(|line| format!("NOTICE {line}\n")).collect();
            for answer in answers {
                out += &format!("{}\n", answer.tag);
                for row in &answer.rows {
                    for (cell, column) in row.iter().zip(&answer.columns) {
                        out += &format!("  {}={}\n", column.name, show(cell));
                    }
                }
            }
            out
        }
        Err(refusal) => {
            let Refusal { sqlstate, message, detail, hint, position, .. } = refusal;
            let [detail, hint] = [detail, hint].map(|text| text.unwrap_or_else(|| "-".to_owned()));
            format!("{sqlstate} {message} {position:?}\nDETAIL {detail}\nHINT {hint}\n")
        }
    };
    expected.assert_eq(&out);
}

#[tokio::test]
async fn answers_have_the_promised_columns() {
    check(
        "ARDENT CONNECTOR PREFLIGHT postgresql 'postgresql://u:p@h/replica'",
        expect![[r#"
            NOTICE Running preflight against db.example.com:5432…
            ARDENT CONNECTOR PREFLIGHT
              ordinal=1
              kind=check
              name=wal level
              status=fail
              detail=actual: replica
              remedy=-
              ordinal=2
              kind=verdict
              name=verdict
              status=fail
              detail=-
              remedy=-
        "#]],
    )
    .await;
    check(
        "ARDENT BRANCH CREATE a; ARDENT BRANCH LIST; ARDENT BRANCH SWITCH a; \
         ARDENT BRANCH DELETE a",
        expect![[r#"
            ARDENT BRANCH CREATE
              name=a
              connector=prod-db
              status=active
              url=postgresql://branch_owner.a:secret@127.0.0.1:6432/app
              lsn=0/155BE40
              commit_time=-
              age_s=-
              stale=false
              unique_bytes=1258291
              shared_bytes=104857600
              reclaimable_bytes=0
              parent=-
              created_at=<time>
              compute_socket=-
              current=true
              warnings=-
              max_size_bytes=-
            ARDENT BRANCH LIST
              name=a
              connector=prod-db
              status=active
              created_at=<time>
              idle_s=150
              current=true
              warnings=-
            ARDENT BRANCH SWITCH
              previous=-
              name=a
              url=postgresql://branch_owner.a:secret@127.0.0.1:6432/app
            ARDENT BRANCH DELETE
              name=a
        "#]],
    )
    .await;
    check(
        "BEGIN; SELECT 1, current_user; COMMIT",
        expect![[r#"
            BEGIN
            SELECT 1
              ?column?=1
              current_user=root
            COMMIT
        "#]],
    )
    .await;
}

/// What is refused for its source carries the report; the URL's password is nowhere.
#[tokio::test]
async fn a_refused_create_carries_the_report() {
    check(
        "ARDENT CONNECTOR CREATE postgresql 'postgresql://u:hunter2@h/replica'",
        expect![[r#"
            ZA001 preflight checks did not pass None
            DETAIL Running preflight against db.example.com:5432…

            Connection checks:
              ✗ wal level (actual: replica)

            ✗ Preflight checks did NOT pass. Fix the failures above before creating.

            HINT Fix the failures above; nothing was created.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn positions_count_from_the_start_of_the_whole_query() {
    check(
        "SELECT 1; ARDENT BRANCH CRAETE a",
        expect![[r#"
            42601 syntax error at or near "CRAETE" Some(25)
            DETAIL Expected one of CREATE, LIST, INFO, SWITCH, DELETE, ROTATE.
            HINT Did you mean "CREATE"?
        "#]],
    )
    .await;
    check(
        "ARDENT SHOW METRICS",
        expect![[r#"
            ARDENT SHOW METRICS
              name=ardent_proxy_sessions
              labels={state="idle"}
              value=2
              kind=gauge
              meaning=Authenticated sessions by state.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn levels_are_held_for_every_command() {
    let fake = Arc::new(Fake::default());
    for level in [Level::Viewer, Level::Operator, Level::Admin] {
        fake.create_role(role(level.as_str(), level)).await.unwrap();
    }
    let console = AdminConsole::new(fake);
    let denied = |role: &'static str, sql: &'static str| {
        let console = &console;
        async move {
            let outcome = run_as(console, &session(role, false), sql).await;
            outcome.is_err_and(|refusal| refusal.sqlstate == "42501")
        }
    };
    assert!(!denied("viewer", "ARDENT BRANCH LIST").await);
    assert!(denied("viewer", "ARDENT BRANCH CREATE a").await);
    assert!(!denied("operator", "ARDENT BRANCH CREATE a").await);
    assert!(denied("operator", "ARDENT CONNECTOR DELETE c").await);
    assert!(!denied("admin", "ARDENT ROLE LIST").await);
    assert!(denied("gone", "ARDENT BRANCH LIST").await);
    let (answers, _) =
        run_as(&console, &session("viewer", false), "ARDENT BRANCH INFO a").await.unwrap();
    let url = answers[0].columns.iter().position(|column| column.name == "url").unwrap();
    assert_eq!(answers[0].rows[0][url], Value::Null, "a viewer sees no URL");
}

#[tokio::test]
async fn roles_log_in_with_the_password_they_were_given() {
    let console = AdminConsole::new(Arc::new(Fake::default()));
    let sql = "ARDENT ROLE CREATE ops PASSWORD 'secret' WITH (level = admin)";
    run_as(&console, &session("root", true), sql).await.unwrap();
    assert!(console.verifier("ops").await.is_some());
    assert!(console.verifier("nobody").await.is_none());
}

#[tokio::test]
async fn help_lists_every_command() {
    let console = AdminConsole::new(Arc::new(Fake::default()));
    let (answers, _) = run_as(&console, &session("root", true), "ARDENT HELP").await.unwrap();
    assert_eq!(answers[0].rows.len(), commands::all().count());
}

#[tokio::test]
async fn there_are_no_rows_to_count() {
    let sql = "SELECT count(*) AS n FROM pg_catalog.pg_class WHERE relkind = 'r'";
    check(
        sql,
        expect![[r#"
        SELECT 1
          n=0
    "#]],
    )
    .await;
    check(
        "SELECT exists(SELECT 1 FROM pg_class)",
        expect![[r#"
        SELECT 1
          exists=false
    "#]],
    )
    .await;
    check(
        "SELECT relname, count(*) FROM pg_class GROUP BY 1",
        expect![[r#"
        SELECT 0
    "#]],
    )
    .await;
}
